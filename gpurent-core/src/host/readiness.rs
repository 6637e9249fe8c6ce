//! How far the host's reconciler is, and how others wait for it.

use std::sync::PoisonError;

use event_listener::Event;

use crate::host::notify::Mutex;

/// How far the host's reconciler is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// There is none.
    NoReconciler,
    /// The reconciler acquires the host, and looks at what is there.
    Starting,
    /// As before, and something does not answer.
    Stalled,
    /// The reconciler acts.
    Ready,
}

/// The host's readiness, which others can wait for.
pub(crate) struct ReadinessCell {
    readiness: Mutex<Readiness>,
    changed: Event,
}

impl ReadinessCell {
    pub(crate) fn new() -> Self {
        Self { readiness: Mutex::new(Readiness::NoReconciler), changed: Event::new() }
    }

    pub(crate) fn get(&self) -> Readiness {
        *self.readiness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, readiness: Readiness) {
        *self.readiness.lock().unwrap_or_else(PoisonError::into_inner) = readiness;
        self.changed.notify(usize::MAX);
    }

    /// Something does not answer: those who wait are told, unless the host acts already.
    pub(crate) fn stalled(&self) {
        if self.get() == Readiness::Starting {
            self.set(Readiness::Stalled);
        }
    }

    /// Waits while the reconciler starts.
    pub(crate) async fn settled(&self) -> Readiness {
        loop {
            // Listened to before the look, so that no change falls in between.
            let listener = self.changed.listen();
            match self.get() {
                Readiness::Starting => listener.await,
                settled => return settled,
            }
        }
    }
}
