//! The handle that an embedder holds: rent, get, list, extend, suspend, resume, cancel, subscribe.
//!
//! None of it touches the engine. A request is validated by its types, placed and written by the store,
//! and the [`Reconciler`](crate::host::Reconciler) is nudged; everything else happens there.

mod access;
mod change;
mod error;
mod exec;
mod force_end;
mod rent;
mod suspend;

use std::sync::Arc;

pub use access::Access;
pub use change::Extension;
pub use error::{ChangeAccessError, ExtendError, InsideError, LogsError, RentError, ResumeError, SuspendError};
pub use force_end::{ForceEndError, force_end};
use jiff::Timestamp;

use crate::allocation::{Held, RenterLimits};
use crate::clock::Moment;
use crate::host::context::Shared;
use crate::host::readiness::Stage;
use crate::host::{EngineHealth, Follower, Setback, Subscription};
use crate::id::{ContainerId, HostId, Position, RentalId, RenterId, Revision, Seq};
use crate::model::{Gpu, JournalEntry, Recorded, Rental, State};
use crate::runtime::Isolation;
use crate::store::{Filter, StoreError};

/// A rental's last lines of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    /// The lines, oldest first; they may hold control characters.
    pub lines: Vec<String>,
    /// Whether they come from the container itself; else they are what was kept of it.
    pub live: bool,
}

/// The rentals of one host. Cheap to clone.
#[derive(Clone)]
pub struct Rentals {
    shared: Arc<Shared>,
    /// Changes are made to a rental of this revision alone.
    only_at: Option<Revision>,
    /// Whether a renter's limits apply.
    limited: bool,
}

impl Rentals {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, only_at: None, limited: true }
    }

    /// The same, for somebody who changes a rental only if it is as they saw it: changes of one that has another
    /// revision by now fail with [`StoreError::Conflict`].
    #[must_use]
    pub fn only_at(&self, revision: Revision) -> Self {
        Self { only_at: Some(revision), ..self.clone() }
    }

    /// The same, for somebody who rents for many under one name: what [one renter](crate::allocation::RenterLimits) may have
    /// does not apply to them.
    #[must_use]
    pub fn for_a_platform(&self) -> Self {
        Self { limited: false, ..self.clone() }
    }

    pub(crate) fn renter_limits(&self, renter: &RenterId) -> RenterLimits {
        let shared = &self.shared;
        let usual = shared.placement.renter_limits;
        if self.limited { shared.limits_of.get(renter).copied().unwrap_or(usual) } else { RenterLimits::none() }
    }

    /// Whether a rental is as the caller saw it, if that matters to them.
    fn expect_as_seen(&self, rental: &Rental) -> Result<(), StoreError> {
        match self.only_at {
            Some(revision) if revision != rental.revision() => Err(StoreError::Conflict),
            _ => Ok(()),
        }
    }

    /// One rental, live or ended.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn get(&self, id: RentalId) -> Result<Option<Rental>, StoreError> {
        self.shared.store.get(id).await
    }

    /// The rental that has or had this container; see [`Store::of_container`](crate::store::Store::of_container).
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn of_container(&self, container: &ContainerId) -> Result<Option<Rental>, StoreError> {
        match self.shared.store.of_container(&self.shared.host, container).await? {
            Some(id) => self.shared.store.get(id).await,
            None => Ok(None),
        }
    }

    /// Rentals, newest first, at most `limit` of those after `after`.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn list(
        &self,
        filter: &Filter,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError> {
        self.shared.store.list(&self.shared.host, filter, after, limit).await
    }

    /// Rentals that ended before a time; see [`Store::ended_before`](crate::store::Store::ended_before).
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn ended_before(
        &self,
        before: Timestamp,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError> {
        self.shared.store.ended_before(&self.shared.host, before, after, limit).await
    }

    /// Deletes ended rentals and tells how many; see [`Store::forget`](crate::store::Store::forget).
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn forget(&self, rentals: &[RentalId]) -> Result<usize, StoreError> {
        self.shared.store.forget(&self.shared.host, rentals).await
    }

    /// A rental's events after a number, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn events(&self, id: RentalId, after: Seq, limit: usize) -> Result<Vec<Recorded>, StoreError> {
        self.shared.store.events(id, after, limit).await
    }

    /// The host's journal after a position, at most `limit`: what a subscriber that fell behind reads.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn journal(&self, after: Position, limit: usize) -> Result<Vec<JournalEntry>, StoreError> {
        self.shared.store.journal(&self.shared.host, after, limit).await
    }

    /// Everything that happens from now on, live. Works in the process that runs the reconciler; others
    /// read the [`journal`](Self::journal).
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.shared.feed.subscribe()
    }

    /// The journal after a position, then everything that happens, without a gap.
    #[must_use]
    pub fn follow(&self, after: Position) -> Follower {
        Follower::new(Arc::clone(&self.shared), self.subscribe(), after)
    }

    /// The last position of the journal, as far as this process knows; `None` until it has taken over the
    /// host.
    #[must_use]
    pub fn last_position(&self) -> Option<Position> {
        self.shared.feed.last_position()
    }

    /// A rental's last lines of output, at most `lines`: from its container, or what was kept of it.
    ///
    /// # Errors
    /// [`LogsError`]
    pub async fn logs(&self, rental: &Rental, lines: usize) -> Result<Logs, LogsError> {
        if rental.container().is_some() && !matches!(rental.state(), State::Ended { .. }) {
            let lines = self.shared.runtime.logs(rental.launch(), lines).await?;
            if !lines.is_empty() || rental.state().end_reason().is_none() {
                return Ok(Logs { lines, live: true });
            }
        }
        let kept = self.shared.store.log_tail(rental.id(), self.shared.clock.now().wall).await?.unwrap_or_default();
        Ok(Logs { lines: kept[kept.len().saturating_sub(lines)..].to_vec(), live: false })
    }

    /// The host's rentals that have not ended.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn live(&self) -> Result<Vec<Rental>, StoreError> {
        self.shared.store.live(&self.shared.host).await
    }

    /// The live rentals that are not suspended.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn active(&self) -> Result<Vec<Rental>, StoreError> {
        self.shared.store.active(&self.shared.host).await
    }

    /// The GPUs and ports that live rentals hold.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn held(&self) -> Result<Held, StoreError> {
        self.shared.store.held(&self.shared.host).await
    }

    /// How well tenants are kept apart.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.shared.runtime.isolation()
    }

    /// The GPUs of the host.
    #[must_use]
    pub fn gpus(&self) -> &[Gpu] {
        &self.shared.placement.gpus
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &HostId {
        &self.shared.host
    }

    /// The name or address that renters reach the host under.
    #[must_use]
    pub fn public_host(&self) -> &str {
        &self.shared.public_host
    }

    /// Both clocks now.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.shared.clock.now()
    }

    /// The condition that holds a rental up at the moment, if any.
    #[must_use]
    pub fn setback(&self, id: RentalId) -> Option<Setback> {
        self.shared.setback(id)
    }

    /// Whether a reconciler runs, and knows what is there: without one the host only looks alive.
    #[must_use]
    pub fn is_reconciled(&self) -> bool {
        self.shared.standing.get() == Stage::Acting
    }

    /// Whether this process holds the host's lease: it took the host over, and the store confirmed within the lease's time that
    /// nobody else has done so since. Without it nothing is changed on the engine.
    #[must_use]
    pub fn holds_lease(&self) -> bool {
        self.shared.holds_lease()
    }

    /// Whether the engine told how the containers are when it was last asked; one that has not answered for ten seconds does
    /// not.
    #[must_use]
    pub fn engine_health(&self) -> EngineHealth {
        self.shared.engine_health()
    }

    /// Whether the host's disks have room for another rental.
    #[must_use]
    pub fn has_disk_room(&self) -> bool {
        self.shared.placement.disks.has_room()
    }
}
