//! Telling everybody in this process what happens, live.
//!
//! A bounded ring that readers follow at their own pace. A reader that falls behind the ring is told so
//! with the position to resume from; it never holds up the others, and the ring never grows.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use event_listener::Event;

use crate::host::notify::Mutex;
use crate::id::{Position, RentalId};
use crate::model::{JournalEntry, Rental};
use crate::runtime::Progress;

/// How many updates the ring holds. Each may have a rental of its own, of some kilobytes and at most a hundred.
pub const FEED_CAPACITY: usize = 1024;

/// Something a subscriber hears.
#[derive(Clone, Debug)]
pub enum Update {
    /// An event was published in the journal.
    Event {
        /// The event, and where it stands in the journal.
        entry: Arc<JournalEntry>,
        /// The rental that it happened to, as it was then or later; `None` where the store has it no more, as one that was set
        /// back.
        rental: Option<Arc<Rental>>,
    },
    /// A pull goes on. Not stored; only the latest matters.
    Progress {
        /// The rental whose image is pulled, as it was when the pull began.
        rental: Arc<Rental>,
        /// How far.
        progress: Progress,
    },
}

impl Update {
    /// The rental that the update is about, where the update has it.
    #[must_use]
    pub fn rental(&self) -> Option<&Arc<Rental>> {
        match self {
            Self::Event { rental, .. } => rental.as_ref(),
            Self::Progress { rental, .. } => Some(rental),
        }
    }
}

/// A subscriber was too slow; what it missed is in the journal after `resume_after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fell behind; the journal has what was missed after position {resume_after}")]
pub struct Lagged {
    /// The last position that the subscriber was given.
    pub resume_after: Position,
}

#[derive(Default)]
struct Ring {
    /// The number of the first update in the ring.
    first: u64,
    updates: VecDeque<Update>,
    last_position: Position,
    /// Whether that is known yet.
    begun: bool,
}

impl Default for Position {
    fn default() -> Self {
        Position::ZERO
    }
}

/// The ring, and the event that wakes its readers.
#[derive(Default)]
pub(crate) struct Feed {
    ring: Mutex<Ring>,
    changed: Event,
}

impl Feed {
    pub(crate) fn push(&self, update: Update) {
        {
            let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            if let Update::Event { entry, .. } = &update {
                ring.last_position = entry.position;
            }
            ring.updates.push_back(update);
            if ring.updates.len() > FEED_CAPACITY {
                ring.updates.pop_front();
                ring.first += 1;
            }
        }
        self.changed.notify(usize::MAX);
    }

    /// Says where the journal stands before anything is pushed.
    pub(crate) fn begin_at(&self, position: Position) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last_position = ring.last_position.max(position);
        ring.begun = true;
    }

    /// The last position that was published, as far as this process knows.
    pub(crate) fn last_position(&self) -> Option<Position> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.begun.then_some(ring.last_position)
    }

    pub(crate) fn subscribe(self: &Arc<Self>) -> Subscription {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let next = ring.first + ring.updates.len() as u64;
        let resume_after = ring.last_position;
        drop(ring);
        Subscription { feed: Arc::clone(self), next, resume_after }
    }
}

/// Follows what happens, from the moment it was made.
pub struct Subscription {
    feed: Arc<Feed>,
    next: u64,
    resume_after: Position,
}

impl Subscription {
    /// Waits for a rental's next event, and gives the rental as it was then or later; `None` where the store had it no more.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`Lagged`] where updates were missed; the subscription goes on with the oldest it can have.
    pub async fn next_of(&mut self, id: RentalId) -> Result<Option<Arc<Rental>>, Lagged> {
        loop {
            match self.next().await? {
                Update::Event { entry, rental } if entry.rental == id => return Ok(rental),
                Update::Event { .. } | Update::Progress { .. } => {}
            }
        }
    }

    /// The next update. Cancel-safe.
    ///
    /// # Errors
    /// [`Lagged`] where updates were missed; the subscription goes on with the oldest it can have.
    pub async fn next(&mut self) -> Result<Update, Lagged> {
        loop {
            // Listened to before the look, so that no news falls in between.
            let listener = self.feed.changed.listen();
            if let Some(found) = self.look() {
                return found;
            }
            listener.await;
        }
    }

    fn look(&mut self) -> Option<Result<Update, Lagged>> {
        let ring = self.feed.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if self.next < ring.first {
            self.next = ring.first;
            return Some(Err(Lagged { resume_after: self.resume_after }));
        }
        let index = usize::try_from(self.next - ring.first).ok()?;
        let update = ring.updates.get(index)?.clone();
        self.next += 1;
        if let Update::Event { entry, .. } = &update {
            self.resume_after = entry.position;
        }
        Some(Ok(update))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::rental::tests::claimed;

    fn progress(n: u64) -> Update {
        let progress = Progress { current_bytes: n, ..Progress::default() };
        Update::Progress { rental: Arc::new(claimed().0), progress }
    }

    #[test]
    fn a_slow_reader_is_told_and_goes_on() {
        let feed = Arc::new(Feed::default());
        let mut slow = feed.subscribe();
        for n in 0..(FEED_CAPACITY as u64 + 10) {
            feed.push(progress(n));
        }
        futures_executor::block_on(async {
            assert_eq!(slow.next().await.unwrap_err().resume_after, Position::ZERO);
            let Update::Progress { progress, .. } = slow.next().await.unwrap() else { panic!("an event?") };
            assert_eq!(progress.current_bytes, 10);
        });
    }
}
