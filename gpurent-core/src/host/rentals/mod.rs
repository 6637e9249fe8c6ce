//! The handle that an embedder holds: rent, get, list, extend, suspend, resume, cancel, subscribe.
//!
//! None of it touches the engine. A request is validated by its types, placed and written by the store,
//! and the [`Reconciler`](crate::host::Reconciler) is woken; everything else happens there.

mod access;
mod change;
mod error;
mod exec;
mod force_end;
mod rent;
mod suspend;

use std::sync::Arc;

pub use access::Access;
pub use change::TermExtension;
pub use error::{ChangeAccessError, ExecError, ExtendError, LogsError, RentError, ResumeError, SuspendError};
pub use force_end::{ForceEndError, force_end};
use jiff::Timestamp;

use crate::allocation::{Holds, RenterLimits};
use crate::clock::Moment;
use crate::host::context::HostContext;
use crate::host::readiness::Readiness;
use crate::host::{EngineHealth, Follower, RentalFollower, Subscription, Waiting};
use crate::id::{ContainerId, HostId, Position, RentalId, RenterId, Revision, Seq};
use crate::model::{Gpu, JournalEntry, RecordedEvent, Rental, RentalState};
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
    context: Arc<HostContext>,
    /// Changes are made to a rental of this revision alone.
    only_at: Option<Revision>,
    /// Whether a renter's limits apply.
    limited: bool,
}

impl Rentals {
    pub(crate) fn new(context: Arc<HostContext>) -> Self {
        Self { context, only_at: None, limited: true }
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
        let context = &self.context;
        let usual = context.placement.renter_limits;
        if self.limited { context.limits_of.get(renter).copied().unwrap_or(usual) } else { RenterLimits::none() }
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
        self.context.store.get(id).await
    }

    /// The rental that has or had this container; see [`Store::of_container`](crate::store::Store::of_container).
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn of_container(&self, container: &ContainerId) -> Result<Option<Rental>, StoreError> {
        match self.context.store.of_container(&self.context.host, container).await? {
            Some(id) => self.context.store.get(id).await,
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
        self.context.store.list(&self.context.host, filter, after, limit).await
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
        self.context.store.ended_before(&self.context.host, before, after, limit).await
    }

    /// Deletes ended rentals and tells how many; see [`Store::forget`](crate::store::Store::forget).
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn forget(&self, rentals: &[RentalId]) -> Result<usize, StoreError> {
        self.context.store.forget(&self.context.host, rentals).await
    }

    /// A rental's events after a number, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn events(&self, id: RentalId, after: Seq, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        self.context.store.events(id, after, limit).await
    }

    /// The host's journal after a position, at most `limit`: what a subscriber that fell behind reads.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn journal(&self, after: Position, limit: usize) -> Result<Vec<JournalEntry>, StoreError> {
        self.context.store.journal(&self.context.host, after, limit).await
    }

    /// Everything that happens from now on, live. Works in the process that runs the reconciler; others
    /// read the [`journal`](Self::journal).
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.context.feed.subscribe()
    }

    /// The journal after a position, then everything that happens, without a gap.
    #[must_use]
    pub fn follow(&self, after: Position) -> Follower {
        Follower::new(Arc::clone(&self.context), self.subscribe(), after)
    }

    /// A rental's own events after a number ([`Seq::ZERO`]: from its claim on) and the progress of its pulls, until it has
    /// ended. Live in the process that runs the reconciler.
    #[must_use]
    pub fn follow_rental(&self, id: RentalId, after: Seq) -> RentalFollower {
        RentalFollower::new(Arc::clone(&self.context), self.subscribe(), id, after)
    }

    /// Waits until a rental is so, and returns it as it is then; a rental that has ended is returned in any case, since it
    /// changes no more. `None` where there is no such rental. Woken by what this process's reconciler publishes; limit it
    /// with your executor's timeout.
    ///
    /// # Errors
    /// [`StoreError`]; the rental may be so all the same.
    pub async fn wait_until(
        &self,
        id: RentalId,
        is_so: impl Fn(&Rental) -> bool + Send,
    ) -> Result<Option<Rental>, StoreError> {
        // Before the look, so that no change falls in between.
        let mut updates = self.subscribe();
        let is_over = |rental: &Rental| is_so(rental) || !rental.is_live();
        loop {
            let Some(known) = self.get(id).await? else { return Ok(None) };
            if is_over(&known) {
                return Ok(Some(known));
            }
            // They tell all that it becomes. It is read again where updates were missed, and where one is no later than what was
            // read: either it was told before that, or the store was set back.
            while let Ok(Some(told)) = updates.next_of(id).await {
                if told.last_seq() <= known.last_seq() {
                    break;
                }
                if is_over(&told) {
                    return Ok(Some(Arc::unwrap_or_clone(told)));
                }
            }
        }
    }

    /// The last position of the journal, as far as this process knows; `None` until it has taken over the
    /// host.
    #[must_use]
    pub fn last_position(&self) -> Option<Position> {
        self.context.feed.last_position()
    }

    /// A rental's last lines of output, at most `lines`: from its container, or what was kept of it.
    ///
    /// # Errors
    /// [`LogsError`]
    pub async fn logs(&self, rental: &Rental, lines: usize) -> Result<Logs, LogsError> {
        if rental.container().is_some() && !matches!(rental.state(), RentalState::Ended { .. }) {
            let lines = self.context.runtime.logs(rental.launch(), lines).await?;
            if !lines.is_empty() || rental.state().end_reason().is_none() {
                return Ok(Logs { lines, live: true });
            }
        }
        let kept = self.context.store.log_tail(rental.id(), self.context.clock.now().wall).await?.unwrap_or_default();
        Ok(Logs { lines: kept[kept.len().saturating_sub(lines)..].to_vec(), live: false })
    }

    /// The host's rentals that have not ended.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn live(&self) -> Result<Vec<Rental>, StoreError> {
        self.context.store.live(&self.context.host).await
    }

    /// The live rentals that are not suspended.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn active(&self) -> Result<Vec<Rental>, StoreError> {
        self.context.store.active(&self.context.host).await
    }

    /// The GPUs and ports that live rentals hold.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn held(&self) -> Result<Holds, StoreError> {
        self.context.store.held(&self.context.host).await
    }

    /// How well tenants are kept apart.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.context.runtime.isolation()
    }

    /// The GPUs of the host.
    #[must_use]
    pub fn gpus(&self) -> &[Gpu] {
        &self.context.placement.gpus
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &HostId {
        &self.context.host
    }

    /// The name or address that renters reach the host under.
    #[must_use]
    pub fn public_host(&self) -> &str {
        &self.context.public_host
    }

    /// Both clocks now.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.context.clock.now()
    }

    /// The condition that holds a rental up at the moment, if any.
    #[must_use]
    pub fn waiting(&self, id: RentalId) -> Option<Waiting> {
        self.context.waiting(id)
    }

    /// Whether a reconciler runs, and knows what is there: without one the host only looks alive.
    #[must_use]
    pub fn is_reconciled(&self) -> bool {
        self.context.readiness.get() == Readiness::Ready
    }

    /// Whether this process holds the host's lease: it took the host over, and the store confirmed within the lease's time that
    /// nobody else has done so since. Without it nothing is changed on the engine.
    #[must_use]
    pub fn holds_lease(&self) -> bool {
        self.context.holds_lease()
    }

    /// Whether the engine told how the containers are when it was last asked; one that has not answered for ten seconds does
    /// not.
    #[must_use]
    pub fn engine_health(&self) -> EngineHealth {
        self.context.engine_health()
    }

    /// Whether the host's disks have room for another rental.
    #[must_use]
    pub fn has_disk_room(&self) -> bool {
        self.context.placement.disks.has_room()
    }
}
