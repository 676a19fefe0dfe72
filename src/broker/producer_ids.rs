//! InitProducerId, and the block of producer ids that this broker gives out (`RPCProducerIdManager`; of
//! `TransactionCoordinator.handleInitProducerId` the part without a transactional id).

use std::ops::Range;
use std::time::Duration;

use kafka_protocol::messages::{
    AllocateProducerIdsRequest, AllocateProducerIdsResponse, InitProducerIdRequest, InitProducerIdResponse,
};

use super::Broker;
use super::connections::ReplyTo;
use crate::log::batch::{NO_PRODUCER_EPOCH, NO_PRODUCER_ID};
use crate::protocol::ErrorCode;
use crate::world::{Endpoint, Time};

/// `ProducerIdManager.RetryBackoffMs`: after the controller refused a block.
const RETRY_BACKOFF: Duration = Duration::from_millis(50);

/// The ids at hand. They end with the process: who starts anew asks for a new block.
#[derive(Default)]
pub(super) struct ProducerIds {
    current: Range<i64>,
    /// Once this one is given out the next block is asked for: nine tenths into the current one.
    prefetch_at: i64,
    next: Option<Range<i64>>,
    is_in_flight: bool,
    retry_at: Option<Time>,
}

impl ProducerIds {
    /// The next id, if there is one. The flag says whether a block should be asked for now.
    fn generate(&mut self, now: Time) -> (Option<i64>, bool) {
        if self.current.is_empty()
            && let Some(next) = self.next.take()
        {
            self.prefetch_at = next.start + (next.end - next.start) * 9 / 10;
            self.current = next;
            self.is_in_flight = false;
        }
        let id = self.current.next();
        let is_wanted = id.is_none_or(|id| id == self.prefetch_at);
        let may_ask = !self.is_in_flight && self.next.is_none() && self.retry_at.is_none_or(|at| at <= now);
        if is_wanted && may_ask {
            self.is_in_flight = true;
            self.retry_at = None;
        }
        (id, is_wanted && may_ask)
    }

    /// The controller's answer; `None`: there was none in time.
    fn on_block(&mut self, now: Time, answer: Option<&AllocateProducerIdsResponse>) {
        let Some(answer) = answer else {
            self.is_in_flight = false;
            return;
        };
        let (start, length) = (answer.producer_id_start.0, i64::from(answer.producer_id_len));
        let end = start.checked_add(length).filter(|_| start >= 0 && length >= 0);
        match end {
            Some(end) if answer.error_code == 0 && start >= self.current.end => self.next = Some(start..end),
            Some(_) | None => {
                self.retry_at = Some(now + RETRY_BACKOFF);
                self.is_in_flight = false;
            }
        }
    }
}

impl Broker {
    /// A producer without a transactional id gets a new id, whatever it had before. COORDINATOR_LOAD_IN_PROGRESS while
    /// the broker waits for a block: the first one is asked for by the first producer.
    pub(super) fn handle_init_producer_id(
        &mut self,
        now: Time,
        to: ReplyTo,
        request: &InitProducerIdRequest,
        net: &mut Endpoint,
    ) {
        let had_id = request.producer_id.0 != NO_PRODUCER_ID;
        let had_epoch = request.producer_epoch != NO_PRODUCER_EPOCH;
        let id = if had_id != had_epoch {
            Err(ErrorCode::InvalidRequest)
        } else if request.transactional_id.is_some() {
            // There is no transaction coordinator.
            Err(ErrorCode::CoordinatorNotAvailable)
        } else {
            let (id, wants_block) = self.producer_ids.generate(now);
            if wants_block {
                let request = AllocateProducerIdsRequest::default()
                    .with_broker_id(self.env.id.0.into())
                    .with_broker_epoch(self.env.broker_epoch.0);
                self.forward_own(now, request, net);
            }
            id.ok_or(ErrorCode::CoordinatorLoadInProgress)
        };
        let response = match id {
            Ok(id) => InitProducerIdResponse::default().with_producer_id(id.into()).with_producer_epoch(0),
            Err(error) => InitProducerIdResponse::default()
                .with_error_code(error.code())
                .with_producer_id(NO_PRODUCER_ID.into())
                .with_producer_epoch(NO_PRODUCER_EPOCH),
        };
        self.connections.respond::<InitProducerIdRequest>(to, &response, net);
    }

    pub(super) fn on_producer_ids(&mut self, now: Time, answer: Option<&AllocateProducerIdsResponse>) {
        self.producer_ids.on_block(now, answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(start: i64, length: i32) -> AllocateProducerIdsResponse {
        AllocateProducerIdsResponse::default().with_producer_id_start(start.into()).with_producer_id_len(length)
    }

    #[test]
    fn the_next_block_is_asked_for_when_nine_tenths_are_given_out() {
        let mut ids = ProducerIds::default();
        assert_eq!(ids.generate(Time::ZERO), (None, true));
        assert_eq!(ids.generate(Time::ZERO), (None, false), "one request at a time");
        ids.on_block(Time::ZERO, Some(&block(1_000, 10)));
        let given: Vec<_> = (0..10).map(|_| ids.generate(Time::ZERO)).collect();
        let asked: Vec<_> = given.iter().filter(|(_, asks)| *asks).map(|(id, _)| *id).collect();
        assert_eq!(asked, [Some(1_009)]);
        assert_eq!(ids.generate(Time::ZERO), (None, false), "used up before the next came");
        ids.on_block(Time::ZERO, Some(&block(5_000, 10)));
        assert_eq!(ids.generate(Time::ZERO).0, Some(5_000));
    }

    #[test]
    fn a_refusal_is_followed_by_a_backoff_and_a_timeout_is_not() {
        let mut ids = ProducerIds::default();
        let stale = AllocateProducerIdsResponse::default().with_error_code(ErrorCode::StaleBrokerEpoch.code());
        assert_eq!(ids.generate(Time::ZERO), (None, true));
        ids.on_block(Time::ZERO, Some(&stale));
        assert_eq!(ids.generate(Time::from_millis(49)), (None, false));
        assert_eq!(ids.generate(Time::from_millis(50)), (None, true));
        ids.on_block(Time::from_millis(60), None);
        assert_eq!(ids.generate(Time::from_millis(60)), (None, true));
    }

    #[test]
    fn a_block_that_goes_back_is_not_taken() {
        let mut ids = ProducerIds::default();
        ids.on_block(Time::ZERO, Some(&block(1_000, 1)));
        assert_eq!(ids.generate(Time::ZERO).0, Some(1_000));
        ids.on_block(Time::ZERO, Some(&block(0, 1_000)));
        assert_eq!(ids.generate(Time::from_millis(50)).0, None);
    }
}
