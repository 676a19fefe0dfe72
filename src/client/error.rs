//! Errors as a client names them.

use std::fmt::{self, Write};

use crate::protocol::ErrorCode;

/// Why an operation of a client did not succeed. Printed as Kafka names it: the error code's name, or the
/// exception's where the client gave up on its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClientError {
    /// The broker said so; NETWORK_EXCEPTION and REQUEST_TIMED_OUT also stand for a connection lost and a
    /// response overdue (`Sender.handleProduceResponse`).
    #[error("{}", ErrorName(*.0))]
    Broker(ErrorCode),
    /// `delivery.timeout.ms`, `max.block.ms` or `default.api.timeout.ms` passed.
    #[error("TimeoutException")]
    Timeout,
    /// `max.block.ms` passed while `buffer.memory` was full.
    #[error("BufferExhaustedException")]
    BufferExhausted,
    /// Larger than `max.request.size` or `buffer.memory`.
    #[error("RecordTooLargeException")]
    RecordTooLarge,
    /// The client was closed.
    #[error("KafkaException: closed")]
    Closed,
}

/// Prints an error code under Kafka's name: `NOT_ENOUGH_REPLICAS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorName(pub ErrorCode);

impl fmt::Display for ErrorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ErrorCode::Unknown(code) => write!(f, "UNKNOWN({code})"),
            known => write!(ScreamingSnake { out: f, first: true }, "{known:?}"),
        }
    }
}

/// Turns `NotEnoughReplicas` into `NOT_ENOUGH_REPLICAS` on its way out.
struct ScreamingSnake<'a, 'b> {
    out: &'a mut fmt::Formatter<'b>,
    first: bool,
}

impl Write for ScreamingSnake<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if c.is_ascii_uppercase() && !self.first {
                self.out.write_char('_')?;
            }
            self.first = false;
            self.out.write_char(c.to_ascii_uppercase())?;
        }
        Ok(())
    }
}

/// Errors after which cached metadata must be wrong (the subclasses of `InvalidMetadataException`).
pub(super) fn is_invalid_metadata(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::UnknownTopicOrPartition
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::NotLeaderOrFollower
            | ErrorCode::ReplicaNotAvailable
            | ErrorCode::NetworkException
            | ErrorCode::KafkaStorageError
            | ErrorCode::ListenerNotFound
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::PreferredLeaderNotAvailable
            | ErrorCode::EligibleLeadersNotAvailable
            | ErrorCode::ElectionNotNeeded
            | ErrorCode::UnknownTopicId
            | ErrorCode::InconsistentTopicId
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_print_under_kafkas_names() {
        for (code, name) in [
            (7, "REQUEST_TIMED_OUT"),
            (20, "NOT_ENOUGH_REPLICAS_AFTER_APPEND"),
            (17, "INVALID_TOPIC_EXCEPTION"),
            (-1, "UNKNOWN_SERVER_ERROR"),
            (9999, "UNKNOWN(9999)"),
        ] {
            let code = ErrorCode::try_from_code(code).expect("not zero");
            assert_eq!(ClientError::Broker(code).to_string(), name);
        }
    }
}
