//! Primitives that tasks share, and by which they wake each other: std's own, or loom's, which tries every interleaving
//! (`interleavings`, run by `scripts/test` with `--cfg loom`).

use std::sync::PoisonError;
#[cfg(not(loom))]
pub(crate) use std::sync::{Mutex, atomic};

use atomic::{Ordering, fence};
use event_listener::{Event, EventListener};
#[cfg(loom)]
pub(crate) use loom::sync::{Mutex, atomic};

/// Listens for an event before an atomic is looked at. Where the look is inside a mutex, its order comes with that;
/// an atomic needs the fence: on machines with weak memory (arm64) the look could otherwise come first, and
/// news fall in between.
pub(crate) fn listen(event: &Event) -> EventListener {
    let listener = event.listen();
    fence(Ordering::SeqCst);
    listener
}

/// Tells one task that there is something to do. What was told before it listened is kept.
///
/// The flag lies in a mutex: as an atomic, loom finds interleavings in which a notification is slept through.
pub(crate) struct Notify {
    pending: Mutex<bool>,
    changed: Event,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self { pending: Mutex::new(false), changed: Event::new() }
    }

    pub(crate) fn notify(&self) {
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify(usize::MAX);
    }

    /// Ends with the next [`notify`](Self::notify). To be made before [`taken`](Self::taken) is asked, so that none falls in between.
    pub(crate) fn listen(&self) -> EventListener {
        self.changed.listen()
    }

    /// Whether it was notified since this was asked last.
    pub(crate) fn taken(&self) -> bool {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
