//! Records of what happened, written although others may write in between.

use std::error::Error;

use jiff::Timestamp;

use crate::host::reconcile::step::{Step, StepError, Stepped, with_causes};
use crate::model::{
    Action, EndReason, Failure, FailureKind, Next, Outcome, Rental, RentalEvent, RentalState, SuspendCause,
};
use crate::runtime::RuntimeError;
use crate::store::{Change, LogTail, StoreError};

/// For how long a GPU on which a launch failed is given out last: half an hour.
const SUSPICION: std::time::Duration = std::time::Duration::from_secs(1800);

/// How often a record is tried while others write in between.
const RECORD_TRIES: usize = 8;

/// Whether a rental is launched, and not ready.
fn is_on_its_way_up(rental: &Rental) -> bool {
    matches!(rental.state(), RentalState::Provisioning | RentalState::Running)
}

impl Step {
    /// Writes an event of the rental, as the holder of the host.
    pub(super) async fn record(&self, event: RentalEvent) -> Result<Rental, StepError> {
        self.record_so(event, self.context.clock.now().wall, None).await
    }

    /// Records an event although others may change the rental at any time (its end, its credential): where it is just as
    /// true of the rental as it is by then, it is recorded there. Otherwise whoever writes often enough
    /// could keep anything from being recorded.
    pub(super) async fn record_so(
        &self,
        event: RentalEvent,
        at: Timestamp,
        tail: Option<LogTail>,
    ) -> Result<Rental, StepError> {
        let mut rental = Rental::clone(&self.rental);
        for _ in 0..RECORD_TRIES {
            let mut change = Change::observation(rental.clone(), self.owner);
            if let Some(tail) = &tail {
                change = change.with_log_tail(tail.clone());
            }
            match change.apply(event.clone(), at) {
                Ok(Outcome::Changed) => {}
                Ok(Outcome::Unchanged) => return Ok(change.into_rental()),
                Err(_illegal) => return Err(StepError::Stale),
            }
            match self.context.store.commit(&change).await {
                Ok(()) => {
                    let state = change.rental().state().phase().as_str();
                    tracing::info!(rental = %rental.id(), state, "{}", event.name());
                    return Ok(change.into_rental());
                }
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
            let Some(found) = self.context.store.get(rental.id()).await? else { return Err(StepError::Stale) };
            if !self.holds_of(&event, &found) {
                return Err(StepError::Overtaken(Box::new(found)));
            }
            rental = found;
        }
        Err(StepError::Stale)
    }

    /// Whether what happened to the rental as it was believed to be also happened to it as it is.
    pub(super) fn holds_of(&self, event: &RentalEvent, found: &Rental) -> bool {
        let same_container = found.launch() == self.rental.launch() && found.container() == self.rental.container();
        same_container
            && match event {
                RentalEvent::Started { .. }
                | RentalEvent::Verified { .. }
                | RentalEvent::Stopped { .. }
                | RentalEvent::Ended => true,
                RentalEvent::EndBegan { reason: EndReason::Expired } => {
                    let next = found.next(&self.context.clock.now(), &self.context.timing);
                    next == Next::Now(Action::End(EndReason::Expired))
                }
                // It came up after all, and what failed is no failure of its launch.
                RentalEvent::EndBegan { reason: EndReason::Failed(_) }
                | RentalEvent::SuspendBegan { cause: SuspendCause::Failed(_) } => is_on_its_way_up(found),
                RentalEvent::EndBegan { .. } => true,
                RentalEvent::SuspendBegan { .. } => found.state().end_reason().is_none(),
                // It was wanted in between that it ends instead.
                RentalEvent::Suspended { .. } => found.state().suspend_cause().is_some(),
                // Made with, or told of, what may be another by now.
                _ => false,
            }
    }

    /// A rental on its way up that cannot get there ends with the reason; everything else is tried again.
    pub(super) async fn give_up_or_retry(&self, error: RuntimeError) -> Result<Stepped, StepError> {
        let Some(kind) = error.failure().filter(|_| is_on_its_way_up(&self.rental)) else {
            return Err(StepError::Later(Box::new(error)));
        };
        if matches!(kind, FailureKind::WrongDevices | FailureKind::Refused) {
            let until = self.context.clock.now().instant().after(SUSPICION);
            self.context.placement.quarantine.suspect(self.rental.gpus(), until);
        }
        let log_tail = self.log_tail(kind).await;
        tracing::warn!(rental = %self.rental.id(), error = &error as &dyn Error, "rental failed");
        let failure = Failure { kind, detail: with_causes(&error), log_tail };
        let rental = self.record(self.rental.failure_event(failure)).await?;
        Ok(Stepped::Moved(Box::new(rental)))
    }
}
