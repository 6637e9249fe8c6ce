//! Which steps are under way: which rental's begins, which one is cut off, and what became of them.

use std::error::Error;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};

use crate::clock::{BootInstant, Moment};
use crate::host::ReconcileError;
use crate::host::reconcile::decide::{Decision, decide, is_expiry};
use crate::host::reconcile::driver::{Done, Driver};
use crate::host::reconcile::periodic::backoff;
use crate::host::reconcile::step::{Step, StepError, Stepped};
use crate::id::RentalId;
use crate::model::{Action, EndReason, FailureKind, Next, Rental};
use crate::runtime::RuntimeError;

/// How a step came to its end.
pub(in crate::host::reconcile) enum Ended {
    With(Result<Stepped, StepError>),
    CutOff,
    Panicked,
}

/// How urgent a step is beside what is due by the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::host::reconcile) enum Urgency {
    /// The end of a rental whose paid time is over: nothing comes before it.
    Expiring,
    /// A step that gives way to that alone.
    #[default]
    Normal,
    /// A message or a credential: gives way to everything that is bound to a time.
    Deferrable,
}

impl Urgency {
    fn of(action: &Action) -> Self {
        match action {
            Action::End(EndReason::Expired) => Self::Expiring,
            Action::ReplaceAccess | Action::WithdrawWarning | Action::WarnOfDisk { .. } | Action::TellServices(_) => {
                Self::Deferrable
            }
            _ => Self::Normal,
        }
    }

    /// Whether a step that failed, and waits to be tried again, does not hold this up.
    fn gives_way_to(self, next: &Next) -> bool {
        match self {
            Self::Expiring => false,
            Self::Normal => *next == Next::Now(Action::End(EndReason::Expired)),
            Self::Deferrable => is_due_by_the_clock(next),
        }
    }
}

/// A step under way.
#[derive(Default)]
pub(in crate::host::reconcile) struct InFlight {
    pub(in crate::host::reconcile) urgency: Urgency,
    /// Set where the step may be cut off.
    pub(in crate::host::reconcile) abort: Option<AbortHandle>,
}

/// How a rental's steps failed lately.
pub(in crate::host::reconcile) struct Backoff {
    /// The urgency of what failed.
    pub(in crate::host::reconcile) urgency: Urgency,
    pub(in crate::host::reconcile) failures: u32,
    pub(in crate::host::reconcile) not_before: BootInstant,
}

impl Driver {
    pub(in crate::host::reconcile) fn start_steps(&mut self, now: BootInstant) {
        let moment = self.context.clock.now();
        let (mut due, mut taken_up) = (Vec::new(), Vec::new());
        for (id, rental) in &self.live {
            if let Some(step) = self.in_flight.get(id) {
                let next = self.next(rental, &moment);
                let ends = rental.state().is_going_down()
                    || matches!(next, Next::Now(Action::End(_)))
                    || (step.urgency == Urgency::Deferrable && step.urgency.gives_way_to(&next));
                if let Some(abort) = step.abort.as_ref().filter(|_| ends) {
                    abort.abort();
                }
                continue;
            }
            let next = self.next(rental, &moment);
            // What else went wrong does not hold up the end of the paid time, nor does what can wait hold up
            // a warning.
            let held_up = |entry: &Backoff| {
                let gives_way = entry.urgency.gives_way_to(&next);
                entry.not_before > now && !gives_way
            };
            if self.backoffs.get(id).is_some_and(held_up) {
                continue;
            }
            let further = self.later_launch(*id);
            let ended = if further.is_none() { self.ended_by_themselves.remove(id) } else { None };
            // Nothing is created or started while the outcome of an earlier write is unknown (a newer launch may exist), or
            // while a container without a stored rental occupies one of the GPUs.
            let is_held_up = self.unsure.contains(id) || self.context.placement.quarantine.has_any_of(rental.gpus());
            let urgency = if is_expiry(&next) { Urgency::Expiring } else { Urgency::Normal };
            match decide(rental, next, ended, further, is_held_up) {
                Decision::TakeUp(launch) => taken_up.push((*id, launch, urgency)),
                Decision::Act(action) => due.push((*id, self.with_the_last_failure(*id, action))),
                Decision::HeldUp => {}
                Decision::Nothing => {
                    let found = self.disks.warning(rental).or_else(|| self.services.news(rental));
                    due.extend(found.map(|action| (*id, action)));
                }
            }
        }
        for (id, action) in due {
            self.start_step(id, action);
        }
        for (id, launch, urgency) in taken_up {
            let Some(step) = self.step(id) else { continue };
            self.run_step(id, step.take_up(launch).boxed(), urgency, false);
        }
    }

    /// The rental's next action. What was prepared in this process is not prepared again.
    fn next(&self, rental: &Rental, now: &Moment) -> Next {
        match rental.next(now, &self.context.timing) {
            Next::Now(Action::Prepare) if self.prepared.contains(&rental.launch()) => Next::Now(Action::Create),
            next => next,
        }
    }

    /// A rental that took too long says what it took so long for.
    fn with_the_last_failure(&self, id: RentalId, action: Action) -> Action {
        match (action, self.context.waiting(id)) {
            (Action::End(EndReason::Failed(mut failure)), Some(waiting))
                if failure.kind == FailureKind::DeadlineExceeded =>
            {
                failure.detail = format!("{}: {}", failure.detail, waiting.message);
                Action::End(EndReason::Failed(failure))
            }
            (action, _) => action,
        }
    }

    fn step(&self, id: RentalId) -> Option<Step> {
        let rental = self.live.get(&id)?.clone();
        Some(Step {
            context: Arc::clone(&self.context),
            sleep: Arc::clone(&self.sleep),
            owner: self.owner,
            lease: self.lease.clone(),
            last_seen: self.last_seen.get(&rental.launch()).cloned(),
            rental,
        })
    }

    fn start_step(&mut self, id: RentalId, action: Action) {
        let Some(step) = self.step(id) else { return };
        let may_be_cut_off = matches!(
                action,
                Action::Prepare
                    | Action::Verify { .. }
                    | Action::ReplaceAccess
                    | Action::Warn
                    | Action::WithdrawWarning
                    | Action::WarnOfDisk { .. }
                    | Action::TellServices(_)
                    | Action::Notify
            )
            // An end that was found out, and that a store which hangs keeps from being written: the clock's comes before.
            || matches!(&action, Action::End(reason) if !is_by_the_clock(reason));
        // Taking down is never held up by what goes up.
        let goes_up = matches!(action, Action::Prepare | Action::Create | Action::Start | Action::Verify { .. });
        if goes_up && self.in_flight.len() >= self.context.config.concurrent_steps {
            return;
        }
        let urgency = Urgency::of(&action);
        self.run_step(id, step.take(action).boxed(), urgency, may_be_cut_off);
    }

    fn run_step(
        &mut self,
        id: RentalId,
        work: BoxFuture<'static, Result<Stepped, StepError>>,
        urgency: Urgency,
        may_be_cut_off: bool,
    ) {
        let (abort, registration) = AbortHandle::new_pair();
        self.in_flight.insert(id, InFlight { urgency, abort: may_be_cut_off.then_some(abort) });
        self.acted_during_observation.insert(id);
        self.spawn(async move {
            let contained = AssertUnwindSafe(work).catch_unwind();
            Done::Stepped(
                id,
                match Abortable::new(contained, registration).await {
                    Err(_aborted) => Ended::CutOff,
                    Ok(Err(_panic)) => Ended::Panicked,
                    Ok(Ok(result)) => Ended::With(result),
                },
            )
        });
    }

    pub(in crate::host::reconcile) fn stepped(
        &mut self,
        id: RentalId,
        ended: Ended,
        now: BootInstant,
    ) -> Result<(), ReconcileError> {
        let step = self.in_flight.remove(&id);
        let urgency = step.map_or(Urgency::Normal, |step| step.urgency);
        if !matches!(ended, Ended::With(Ok(_)) | Ended::CutOff) {
            self.unsure.insert(id);
            self.read.request();
        }
        self.moved_during_read.insert(id);
        self.acted_during_observation.insert(id);
        match ended {
            Ended::With(Ok(Stepped::Prepared)) => {
                if let Some(rental) = self.live.get(&id) {
                    self.prepared.insert(rental.launch());
                }
                // What comes next may fail again and again, each time after an image was found: its pauses grow all the same.
                if let Some(entry) = self.backoffs.get_mut(&id) {
                    entry.not_before = now;
                }
            }
            Ended::With(Ok(Stepped::Moved(rental))) => {
                self.backoffs.remove(&id);
                self.context.gets_on(id);
                self.publish.request();
                if rental.is_live() {
                    self.know(*rental);
                } else {
                    self.forget(id);
                }
            }
            Ended::CutOff => {}
            Ended::With(Err(StepError::Fenced)) => return Err(ReconcileError::TakenOver),
            // Gone on with at once: the read of all rentals may take a while, and the end of the paid time may be near.
            Ended::With(Err(StepError::Overtaken(found))) if self.is_a_later_state(&found) => {
                self.backoffs.remove(&id);
                self.know(*found);
            }
            Ended::With(Err(StepError::Stale | StepError::Overtaken(_))) => {
                // Cleared by a read that brings something else.
                self.back_off(id, now, urgency);
            }
            Ended::With(Err(StepError::LaterBut(error, within))) => {
                self.back_off(id, now, urgency);
                if let Some(entry) = self.backoffs.get_mut(&id) {
                    entry.not_before = entry.not_before.min(now.after(within));
                }
                self.context.back_off(id, for_the_renter(&*error));
                tracing::warn!(rental = %id, error = &*error as &dyn Error, "step to be tried again");
            }
            Ended::With(Err(StepError::Later(error))) => {
                // What was there may be gone again: the next try looks.
                self.prepared.retain(|launch| launch.rental != id);
                self.back_off(id, now, urgency);
                self.context.back_off(id, for_the_renter(&*error));
                if matches!(error.downcast_ref(), Some(RuntimeError::Unavailable(_))) {
                    // Whether that is so of the engine as a whole is told at once.
                    self.observe.request_unless_failing();
                }
                tracing::warn!(rental = %id, error = &*error as &dyn Error, "step to be tried again");
            }
            Ended::Panicked => {
                self.back_off(id, now, urgency);
                tracing::error!(rental = %id, "step panicked; to be tried again");
            }
        }
        Ok(())
    }

    /// Whether this is a later state of the launch that is known. Whatever else it may be, a read tells.
    fn is_a_later_state(&self, found: &Rental) -> bool {
        let known = self.live.get(&found.id());
        let is_later = |known: &Arc<Rental>| known.launch() == found.launch() && known.last_seq() < found.last_seq();
        found.is_live() && known.is_some_and(is_later)
    }

    fn back_off(&mut self, id: RentalId, now: BootInstant, urgency: Urgency) {
        let most = self.context.config.max_backoff;
        let entry = self.backoffs.entry(id).or_insert(Backoff { urgency, failures: 0, not_before: now });
        entry.urgency = urgency;
        entry.failures = entry.failures.saturating_add(1);
        entry.not_before = now.after(backoff(entry.failures, most));
    }
}

/// Why a step failed, for the rental's renter: without what engines, registries and databases say in their own words.
fn for_the_renter(error: &(dyn Error + 'static)) -> String {
    match error.downcast_ref::<RuntimeError>() {
        // Its cause is one of our own sentences.
        Some(error @ RuntimeError::RegistryUnavailable { source, .. }) => format!("{error}: {source}"),
        Some(error) => error.to_string(),
        None => "the host's database does not answer".to_owned(),
    }
}

/// Whether the rental itself says when it ends so.
fn is_by_the_clock(reason: &EndReason) -> bool {
    matches!(reason, EndReason::Expired | EndReason::Abandoned | EndReason::Failed(_))
}

/// Whether a rental's next action is bound to a time.
fn is_due_by_the_clock(next: &Next) -> bool {
    matches!(next, Next::Now(Action::Warn | Action::Notify | Action::End(_)))
}
