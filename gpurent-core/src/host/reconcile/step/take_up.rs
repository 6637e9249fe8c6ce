//! Going on with a container that is further than the store knows.
use std::sync::Arc;

use crate::host::reconcile::step::{Step, StepError, Stepped, adopted};
use crate::id::LaunchId;
use crate::model::{Gpu, Rental, RentalEvent, RentalState, SuspendCause};

impl Step {
    /// Takes over a container of a later launch than the store knows of: the store was restored from a backup.
    pub(in crate::host::reconcile) async fn take_up(self, launch: LaunchId) -> Result<Stepped, StepError> {
        match self.context.runtime.inspect(launch).await {
            Ok(Some(mut found)) => {
                // A container that was taken over carries the claim of the launch that it was made for.
                if let Some(kept) = self.context.deadlines.of(launch).await {
                    found.claim.used = found.claim.used.max(kept.used);
                }
                let is_new = |gpu: &&Gpu| !self.rental.gpus().iter().any(|known| known.uuid == gpu.uuid);
                let taken: Vec<Gpu> = found.claim.gpus.iter().filter(is_new).cloned().collect();
                if found.retained.is_some()
                    && matches!(self.rental.state(), RentalState::Suspended { .. })
                    && self.context.placement.quarantine.another_has_any_of(launch.rental, &taken)
                {
                    // It is in no hurry: what it had is somebody else's, of whom the store is still to be told.
                    return Err(StepError::Stale);
                }
                let event = adopted(launch, &found);
                tracing::warn!(%launch, "a launch is further than the store knows, and is gone on with");
                let is_known = matches!(self.rental.state(), RentalState::Running | RentalState::Ready)
                    && launch.attempt == self.rental.attempt();
                let rental = match if is_known { Ok(Rental::clone(&self.rental)) } else { self.record(event).await } {
                    Err(changed @ (StepError::Stale | StepError::Overtaken(_))) => {
                        // Another rental holds its GPU or port by now. Until that is settled, it runs no longer than it is paid for.
                        self.stop_if_overdue(launch).await?;
                        return Err(changed);
                    }
                    other => other?,
                };
                if found.retained.is_some() {
                    // It was suspended, and its files are to be kept.
                    let step = Self { rental: Arc::new(rental), ..self };
                    let event = RentalEvent::SuspendBegan { cause: SuspendCause::Requested };
                    return Ok(Stepped::Moved(Box::new(step.record(event).await?)));
                }
                match self.context.deadlines.of(launch).await.filter(|_| rental.started_at().is_some()) {
                    // It was ready before, and paid for since then.
                    Some(kept) => {
                        let step = Self { rental: Arc::new(rental), ..self };
                        let ready = step.record(RentalEvent::Verified { paid_from: kept.paid_from }).await?;
                        if !ready.spec().term.is_shorter_than(kept.term) {
                            return Ok(Stepped::Moved(Box::new(ready)));
                        }
                        // What was promised once is kept.
                        let step = Self { rental: Arc::new(ready), ..step };
                        let extended = step.record(RentalEvent::Extended { term: kept.term }).await?;
                        Ok(Stepped::Moved(Box::new(extended)))
                    }
                    None => Ok(Stepped::Moved(Box::new(rental))),
                }
            }
            // Whatever it is, it runs no longer than it is paid for.
            Ok(None) => {
                self.stop_if_overdue(launch).await?;
                Err(StepError::Stale)
            }
            Err(error) => {
                self.stop_if_overdue(launch).await?;
                Err(StepError::Later(Box::new(error)))
            }
        }
    }

    /// Stops a container that is not recorded, once its time is over by the host's own book.
    pub(super) async fn stop_if_overdue(&self, launch: LaunchId) -> Result<(), StepError> {
        let left = self.context.deadlines.of(launch).await.and_then(|kept| kept.time_left(&self.context.clock.now()));
        if left.is_some_and(|left| !left.is_positive()) {
            self.lease.check()?;
            let stopped = self.context.runtime.stop(launch, std::time::Duration::ZERO).await;
            stopped.map_err(|error| StepError::Later(Box::new(error)))?;
        }
        Ok(())
    }
}
