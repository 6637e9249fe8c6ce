//! Following a host's journal from any position on, without a gap: what was stored before, then what
//! happens, each event once and in order.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::host::context::HostContext;
use crate::host::{Subscription, Update};
use crate::id::{Position, RentalId};
use crate::model::JournalEntry;
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
                Ok(Update::Event(entry)) if entry.position <= self.at => {}
                Ok(Update::Event(entry)) if entry.position == self.at.next() => {
                    self.at = entry.position;
                    return Ok(Followed::Entry(entry));
                }
                // A gap, or the ring has moved on: the journal has all of it.
                Ok(Update::Event(_)) | Err(_) => self.behind = true,
                Ok(Update::Progress { rental, progress }) => return Ok(Followed::Progress { rental, progress }),
            }
        }
    }
}
