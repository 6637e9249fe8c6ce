//! Following a host's journal from any position on, without a gap: what was stored before, then what
//! happens, each event once and in order. One rental is followed by its own events.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::host::context::HostContext;
use crate::host::{Subscription, Update};
use crate::id::{Position, RentalId, Seq};
use crate::model::{JournalEntry, RecordedEvent, RentalEvent};
use crate::runtime::Progress;
use crate::store::StoreError;

/// How many entries are read at once.
const BATCH: usize = 200;

/// Something a follower is told.
#[derive(Clone, Debug)]
pub enum Followed {
    /// The next entry of the journal.
    Entry(Arc<JournalEntry>),
    /// A pull goes on. Not stored, and not told to followers that are still catching up.
    Progress {
        /// The rental whose image is pulled.
        rental: RentalId,
        /// How far.
        progress: Progress,
    },
}

/// Follows a journal. Made by [`Rentals::follow`](crate::host::Rentals::follow); live only in the process that runs the reconciler.
pub struct Follower {
    host: Arc<HostContext>,
    live: Subscription,
    read_ahead: VecDeque<JournalEntry>,
    /// Whether the journal may hold more than was read.
    behind: bool,
    at: Position,
}

impl Follower {
    pub(crate) fn new(host: Arc<HostContext>, live: Subscription, after: Position) -> Self {
        Self { host, live, read_ahead: VecDeque::new(), behind: true, at: after }
    }

    /// The position of the last entry that was told: where another follower resumes.
    #[must_use]
    pub fn position(&self) -> Position {
        self.at
    }

    /// Waits for the next entry or progress. Cancel-safe.
    ///
    /// # Errors
    /// [`StoreError`]: the journal cannot be read now; asked again, it goes on where it was.
    pub async fn next(&mut self) -> Result<Followed, StoreError> {
        loop {
            if let Some(entry) = self.read_ahead.pop_front() {
                self.at = entry.position;
                return Ok(Followed::Entry(Arc::new(entry)));
            }
            if self.behind {
                let page = self.host.store.journal(&self.host.host, self.at, BATCH).await?;
                self.behind = page.len() == BATCH;
                self.read_ahead.extend(page);
                continue;
            }
            match self.live.next().await {
                Ok(Update::Event { entry, .. }) if entry.position <= self.at => {}
                Ok(Update::Event { entry, .. }) if entry.position == self.at.next() => {
                    self.at = entry.position;
                    return Ok(Followed::Entry(entry));
                }
                // A gap, or the ring has moved on: the journal has all of it.
                Ok(Update::Event { .. }) | Err(_) => self.behind = true,
                Ok(Update::Progress { rental, progress }) => {
                    return Ok(Followed::Progress { rental: rental.id(), progress });
                }
            }
        }
    }
}

/// Something that a follower of one rental is told.
#[derive(Clone, Debug)]
pub enum RentalUpdate {
    /// The rental's next event.
    Event(RecordedEvent),
    /// The pull of its image goes on. Not stored, and not told while stored events are still read.
    Progress(Progress),
}

/// Follows one rental, each event once and in order. Made by
/// [`Rentals::follow_rental`](crate::host::Rentals::follow_rental).
pub struct RentalFollower {
    host: Arc<HostContext>,
    live: Subscription,
    rental: RentalId,
    read_ahead: VecDeque<RecordedEvent>,
    /// Whether the store may hold more than was read.
    behind: bool,
    at: Seq,
    has_ended: bool,
}

impl RentalFollower {
    pub(crate) fn new(host: Arc<HostContext>, live: Subscription, rental: RentalId, after: Seq) -> Self {
        Self { host, live, rental, read_ahead: VecDeque::new(), behind: true, at: after, has_ended: false }
    }

    /// The number of the last event that was told: where another follower resumes.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.at
    }

    /// Waits for the next event or progress; `None` once the rental's end was told, or where there is no such rental.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`StoreError`]: the events cannot be read now; asked again, it goes on where it was.
    pub async fn next(&mut self) -> Result<Option<RentalUpdate>, StoreError> {
        loop {
            if self.has_ended {
                return Ok(None);
            }
            if let Some(event) = self.read_ahead.pop_front() {
                return Ok(Some(self.tell(event)));
            }
            if self.behind {
                let page = self.host.store.events(self.rental, self.at, BATCH).await?;
                if page.is_empty() {
                    // It may have ended before where this one begins, or there is none: nothing would ever be told.
                    let rental = self.host.store.get(self.rental).await?;
                    self.has_ended = rental.is_none_or(|rental| !rental.is_live() && rental.last_seq() <= self.at);
                }
                self.behind = page.len() == BATCH;
                self.read_ahead.extend(page);
                continue;
            }
            match self.live.next().await {
                Ok(Update::Event { entry, .. }) if entry.rental != self.rental || entry.recorded.seq <= self.at => {}
                Ok(Update::Event { entry, .. }) if entry.recorded.seq == self.at.next() => {
                    return Ok(Some(self.tell(entry.recorded.clone())));
                }
                // A gap, or the ring has moved on: the store has all of it.
                Ok(Update::Event { .. }) | Err(_) => self.behind = true,
                Ok(Update::Progress { rental, progress }) if rental.id() == self.rental => {
                    return Ok(Some(RentalUpdate::Progress(progress)));
                }
                Ok(Update::Progress { .. }) => {}
            }
        }
    }

    fn tell(&mut self, event: RecordedEvent) -> RentalUpdate {
        self.at = event.seq;
        self.has_ended = matches!(event.event, RentalEvent::Ended);
        RentalUpdate::Event(event)
    }
}
