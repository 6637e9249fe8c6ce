//! For how long a process may act for its host without asking again.
//!
//! Whoever takes a host over begins a new epoch, and the former holder finds out when it next asks. In
//! between it must not touch the engine: it may have been stopped for minutes (SIGSTOP), and go on in the middle of
//! something that others have long done. So every change of the engine
//! needs a confirmation that is not older than the lease.

use std::sync::Arc;
use std::time::Duration;

use event_listener::Event;
use futures_util::{FutureExt, select_biased};

use crate::clock::{BootInstant, Clock, Sleep};
use crate::host::notify::atomic::{AtomicBool, AtomicI64, Ordering};
use crate::host::notify::listen;

/// The confirmation was too long ago, or there was none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host was not confirmed to be ours for too long")]
pub(crate) struct Lapsed;

/// One holder's lease on its host. Its copies are the same lease.
#[derive(Clone)]
pub(crate) struct Lease {
    clock: Arc<dyn Clock>,
    held: Arc<Held>,
}

struct Held {
    /// On the boot clock, in microseconds.
    until: AtomicI64,
    /// Whether the holder acts on it; it may have to read everything again first.
    used: AtomicBool,
    /// Rung when it is no longer used.
    changed: Event,
}

impl Lease {
    pub(crate) fn none(clock: Arc<dyn Clock>) -> Self {
        let held = Held {
            until: AtomicI64::new(BootInstant::EARLIEST.micros()),
            used: AtomicBool::new(false),
            changed: Event::new(),
        };
        Self { clock, held: Arc::new(held) }
    }

    fn now(&self) -> BootInstant {
        self.clock.now().instant()
    }

    /// The host was ours at `asked_at`, when the question was sent.
    pub(crate) fn renew(&self, asked_at: BootInstant, length: Duration) {
        self.held.until.fetch_max(asked_at.after(length).micros(), Ordering::SeqCst);
    }

    /// Nothing is known any more.
    pub(crate) fn end(&self) {
        self.held.until.store(BootInstant::EARLIEST.micros(), Ordering::SeqCst);
        self.held.changed.notify(usize::MAX);
    }

    /// The holder acts on it from now on, or no longer.
    pub(crate) fn set_used(&self, used: bool) {
        if self.held.used.swap(used, Ordering::SeqCst) && !used {
            self.held.changed.notify(usize::MAX);
        }
    }

    /// Whether somebody acts on it.
    pub(crate) fn is_used(&self) -> bool {
        self.left().is_some() && self.held.used.load(Ordering::SeqCst)
    }

    /// Ends as soon as nobody acts for the host: with a lapse, or when the holder says so.
    pub(crate) async fn unused(&self, sleep: &dyn Sleep) {
        loop {
            // Listened to before the look, so that no change falls in between.
            let listener = listen(&self.held.changed);
            let Some(left) = self.left().filter(|_| self.held.used.load(Ordering::SeqCst)) else { return };
            let mut listener = listener.fuse();
            let mut timer = sleep.sleep(left).fuse();
            select_biased! {
                () = listener => {}
                () = timer => {}
            }
        }
    }

    /// How long it still lasts; `None` once it has lapsed.
    pub(crate) fn left(&self) -> Option<Duration> {
        let left = self.held.until.load(Ordering::SeqCst).saturating_sub(self.now().micros());
        u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_micros)
    }

    /// Whether the engine may be changed now.
    pub(crate) fn check(&self) -> Result<(), Lapsed> {
        self.left().map(|_| ()).ok_or(Lapsed)
    }
}
