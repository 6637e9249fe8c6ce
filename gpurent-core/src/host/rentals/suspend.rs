//! Suspend and resume: a rental without a container, whose paid time stands still.

use jiff::{SignedDuration, Timestamp};

use crate::allocation::PlacementError;
use crate::allocation::renter_limits::lately;
use crate::host::readiness::Readiness;
use crate::host::rentals::change::{ChangeDecision, LAST_MOMENT, TRIES};
use crate::host::{EngineHealth, Rentals, ResumeError, SuspendError};
use crate::id::RentalId;
use crate::model::{EndReason, Outcome, Rental, RentalEvent, RentalState, Resumption, SuspendCause};
use crate::store::{Change, StoreError};

impl Rentals {
    /// Stops a rental's container, and frees its GPUs and ports, until it is resumed. What is left of its
    /// paid time is kept, and so are the files in the container; processes, memory and what lies on a tmpfs are not.
    /// Suspending what is suspended changes nothing. `None` where there is no such rental.
    ///
    /// # Errors
    /// [`SuspendError`]; after [`StoreError::Unavailable`] it may have been recorded all the same.
    pub async fn suspend(&self, id: RentalId) -> Result<Option<Rental>, SuspendError> {
        let Some(rental) = self.context.store.get(id).await? else { return Ok(None) };
        let since = lately(self.context.clock.now().wall);
        let has = self.context.store.renter_has(&self.context.host, &rental.spec().renter, since).await?;
        self.change(id, |rental| {
            let now = self.context.clock.now();
            let running_out = rental.time_left(&now).is_some_and(|left| left < LAST_MOMENT);
            if running_out && rental.state().suspend_cause().is_none() {
                return Err(SuspendError::Over);
            }
            let is_up = rental.state().suspend_cause().is_none() && rental.state().end_reason().is_none();
            let event = if rental.is_on_its_first_way_up() {
                // It has nothing that would be kept, and cost nothing: it ends.
                RentalEvent::EndBegan { reason: EndReason::Cancelled }
            } else {
                if is_up {
                    self.renter_limits(&rental.spec().renter).allow_suspended(&has)?;
                }
                RentalEvent::SuspendBegan { cause: SuspendCause::Requested }
            };
            let mut change = Change::intent(rental);
            match change.apply(event, now.wall) {
                Ok(Outcome::Changed) => Ok(ChangeDecision::Commit(change)),
                Ok(Outcome::Unchanged) => Ok(ChangeDecision::NoOp(change.into_rental())),
                Err(_over) => Err(SuspendError::Over),
            }
        })
        .await
    }

    /// How long a suspended rental is kept for its renter to resume it; `None` for one that is not suspended.
    #[must_use]
    pub fn kept_until(&self, rental: &Rental) -> Option<Timestamp> {
        let RentalState::Suspended { since, .. } = rental.state() else { return None };
        let now = self.context.clock.now();
        // As long as by the boot clock, which decides.
        let left = self.context.timing.keep_suspended - now.since(since);
        now.wall.checked_add(left.max(SignedDuration::ZERO)).ok()
    }

    /// Claims GPUs and ports for a suspended rental again; its container follows, with its files. The GPUs and ports are
    /// those that it had, where they are free, and so is the container; otherwise they, and the price, may be others.
    /// Resuming what is not suspended changes nothing. `None` where there is no such rental.
    ///
    /// # Errors
    /// [`ResumeError`]; after [`StoreError::Unavailable`] it may have been recorded all the same.
    pub async fn resume(&self, id: RentalId) -> Result<Option<Rental>, ResumeError> {
        match self.context.readiness.settled().await {
            Readiness::Ready => {}
            Readiness::NoReconciler => return Err(ResumeError::NotReconciled),
            Readiness::Starting | Readiness::Stalled => return Err(ResumeError::Starting),
        }
        // Others may take the same place at the same time: the store lets one of them, and the rest look again.
        for _ in 0..TRIES {
            let Some(rental) = self.context.store.get(id).await? else { return Ok(None) };
            // Another host's: its GPUs are not ours to place.
            if *rental.host() != self.context.host {
                return Ok(None);
            }
            self.expect_as_seen(&rental)?;
            match rental.state() {
                RentalState::Suspended { .. } => {}
                RentalState::Suspending { .. } => return Err(ResumeError::StillSuspending),
                RentalState::Provisioning | RentalState::Running | RentalState::Ready => return Ok(Some(rental)),
                RentalState::Ending { .. } | RentalState::Ended { .. } => return Err(ResumeError::Over),
            }
            let at = self.context.clock.now();
            if rental.time_left(&at).is_some_and(|left| left < LAST_MOMENT) {
                return Err(ResumeError::Over);
            }
            let renter = &rental.spec().renter;
            let has = self.context.store.renter_has(&self.context.host, renter, lately(at.wall)).await?;
            let limits = self.renter_limits(renter);
            limits
                .allow_resume(&rental)
                .and_then(|()| limits.allow_up(&has, rental.spec()))
                .map_err(PlacementError::from)?;
            let held = self.context.store.held(&self.context.host).await?;
            let mut placement = self.context.placement.clone();
            placement.engine_unavailable = self.context.engine_health() == EngineHealth::Silent;
            let placed = placement.place_again(&rental, &held)?;
            let resumption = Resumption {
                gpus: placed.gpus,
                ports: placed.ports,
                quote: placed.quote,
                due: at.wall.saturating_add(self.context.timing.provisioning).unwrap_or(at.wall),
                at: at.clone(),
            };
            let mut change = Change::intent(rental);
            let Ok(_) = change.apply(RentalEvent::Resumed(Box::new(resumption)), at.wall) else {
                return Err(ResumeError::Over);
            };
            match self.context.store.commit(&change).await {
                Ok(()) => {
                    self.context.failpoints.pass("resumed");
                    self.context.wake_reconciler();
                    return Ok(Some(change.into_rental()));
                }
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict.into())
    }
}
