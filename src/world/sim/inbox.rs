//! What is on its way to one receiver, by time of arrival.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::task::{Context, Waker};

use super::clock::{Alarm, Clock};
use crate::world::Time;

/// A value and when it arrives. Ordered so that a max-heap yields the earliest first, then the first pushed.
pub(super) struct Due<T> {
    pub(super) at: Time,
    sequence: u64,
    pub(super) what: T,
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Due<T>) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Due<T> {}

impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Due<T>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Due<T> {
    fn cmp(&self, other: &Due<T>) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// The queue of one receiving task. Senders push into it directly, with the time of arrival.
pub(super) struct Inbox<T> {
    queue: BinaryHeap<Due<T>>,
    pushed: u64,
    /// The receiver, once it has waited.
    waker: Option<Waker>,
    is_waiting: bool,
    alarm: Alarm,
}

impl<T> Inbox<T> {
    pub(super) fn new(clock: &Clock) -> Inbox<T> {
        Inbox { queue: BinaryHeap::new(), pushed: 0, waker: None, is_waiting: false, alarm: clock.alarm() }
    }

    pub(super) fn push(&mut self, at: Time, what: T, now: Time) {
        self.queue.push(Due { at, sequence: self.pushed, what });
        self.pushed += 1;
        if let (true, Some(waker)) = (self.is_waiting, &self.waker) {
            if at <= now {
                waker.wake_by_ref();
            } else {
                self.alarm.arm(at, waker);
            }
        }
    }

    /// The receiver runs: until it waits again, a push need not wake it.
    pub(super) fn wake(&mut self, now: Time) {
        self.is_waiting = false;
        self.alarm.expire(now);
    }

    /// Takes the next value if it has arrived.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<T> {
        let is_due = self.queue.peek().is_some_and(|next| next.at <= now);
        if is_due { self.queue.pop().map(|due| due.what) } else { None }
    }

    /// The next value, and when it arrives or arrived.
    pub(super) fn peek(&self) -> Option<(Time, &T)> {
        self.queue.peek().map(|next| (next.at, &next.what))
    }

    /// Arranges for the receiver to be woken by the next arrival or at `deadline`, which must be in the future.
    pub(super) fn wait(&mut self, deadline: Option<Time>, context: &mut Context<'_>) {
        let arrival = self.queue.peek().map(|next| next.at);
        let until = [arrival, deadline].into_iter().flatten().min();
        self.wait_until(until, context);
    }

    /// Arranges for the receiver to be woken at `until`, in the future, or by what is pushed from now on.
    pub(super) fn wait_until(&mut self, until: Option<Time>, context: &mut Context<'_>) {
        let waker = match &mut self.waker {
            Some(waker) => {
                waker.clone_from(context.waker());
                waker
            }
            none => none.insert(context.waker().clone()),
        };
        self.is_waiting = true;
        if let Some(at) = until {
            self.alarm.arm(at, waker);
        }
    }

    /// Wakes the receiver if it waits: what it waits for has changed.
    pub(super) fn nudge(&mut self) {
        if let (true, Some(waker)) = (self.is_waiting, &self.waker) {
            waker.wake_by_ref();
        }
    }

    /// Takes out what `chosen` chooses, in order of arrival.
    pub(super) fn extract(&mut self, mut chosen: impl FnMut(&Due<T>) -> bool) -> Vec<Due<T>> {
        let (mut extracted, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.queue).into_vec().into_iter().partition(|due| chosen(due));
        self.queue = kept.into();
        extracted.sort_by(|a, b| b.cmp(a));
        extracted
    }
}
