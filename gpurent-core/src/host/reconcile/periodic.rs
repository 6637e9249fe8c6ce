//! A periodic task of the loop: due at a time, at most once in flight, slower after failures.

use std::time::Duration;

use crate::clock::BootInstant;

/// A periodic task.
#[derive(Debug)]
pub(super) struct PeriodicTask {
    due: BootInstant,
    in_flight: bool,
    /// Asked for while in flight: due again as soon as that ends.
    again: bool,
    failures: u32,
}

impl PeriodicTask {
    /// A task that is due at once.
    pub(super) fn due_now() -> Self {
        Self { due: BootInstant::EARLIEST, in_flight: false, again: false, failures: 0 }
    }

    /// A task that is due once it is asked for.
    pub(super) fn idle() -> Self {
        Self { due: BootInstant::LATEST, ..Self::due_now() }
    }

    /// As [`request`](Self::request), but one that fails keeps its pauses.
    pub(super) fn request_unless_failing(&mut self) {
        if self.failures == 0 {
            self.request();
        }
    }

    /// Makes it due as soon as possible.
    pub(super) fn request(&mut self) {
        if self.in_flight {
            self.again = true;
        } else {
            self.due = BootInstant::EARLIEST;
        }
    }

    /// Whether to begin it now; if so it counts as in flight.
    pub(super) fn begin(&mut self, now: BootInstant) -> bool {
        let begins = !self.in_flight && self.due <= now;
        self.in_flight |= begins;
        begins
    }

    /// Ends a try that went well; due again after `period`.
    pub(super) fn finished(&mut self, now: BootInstant, period: Duration) {
        self.failures = 0;
        self.finish(now, period);
    }

    /// Ends a try that failed; due again after a pause that grows up to `most`.
    pub(super) fn failed(&mut self, now: BootInstant, most: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.again = false;
        self.finish(now, backoff(self.failures, most));
    }

    /// Whether the last try failed, so that what it did is in doubt.
    pub(super) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    fn finish(&mut self, now: BootInstant, pause: Duration) {
        self.in_flight = false;
        self.due = if std::mem::take(&mut self.again) { now } else { now.after(pause) };
    }

    /// When it is due; `None` while it is in flight.
    pub(super) fn due(&self) -> Option<BootInstant> {
        (!self.in_flight).then_some(self.due)
    }
}

/// 100 ms, doubled with every failure in a row, at most `most`.
pub(super) fn backoff(failures: u32, most: Duration) -> Duration {
    Duration::from_millis(100).saturating_mul(1 << failures.saturating_sub(1).min(16)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_for_while_in_flight_means_once_more() {
        let at = BootInstant::from_micros;
        let mut task = PeriodicTask::due_now();
        assert!(task.begin(at(0)) && !task.begin(at(0)));
        task.request();
        task.finished(at(5), Duration::from_secs(9));
        assert_eq!(task.due(), Some(at(5)));
        assert!(task.begin(at(5)));
        task.finished(at(5), Duration::from_micros(7));
        assert_eq!(task.due(), Some(at(12)));
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let most = Duration::from_secs(15);
        assert_eq!(backoff(1, most), Duration::from_millis(100));
        assert_eq!(backoff(3, most), Duration::from_millis(400));
        assert_eq!(backoff(u32::MAX, most), most);
    }
}
