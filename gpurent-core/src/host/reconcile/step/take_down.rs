//! The way down: stop, put away, remove.

use std::error::Error;

use futures_util::{FutureExt, select_biased};
use jiff::SignedDuration;

use crate::clock::Moment;
use crate::host::reconcile::clock_mapping::{ended_with_the_machine, on_both_clocks};
use crate::host::reconcile::step::{Step, StepError, Trouble};
use crate::model::{EndReason, Exit, Rental, RentalEvent};

/// How long an expired rental waits for the store before its container is stopped.
const EXPIRY_STORE_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(200);

/// A container that was seen running so long ago is believed to have run until it was stopped.
const WATCHDOG_TOLERANCE: SignedDuration = SignedDuration::from_secs(5);

/// An end that lies so far in the future was stamped by a clock that was set back since, and may lie anywhere.
const MAX_CLOCK_LEAD: SignedDuration = SignedDuration::from_secs(1);

impl Step {
    pub(super) async fn end(&self, reason: EndReason) -> Result<Rental, Trouble> {
        let reason = match reason {
            EndReason::Expired => reason,
            EndReason::Failed(failure) => return Ok(self.record(self.rental.failure_event(failure)).await?),
            other => return Ok(self.record(RentalEvent::EndBegan { reason: other }).await?),
        };
        // The paid time is over whether or not the store answers: it gets a moment to say that the rental
        // was changed, no more. The engine's own record of the end is committed once it answers.
        let mut record = std::pin::pin!(self.record(RentalEvent::EndBegan { reason }).fuse());
        let mut patience = self.sleep.sleep(EXPIRY_STORE_TIMEOUT).fuse();
        loop {
            let answered = select_biased! {
                answered = record => Some(answered),
                () = patience => None,
            };
            match answered {
                Some(Err(StepError::Later(error))) => {
                    return Err(match self.stop_unrecorded().await? {
                        Some(left) => StepError::LaterBut(error, left).into(),
                        None => StepError::Later(error).into(),
                    });
                }
                Some(answered) => return Ok(answered?),
                None => match self.stop_unrecorded().await? {
                    Some(left) => patience = self.sleep.sleep(left).fuse(),
                    None => return Ok(record.await?),
                },
            }
        }
    }

    /// Stops what is overdue, unless the host itself has written down a longer term: then the store, which
    /// does not answer, has it too, and what is left of it is returned.
    pub(super) async fn stop_unrecorded(&self) -> Result<Option<std::time::Duration>, Trouble> {
        self.lease.check()?;
        let kept = self.context.deadlines.of(self.rental.launch()).await;
        let left = kept.and_then(|kept| kept.time_left(&self.context.clock.now()));
        if let Some(left) = left.filter(|left| left.is_positive()) {
            return Ok(Some(left.unsigned_abs()));
        }
        self.context.runtime.stop(self.rental.launch(), std::time::Duration::ZERO).await?;
        Ok(None)
    }

    pub(super) async fn stop(&self, grace: std::time::Duration) -> Result<Rental, Trouble> {
        self.lease.check()?;
        let asked = self.context.clock.now();
        let mut exit = self.context.runtime.stop(self.rental.launch(), grace).await?;
        if let Some(exit) = &mut exit {
            exit.finished_at = crate::clock::to_micros(exit.finished_at);
        }
        self.context.failpoints.pass("stopped-unrecorded");
        let now = self.context.clock.now();
        let at = now.wall;
        let ended = self.ended(exit.as_ref(), asked, &now);
        // Where there is no container, there is no output either.
        let tail = if exit.is_some() { Some(self.kept_log(at).await) } else { None };
        let rental = self
            .record_so(RentalEvent::Stopped { exit, ended }, at, tail.filter(|tail| !tail.lines.is_empty()))
            .await?;
        self.context.failpoints.pass("stopped");
        Ok(rental)
    }

    /// When the container ended, on both clocks.
    pub(super) fn ended(&self, exit: Option<&Exit>, asked: Moment, now: &Moment) -> Option<Moment> {
        // What ran and never let its renter in may be paid for from its start.
        let paid_from = self.rental.paid_from().or(self.rental.started())?;
        let last_seen = self.last_seen.as_ref();
        let Some(exit) = exit else {
            // Gone without a record: it is paid for as long as it was seen.
            return Some(last_seen.unwrap_or(paid_from).clone());
        };
        if ended_with_the_machine(&self.rental, exit, last_seen, now) {
            return Some(last_seen.unwrap_or(paid_from).clone());
        }
        if paid_from.boot.boot != now.boot.boot {
            return None;
        }
        let seen = last_seen.unwrap_or(paid_from);
        let age = now.wall.duration_since(exit.finished_at);
        let lies_ahead = age < -MAX_CLOCK_LEAD;
        let clock_was_set = lies_ahead || age > now.since(seen);
        let ended_by_us = self.rental.state().end_reason().is_none_or(EndReason::is_carried_out_by_the_host);
        // Then the engine's stamp says nothing. It was running a moment ago, and so ran until we stopped it.
        if clock_was_set && ended_by_us && now.since(seen) < WATCHDOG_TOLERANCE {
            return Some(asked);
        }
        // Nobody pays for more than what was seen.
        if lies_ahead {
            return Some(seen.clone());
        }
        Some(on_both_clocks(exit.finished_at, now, seen))
    }

    pub(super) async fn retain(&self) -> Result<Rental, Trouble> {
        self.lease.check()?;
        let retained = self.context.runtime.retain(self.rental.launch()).await?;
        self.forget_deadline().await;
        self.context.failpoints.pass("suspended-unrecorded");
        let rental = self.record(RentalEvent::Suspended { since: self.context.clock.now(), retained }).await?;
        self.context.failpoints.pass("suspended");
        Ok(rental)
    }

    pub(super) async fn forget_deadline(&self) {
        if let Err(error) = self.context.deadlines.forget(self.rental.id()).await {
            // Of no harm: what does not run cannot be stopped again.
            tracing::warn!(rental = %self.rental.id(), error = &error as &dyn Error, "a deadline was not struck out");
        }
    }

    pub(super) async fn remove(&self) -> Result<Rental, Trouble> {
        self.lease.check()?;
        self.context.runtime.remove(self.rental.launch()).await?;
        self.forget_deadline().await;
        self.context.failpoints.pass("removed-unrecorded");
        let rental = self.record(RentalEvent::Ended).await?;
        self.context.failpoints.pass("removed");
        Ok(rental)
    }
}
