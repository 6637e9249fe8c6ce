//! For how long a process may act for its host without asking again.
//!
//! Whoever takes a host over begins a new epoch, and the former holder finds out when it next asks. In
//! between it must not touch the engine: it may have been stopped for minutes (SIGSTOP, a frozen virtual
//! machine), and go on in the middle of something that others have long done. So every change of the engine
//! needs a confirmation that is not older than the lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::clock::Clock;

/// The confirmation was too long ago, or there was none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host was not confirmed to be ours for too long")]
pub(crate) struct Lapsed;

/// One holder's lease on its host. Its copies are the same lease.
#[derive(Clone)]
pub(crate) struct Lease {
    clock: Arc<dyn Clock>,
    /// On the boot clock, in microseconds.
    until: Arc<AtomicI64>,
}

impl Lease {
    pub(crate) fn none(clock: Arc<dyn Clock>) -> Self {
        Self { clock, until: Arc::new(AtomicI64::new(i64::MIN)) }
    }

    fn now(&self) -> i64 {
        self.clock.now().boot.micros
    }

    /// The host was ours at `asked_at`, when the question was sent.
    pub(crate) fn renew(&self, asked_at: i64, length: Duration) {
        let until = asked_at.saturating_add(i64::try_from(length.as_micros()).unwrap_or(i64::MAX));
        self.until.fetch_max(until, Ordering::SeqCst);
    }

    /// Nothing is known any more.
    pub(crate) fn end(&self) {
        self.until.store(i64::MIN, Ordering::SeqCst);
    }

    /// How long it still lasts; `None` once it has lapsed.
    pub(crate) fn left(&self) -> Option<Duration> {
        let left = self.until.load(Ordering::SeqCst).saturating_sub(self.now());
        u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_micros)
    }

    /// Whether the engine may be changed now.
    pub(crate) fn check(&self) -> Result<(), Lapsed> {
        self.left().map(|_| ()).ok_or(Lapsed)
    }
}
