//! How far the host's reconciler is, and how others wait for it.

use std::sync::PoisonError;

use event_listener::Event as Bell;

use crate::host::notify::Mutex;

/// How far the host's reconciler is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// There is none.
    Absent,
    /// The reconciler takes over the host, and looks at what is there.
    TakingStock,
    /// As before, and something does not answer.
    Stuck,
    /// The reconciler acts.
    Acting,
}

/// The stage, and a bell for those who wait for the next.
pub(crate) struct Standing {
    stage: Mutex<Stage>,
    bell: Bell,
}

impl Standing {
    pub(crate) fn new() -> Self {
        Self { stage: Mutex::new(Stage::Absent), bell: Bell::new() }
    }

    pub(crate) fn get(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
        self.bell.notify(usize::MAX);
    }

    /// Something does not answer: those who wait are told, unless the host acts already.
    pub(crate) fn stuck(&self) {
        if self.get() == Stage::TakingStock {
            self.set(Stage::Stuck);
        }
    }

    /// Waits while stock is being taken.
    pub(crate) async fn settled(&self) -> Stage {
        loop {
            // Listened to before the look, so that no change falls in between.
            let bell = self.bell.listen();
            match self.get() {
                Stage::TakingStock => bell.await,
                settled => return settled,
            }
        }
    }
}
