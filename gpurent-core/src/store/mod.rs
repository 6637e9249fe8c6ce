//! Where rentals are kept. One method is one transaction; uniqueness is the store's, never
//! check-then-insert.
//!
//! Writes come in two kinds. Intents (rent, cancel) need the revision they saw, so that any process may
//! write them: [`Store`] is for all. Observations (started, stopped, ended) need the host's current [`Epoch`](crate::id::Epoch) as well, which
//! [`HostStore::acquire_host`] gives: a process that lost its host writes nothing any more.
//!
//! An implementation proves itself with [`store_suite!`](crate::store_suite), one named test a clause.

pub mod api_keys;
pub mod audit;
pub mod change;
pub mod claim;
pub mod deadline_book;
pub mod error;
pub mod filter;
pub mod ownership;
pub mod port_ranges;
pub mod recovered;

use std::time::Duration;

pub use api_keys::{KeyDigest, KeyRecord, KeyStore, NewKey, Role};
use async_trait::async_trait;
pub use audit::{AuditEntry, AuditLog, NumberedEntry};
pub use change::{Change, LogTail};
pub use claim::{ClaimDecision, ClaimError, ClaimOutcome, ClaimSnapshot, NewRental, PriorRequest};
pub use deadline_book::{Deadline, DeadlineBook, DeadlineError};
pub use error::StoreError;
pub use filter::Filter;
use jiff::Timestamp;
pub use ownership::HostOwnership;
pub use port_ranges::{GivenBack, OwnRange, RangeStore};
pub use recovered::RecoveredRental;

use crate::allocation::{Holds, Placement, RenterHas};
use crate::id::{ContainerId, EngineId, HostId, MachineId, Position, RentalId, RenterId, Seq};
use crate::model::{JournalEntry, RecordedEvent, Rental, Sealed};

/// The most rows that one page holds.
pub const MAX_PAGE: usize = 500;

/// Keeps rentals, their holds, their events and their sealed credentials, for every process. What only the process that acts
/// for a host does is in [`HostStore`].
///
/// Every method is safe to retry after [`StoreError::Unavailable`].
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// How long ago somebody last acted for the host, to about ten seconds; `None` where nobody did, where the last holder
    /// has resigned, or where the store does not note it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]
    async fn last_acted(&self, _host: &HostId) -> Result<Option<Duration>, StoreError> {
        Ok(None)
    }

    /// Places a new rental and writes it, its holds, its sealed credential and its first event in one
    /// transaction. Fails with "no GPU" only when there is none: losing a race is tried again inside. A renter who has
    /// as much as [one may have](Placement::renter_limits) gets nothing; of many claims at once a database that many
    /// write to may let a few through beyond that, as many as it carries out at once.
    ///
    /// # Errors
    /// [`ClaimError`]; nothing was written then, except perhaps after `Unavailable`.
    async fn claim(&self, new: &NewRental, placement: &Placement) -> Result<ClaimOutcome, ClaimError>;

    /// Writes a change, an intent or (with the fence of the host's holder) an observation: the rental, its events, its usage, the holds it has or no longer has, and what
    /// else comes with it. The sealed secrets are erased with the event that ends the rental, and so is the environment
    /// in its claim.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the revision is another or a new port is held, [`StoreError::Fenced`]
    /// if the epoch is another; nothing was written then.
    async fn commit(&self, change: &Change) -> Result<(), StoreError>;

    /// One rental, live or ended.
    async fn get(&self, id: RentalId) -> Result<Option<Rental>, StoreError>;

    /// The rental whose container this is or was, by the engine's id of it or at least the first 12 characters: ids that were
    /// given out stay good when a rental gets another container. The latest, should several begin alike.
    async fn of_container(&self, host: &HostId, container: &ContainerId) -> Result<Option<RentalId>, StoreError>;

    /// The host's rentals that have not ended.
    async fn live(&self, host: &HostId) -> Result<Vec<Rental>, StoreError>;

    /// The live rentals of the host that are not suspended: that have, or may have, a container.
    async fn active(&self, host: &HostId) -> Result<Vec<Rental>, StoreError>;

    /// The host's rentals that pass the filter, newest first, at most `limit` (and [`MAX_PAGE`]) of
    /// those after `after`; none, where that one is unknown or was [forgotten](Self::forget).
    async fn list(
        &self,
        host: &HostId,
        filter: &Filter,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError>;

    /// The host's rentals that ended before a time, those that did first, at most `limit` (and [`MAX_PAGE`]) of those after
    /// `after`, or from the first on where that one is gone. Without such whose events were not all [published](HostStore::publish): nobody may have billed them yet.
    async fn ended_before(
        &self,
        host: &HostId,
        before: Timestamp,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError>;

    /// Deletes ended rentals of the host, with their events, also from its journal, and tells how many: those that live, are
    /// unknown, or have events that were not published stay. At most [`MAX_PAGE`] at once.
    async fn forget(&self, host: &HostId, rentals: &[RentalId]) -> Result<usize, StoreError>;

    /// The resources that the host's live rentals hold.
    async fn held(&self, host: &HostId) -> Result<Holds, StoreError> {
        let mut held = Holds::default();
        self.live(host).await?.iter().for_each(|rental| held.add(rental));
        Ok(held)
    }

    /// The sums of what a renter has on the host, counted without reading it; a rental made after `since` was made
    /// [lately](crate::allocation::renter_limits::lately).
    async fn renter_has(&self, host: &HostId, renter: &RenterId, since: Timestamp) -> Result<RenterHas, StoreError>;

    /// The last lines of a rental's output, unless they are out of date by `now`.
    async fn log_tail(&self, id: RentalId, now: Timestamp) -> Result<Option<Vec<String>>, StoreError>;

    /// A rental's sealed secrets; `None` once it has ended.
    async fn sealed(&self, id: RentalId) -> Result<Option<Sealed>, StoreError>;

    /// A rental's events after a number, at most `limit`.
    async fn events(&self, id: RentalId, after: Seq, limit: usize) -> Result<Vec<RecordedEvent>, StoreError>;

    /// The host's journal after a position, at most `limit` (and [`MAX_PAGE`]).
    async fn journal(&self, host: &HostId, after: Position, limit: usize) -> Result<Vec<JournalEntry>, StoreError>;
}

/// The part of a store that only the process which acts for a host uses: who that is, and what it alone may write.
///
/// Every method is safe to retry after [`StoreError::Unavailable`].
#[async_trait]
pub trait HostStore: Store {
    /// Takes over the host and begins a new epoch; all earlier ones are fenced off from then on. The
    /// caller must already hold whatever guards the engine (such as a file lock), since the former
    /// holder is not asked.
    ///
    /// # Errors
    /// [`StoreError::HostPinned`] if the host has live rentals on another engine: of another id, or of the same one on
    /// another machine, where both machines are known.
    async fn acquire_host(
        &self,
        host: &HostId,
        engine: &EngineId,
        machine: Option<&MachineId>,
    ) -> Result<HostOwnership, StoreError>;

    /// Whether `owner` still owns the host.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if it does not.
    async fn confirm(&self, host: &HostId, owner: HostOwnership) -> Result<(), StoreError>;

    /// Notes that the holder of the host ends, and acts no longer.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; nothing depends on it but [`last_acted`](Store::last_acted).
    async fn resign(&self, _host: &HostId, _owner: HostOwnership) -> Result<(), StoreError> {
        Ok(())
    }

    /// Writes a rental that the store does not know, with all of its events and what it holds: one whose
    /// container was found after the store was restored from a backup. Its secrets are lost.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where the rental is known, or its name, a GPU or a port is another's;
    /// [`StoreError::Fenced`] if another owns the host by now; nothing was written then.
    async fn adopt(&self, found: &RecoveredRental, owner: HostOwnership) -> Result<(), StoreError>;

    /// Gives positions in the host's journal to events that have none yet, at most `limit`, and returns
    /// them. Only the holder of the host publishes, so positions have no gap but for what was
    /// [forgotten](Store::forget), and no reader can miss one that is committed late.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if another owns the host by now.
    async fn publish(&self, host: &HostId, owner: HostOwnership, limit: usize)
    -> Result<Vec<JournalEntry>, StoreError>;
}
