//! One action on one rental: the effect on the engine, then its record in the store.
//!
//! Effects are idempotent and come before their record, so a crash in between repeats the effect, which
//! finds itself done.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;

use futures_util::{FutureExt, select_biased};
use jiff::{SignedDuration, Timestamp};

use crate::allocation::Held;
use crate::clock::{Moment, Sleep};
use crate::host::context::Shared;
use crate::host::lease::{Lapsed, Lease};
use crate::host::reconcile::clock_mapping::{ended_with_the_machine, on_both_clocks, paid_from};
use crate::host::{AccessError, Update};
use crate::id::{Epoch, LaunchId, RentalId};
use crate::model::{
    Action, Adoption, EndReason, Event, Exit, Failure, FailureKind, Files, Gpu, HostPort, Next, Outcome, Rental,
    Secrets, State, SuspendCause,
};
use crate::runtime::{Created, Examined, LaunchSpec, Progress, PullProgress, RuntimeError};
use crate::store::{Change, Deadline, LogTail, StoreError};

/// How a step ended.
#[derive(Debug)]
pub(super) enum Stepped {
    /// The image is here; nothing was recorded, since nothing depends on it.
    Prepared,
    /// The rental moved on.
    Moved(Box<Rental>),
}

/// Why a step did not move the rental.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    /// The rental is another than it was believed to be: read it again.
    #[error("the rental changed in between")]
    Stale,
    /// The rental, as somebody else has changed it: what happened is not true of it any more.
    #[error("the rental changed in between")]
    Overtaken(Box<Rental>),
    /// The host is no longer ours.
    #[error("the host is no longer ours")]
    Fenced,
    /// Something does not answer: try again later.
    #[error("something does not answer")]
    Later(#[source] Box<dyn Error + Send + Sync>),
    /// The same, and something is due in this time: try again by then.
    #[error("something does not answer")]
    LaterBut(#[source] Box<dyn Error + Send + Sync>, std::time::Duration),
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict => Self::Stale,
            StoreError::Fenced => Self::Fenced,
            other => Self::Later(Box::new(other)),
        }
    }
}

/// What a step may fail with before it is decided what that means.
enum Trouble {
    Runtime(RuntimeError),
    Step(StepError),
}

impl From<RuntimeError> for Trouble {
    fn from(error: RuntimeError) -> Self {
        Self::Runtime(error)
    }
}

impl From<Lapsed> for StepError {
    fn from(lapsed: Lapsed) -> Self {
        Self::Later(Box::new(lapsed))
    }
}

impl From<Lapsed> for Trouble {
    fn from(lapsed: Lapsed) -> Self {
        Self::Step(lapsed.into())
    }
}

impl From<StepError> for Trouble {
    fn from(error: StepError) -> Self {
        Self::Step(error)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Step(error.into())
    }
}

/// One rental, as it was read, in the hands of one step.
pub(super) struct Step {
    pub(super) shared: Arc<Shared>,
    pub(super) sleep: Arc<dyn Sleep>,
    pub(super) epoch: Epoch,
    pub(super) rental: Rental,
    pub(super) lease: Lease,
    /// When its container was last seen running.
    pub(super) last_seen: Option<Moment>,
}

/// What a runtime may take beyond the time it is given to verify access.
const VERIFY_SLACK: std::time::Duration = std::time::Duration::from_secs(15);

/// How long an expired rental waits for the store before its container is stopped.
const EXPIRY_PATIENCE: std::time::Duration = std::time::Duration::from_millis(200);

/// How long the renter's container may take to be told something: a help, which holds nothing else up.
const TELL_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// A container that was seen running so long ago is believed to have run until it was stopped.
const A_MOMENT: SignedDuration = SignedDuration::from_secs(5);

/// An end that lies so far in the future was stamped by a clock that was set back since, and may lie anywhere.
const AHEAD: SignedDuration = SignedDuration::from_secs(1);

/// For how long a port is not given out that somebody outside the books was found to have: 10 minutes.
const PORT_QUARANTINE_MICROS: i64 = 10 * 60 * 1_000_000;

/// For how long a GPU on which a launch failed is given out last: half an hour.
const SUSPICION_MICROS: i64 = 30 * 60 * 1_000_000;

/// How many lines of output outlive the container.
const KEPT_LINES: usize = 200;
/// How long a stopped container's output may take to be read.
const LOG_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// How often a record is tried while others write in between.
const RECORD_TRIES: usize = 8;

/// How many of the container's last lines a failure keeps.
const LOG_TAIL_LINES: usize = 20;
/// How much of one such line.
const LOG_LINE_CHARS: usize = 512;

impl Step {
    /// Fetches what the container needs. May be dropped at any time.
    pub(super) async fn prepare(self) -> Result<Stepped, StepError> {
        let progress = Reporter { shared: &self.shared, rental: self.rental.id() };
        let registry = match self.secrets().await {
            Ok(secrets) => secrets.registry,
            Err(Trouble::Step(error)) => return Err(error),
            Err(Trouble::Runtime(error)) => return self.give_up_or_retry(error).await,
        };
        let launch = LaunchSpec::of(&self.rental);
        match self.shared.runtime.prepare(&launch, registry.as_ref(), &progress).await {
            Ok(prepared) if self.rental.spec().pin_image && self.rental.pinned().is_none() => {
                let Some(digest) = prepared.digest else {
                    let source = "it has no digest to be pinned to: it was never in a registry".into();
                    return self.give_up_or_retry(RuntimeError::ImageUnavailable { image: launch.image, source }).await;
                };
                let rental = self.record(Event::Pinned { digest }).await?;
                Ok(Stepped::Moved(Box::new(rental)))
            }
            Ok(_) => Ok(Stepped::Prepared),
            Err(error) => self.give_up_or_retry(error).await,
        }
    }

    /// Takes over a container of a later launch than the store knows of: the store was restored from a backup.
    pub(super) async fn take_up(self, launch: LaunchId) -> Result<Stepped, StepError> {
        match self.shared.runtime.examine(launch).await {
            Ok(Some(mut found)) => {
                // A container that was taken over carries the claim of the launch that it was made for.
                if let Some(kept) = self.shared.deadlines.of(launch).await {
                    found.claim.used = found.claim.used.max(kept.used);
                }
                let is_new = |gpu: &&Gpu| !self.rental.gpus().iter().any(|known| known.uuid == gpu.uuid);
                let taken: Vec<Gpu> = found.claim.gpus.iter().filter(is_new).cloned().collect();
                if found.retained.is_some()
                    && self.shared.placement.quarantine.another_has_any_of(launch.rental, &taken)
                {
                    // It is in no hurry: what it had is somebody else's, of whom the store is still to be told.
                    return Err(StepError::Stale);
                }
                let event = adopted(launch, &found);
                tracing::warn!(%launch, "a launch is further than the store knows, and is gone on with");
                let is_known = matches!(self.rental.state(), State::Running | State::Ready)
                    && launch.attempt == self.rental.attempt();
                let rental = match if is_known { Ok(self.rental.clone()) } else { self.record(event).await } {
                    Err(changed @ (StepError::Stale | StepError::Overtaken(_))) => {
                        // Somebody else has its place by now. Until that is settled it has its time, and no more.
                        self.stop_if_overdue(launch).await?;
                        return Err(changed);
                    }
                    other => other?,
                };
                if found.retained.is_some() {
                    // It was suspended, and its files are to be kept.
                    let step = Self { rental, ..self };
                    let event = Event::SuspendBegan { cause: SuspendCause::Requested };
                    return Ok(Stepped::Moved(Box::new(step.record(event).await?)));
                }
                match self.shared.deadlines.of(launch).await.filter(|_| rental.started_at().is_some()) {
                    // It was ready before, and paid for since then.
                    Some(kept) => {
                        let step = Self { rental, ..self };
                        let ready = step.record(Event::Verified { paid_from: kept.paid_from }).await?;
                        if !ready.spec().term.is_shorter_than(kept.term) {
                            return Ok(Stepped::Moved(Box::new(ready)));
                        }
                        // What was promised once is kept.
                        let step = Self { rental: ready, ..step };
                        let extended = step.record(Event::Extended { term: kept.term }).await?;
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
    async fn stop_if_overdue(&self, launch: LaunchId) -> Result<(), StepError> {
        let left = self.shared.deadlines.of(launch).await.and_then(|kept| kept.time_left(&self.shared.clock.now()));
        if left.is_some_and(|left| !left.is_positive()) {
            self.lease.check()?;
            let stopped = self.shared.runtime.stop(launch, std::time::Duration::ZERO).await;
            stopped.map_err(|error| StepError::Later(Box::new(error)))?;
        }
        Ok(())
    }

    /// Carries out `action` and records it.
    pub(super) async fn take(self, action: Action) -> Result<Stepped, StepError> {
        let result = match action {
            Action::Create => self.create().await,
            Action::Start => self.start().await,
            Action::Verify { within } => self.verify(within).await,
            Action::ReplaceAccess => self.replace_access().await,
            Action::Warn => self.tell(&self.warning(), Event::Warned).await,
            Action::WithdrawWarning => self.tell(&self.all_clear(), Event::WarningWithdrawn).await,
            Action::WarnOfDisk { used, limit } => {
                let message = format!(
                    "This rental uses {} that it may have on this host's disk. Make room: it ends if it writes beyond that.",
                    used.beside(limit)
                );
                self.tell(&message, Event::DiskWarned { used, limit }).await
            }
            Action::TellServices(services) => self.record(Event::ServicesUp { services }).await.map_err(Trouble::Step),
            Action::Notify => self.notify().await,
            Action::End(reason) => self.end(reason).await,
            Action::Stop { grace } => self.stop(grace).await,
            Action::Retain => self.retain().await,
            Action::Remove => self.remove().await,
        };
        match result {
            Ok(rental) => Ok(Stepped::Moved(Box::new(rental))),
            Err(Trouble::Step(error)) => Err(error),
            Err(Trouble::Runtime(error)) => self.give_up_or_retry(error).await,
        }
    }

    async fn create(&self) -> Result<Rental, Trouble> {
        let secrets = self.secrets().await?;
        self.lease.check()?;
        let created = self.shared.runtime.create(&LaunchSpec::of(&self.rental), &secrets).await?;
        self.shared.failpoints.pass("created-unrecorded");
        let Created { container, gpus_attached, is_new, image, files, copied_bytes } = created;
        if files == Files::Lost {
            tracing::warn!(rental = %self.rental.id(), "its last container is gone: it begins anew, without its files");
        }
        // One that was found may have started long ago.
        let at = is_new.then(|| self.shared.clock.now());
        let event = Event::Created { container, gpus_attached, at, image: image.map(Box::new), files, copied_bytes };
        let rental = self.record(event).await?;
        self.shared.failpoints.pass("created");
        Ok(rental)
    }

    async fn secrets(&self) -> Result<Secrets, Trouble> {
        match self.shared.secrets(self.rental.id()).await {
            Ok(Some(secrets)) => Ok(secrets),
            // Erased, because the rental has ended in between (its record then tells), or lost.
            Ok(None) => Err(RuntimeError::Refused("the rental's credential is gone".into()).into()),
            Err(AccessError::Store(error)) => Err(error.into()),
            Err(AccessError::Seal(error)) => Err(RuntimeError::Refused(Box::new(error)).into()),
        }
    }

    /// Lets in by the stored credential. A container that does not take it now keeps its renter, and is
    /// asked again; one that has ended is found out by the next observation.
    async fn replace_access(&self) -> Result<Rental, Trouble> {
        let secrets = match self.secrets().await {
            Ok(secrets) => secrets,
            Err(Trouble::Runtime(error)) => return Err(StepError::Later(Box::new(error)).into()),
            Err(other) => return Err(other),
        };
        self.lease.check()?;
        let replaced = self.shared.runtime.replace_access(&LaunchSpec::of(&self.rental), &secrets).await;
        replaced.map_err(|error| StepError::Later(Box::new(error)))?;
        self.shared.failpoints.pass("access-unrecorded");
        let rental = self.record(Event::AccessApplied).await?;
        self.shared.failpoints.pass("access");
        Ok(rental)
    }

    /// Leaves a message inside the container. One that does not arrive (the renter's processes may fill
    /// the container) is recorded all the same: the platform heard the event, and time goes on.
    async fn tell(&self, message: &str, event: Event) -> Result<Rental, Trouble> {
        self.lease.check()?;
        let mut announce = self.shared.runtime.announce(self.rental.launch(), message).fuse();
        let mut too_late = self.sleep.sleep(TELL_PATIENCE).fuse();
        select_biased! {
            told = announce => if let Err(error) = told {
                tracing::warn!(rental = %self.rental.id(), error = &error as &dyn Error, "the renter was not told");
            },
            () = too_late => tracing::warn!(rental = %self.rental.id(), "the renter was not told in time"),
        }
        self.shared.failpoints.pass("warned-unrecorded");
        let rental = self.record(event).await?;
        self.shared.failpoints.pass("warned");
        Ok(rental)
    }

    fn warning(&self) -> String {
        let left = self.rental.time_left(&self.shared.clock.now()).unwrap_or_default();
        let left = match left.as_mins() {
            0 => format!("{} seconds", left.as_secs().max(0)),
            1 => "1 minute".to_owned(),
            minutes => format!("{minutes} minutes"),
        };
        format!("This rental ends at {} UTC, in {left}. Save your work now, or have it extended.", self.end_of_term())
    }

    fn all_clear(&self) -> String {
        format!("This rental was extended. It now ends at {} UTC.", self.end_of_term())
    }

    fn end_of_term(&self) -> String {
        let end = self.rental.expires_at().unwrap_or_else(|| self.shared.clock.now().wall);
        end.strftime("%Y-%m-%d %H:%M:%S").to_string()
    }

    async fn start(&self) -> Result<Rental, Trouble> {
        self.lease.check()?;
        let asked = self.shared.clock.now();
        let started_at = match self.shared.runtime.start(&LaunchSpec::of(&self.rental)).await {
            Ok(started_at) => crate::clock::to_micros(started_at),
            Err(RuntimeError::PortTaken { port, source }) => return self.relaunch(port, source).await,
            Err(error) => return Err(error.into()),
        };
        self.shared.failpoints.pass("started-unrecorded");
        // It was started now, or (where a crash came in between) at some time after the claim.
        let not_before = if started_at >= asked.wall { Some(&asked) } else { self.rental.not_started_before() };
        let started = on_both_clocks(started_at, &self.shared.clock.now(), not_before);
        let rental = self.record(Event::Started { started_at, started: Some(started) }).await?;
        self.shared.failpoints.pass("started");
        Ok(rental)
    }

    /// Somebody outside our books has a port: the container is removed and made again with others, if
    /// the renter did not ask for that very one and it was not tried too often.
    async fn relaunch(&self, port: HostPort, source: crate::error::Cause) -> Result<Rental, Trouble> {
        let asked_for = self.rental.spec().ports.as_slice().iter().any(|wanted| wanted.host == Some(port));
        if asked_for || self.rental.relaunches() >= u64::from(self.shared.timing.relaunches) {
            return Err(RuntimeError::PortTaken { port, source }.into());
        }
        tracing::warn!(rental = %self.rental.id(), %port, "port is taken by another program; launching again");
        let mut held = self.shared.store.held(&self.shared.host).await?;
        // Our own holds are given up with the same write, but a port that failed is not tried again.
        let own: BTreeSet<_> = self.rental.ports().iter().map(|binding| binding.host).collect();
        held.ports.retain(|held| !own.contains(held));
        held.ports.insert(port);
        let until = self.shared.clock.now().boot.micros.saturating_add(PORT_QUARANTINE_MICROS);
        self.shared.placement.quarantine.port(port, until);
        let ports = self.shared.placement.ports(self.rental.launch().next(), self.rental.spec(), &held);
        let ports = ports.map_err(|why| RuntimeError::Refused(Box::new(why)))?;
        let rental = self.record(Event::Relaunched { ports }).await?;
        if rental.retained().is_some() {
            // It holds the files for the next one.
            return Ok(rental);
        }
        // It never ran. A crash before this line, or a failure of it, leaves it to the next observation.
        let removed = match self.lease.check() {
            Ok(()) => self.shared.runtime.remove(self.rental.launch()).await,
            Err(lapsed) => Err(RuntimeError::Unavailable(Box::new(lapsed))),
        };
        if let Err(error) = removed {
            self.shared.placement.quarantine.lost(self.rental.launch(), Held::of(&self.rental));
            tracing::warn!(launch = %self.rental.launch(), error = &error as &dyn Error, "old container left for later");
        }
        Ok(rental)
    }

    async fn verify(&self, within: std::time::Duration) -> Result<Rental, Trouble> {
        // A runtime bounds its own time; a rental that is neither ready nor given up would cost its GPU.
        let launch = LaunchSpec::of(&self.rental);
        // Whatever it was found to be, it was so then or later.
        let asked = self.shared.clock.now();
        let mut verify = self.shared.runtime.verify(&launch, within).fuse();
        let mut too_late = self.sleep.sleep(within + VERIFY_SLACK).fuse();
        select_biased! {
            verified = verify => verified?,
            () = too_late => return Err(RuntimeError::AccessTimeout(within).into()),
        }
        let paid_from = paid_from(&self.rental, &self.shared.clock.now());
        self.keep_deadline(&self.rental, &paid_from, asked.clone()).await;
        self.shared.failpoints.pass("ready-unrecorded");
        self.shared.placement.quarantine.trust(self.rental.gpus());
        let rental = self.record(Event::Verified { paid_from: paid_from.clone() }).await?;
        if self.rental.spec().term.is_shorter_than(rental.spec().term) {
            // Extended while it was verified: the book knew nothing of it then.
            self.keep_deadline(&rental, &paid_from, asked).await;
        }
        self.shared.failpoints.pass("ready");
        Ok(rental)
    }

    /// The host itself has to know the end, in case the store is away by then.
    async fn keep_deadline(&self, rental: &Rental, paid_from: &Moment, last_seen: Moment) {
        let deadline = Deadline {
            launch: rental.launch(),
            paid_from: paid_from.clone(),
            term: rental.spec().term,
            used: rental.used_before(),
            last_seen,
        };
        if let Err(error) = self.shared.deadlines.keep(deadline).await {
            // The store has it too. A host whose disk is full serves its tenants all the same.
            tracing::error!(rental = %self.rental.id(), error = &error as &dyn Error, "the end was not written down");
        }
    }

    async fn notify(&self) -> Result<Rental, Trouble> {
        self.lease.check()?;
        match self.shared.runtime.notify(self.rental.launch()).await {
            // A container that is gone or has ended needs no notice; the observation deals with it.
            Ok(()) | Err(RuntimeError::Missing | RuntimeError::Exited(_)) => {}
            // A notice is a courtesy: one that cannot be given must not hold up the end itself.
            Err(error) => tracing::warn!(rental = %self.rental.id(), error = &error as &dyn Error, "no notice given"),
        }
        Ok(self.record(Event::Notified).await?)
    }

    async fn end(&self, reason: EndReason) -> Result<Rental, Trouble> {
        let reason = match reason {
            EndReason::Expired => reason,
            EndReason::Failed(failure) => return Ok(self.record(self.rental.giving_up(failure)).await?),
            other => return Ok(self.record(Event::EndBegan { reason: other }).await?),
        };
        // The paid time is over whether or not the store answers: it gets a moment to say that the rental
        // was changed, no more. The engine's own record of the end is committed once it answers.
        let mut record = std::pin::pin!(self.record(Event::EndBegan { reason }).fuse());
        let mut patience = self.sleep.sleep(EXPIRY_PATIENCE).fuse();
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
    async fn stop_unrecorded(&self) -> Result<Option<std::time::Duration>, Trouble> {
        self.lease.check()?;
        let kept = self.shared.deadlines.of(self.rental.launch()).await;
        let left = kept.and_then(|kept| kept.time_left(&self.shared.clock.now()));
        if let Some(left) = left.filter(|left| left.is_positive()) {
            return Ok(Some(left.unsigned_abs()));
        }
        self.shared.runtime.stop(self.rental.launch(), std::time::Duration::ZERO).await?;
        Ok(None)
    }

    async fn stop(&self, grace: std::time::Duration) -> Result<Rental, Trouble> {
        self.lease.check()?;
        let asked = self.shared.clock.now();
        let mut exit = self.shared.runtime.stop(self.rental.launch(), grace).await?;
        if let Some(exit) = &mut exit {
            exit.finished_at = crate::clock::to_micros(exit.finished_at);
        }
        self.shared.failpoints.pass("stopped-unrecorded");
        let now = self.shared.clock.now();
        let at = now.wall;
        let ended = self.ended(exit.as_ref(), asked, &now);
        // Where there is no container, there is no output either.
        let tail = if exit.is_some() { Some(self.kept_log(at).await) } else { None };
        let rental =
            self.record_so(Event::Stopped { exit, ended }, at, tail.filter(|tail| !tail.lines.is_empty())).await?;
        self.shared.failpoints.pass("stopped");
        Ok(rental)
    }

    /// When the container ended, on both clocks.
    fn ended(&self, exit: Option<&Exit>, asked: Moment, now: &Moment) -> Option<Moment> {
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
        let lies_ahead = age < -AHEAD;
        let clock_was_set = lies_ahead || age > now.since(seen);
        let ended_by_us = match self.rental.state().end_reason() {
            Some(reason) => {
                matches!(reason, EndReason::Expired | EndReason::Cancelled | EndReason::DiskFull { .. })
            }
            None => true,
        };
        // Then the engine's stamp says nothing. It was running a moment ago, and so ran until we stopped it.
        if clock_was_set && ended_by_us && now.since(seen) < A_MOMENT {
            return Some(asked);
        }
        // Nobody pays for more than what was seen.
        if lies_ahead {
            return Some(seen.clone());
        }
        Some(on_both_clocks(exit.finished_at, now, Some(seen)))
    }

    async fn retain(&self) -> Result<Rental, Trouble> {
        self.lease.check()?;
        let retained = self.shared.runtime.retain(self.rental.launch()).await?;
        self.forget_deadline().await;
        self.shared.failpoints.pass("suspended-unrecorded");
        let rental = self.record(Event::Suspended { since: self.shared.clock.now(), retained }).await?;
        self.shared.failpoints.pass("suspended");
        Ok(rental)
    }

    async fn forget_deadline(&self) {
        if let Err(error) = self.shared.deadlines.forget(self.rental.id()).await {
            // Of no harm: what does not run cannot be stopped again.
            tracing::warn!(rental = %self.rental.id(), error = &error as &dyn Error, "a deadline was not struck out");
        }
    }

    async fn remove(&self) -> Result<Rental, Trouble> {
        self.lease.check()?;
        self.shared.runtime.remove(self.rental.launch()).await?;
        self.forget_deadline().await;
        self.shared.failpoints.pass("removed-unrecorded");
        let rental = self.record(Event::Ended).await?;
        self.shared.failpoints.pass("removed");
        Ok(rental)
    }

    /// Writes an event of the rental, as the holder of the host.
    async fn record(&self, event: Event) -> Result<Rental, StepError> {
        self.record_so(event, self.shared.clock.now().wall, None).await
    }

    /// Others may change the rental at any time (its end, its credential): where what happened is just as
    /// true of the rental as it is by then, it is recorded there. Otherwise whoever writes often enough
    /// could keep anything from being recorded.
    async fn record_so(&self, event: Event, at: Timestamp, tail: Option<LogTail>) -> Result<Rental, StepError> {
        let mut rental = self.rental.clone();
        for _ in 0..RECORD_TRIES {
            let mut change = Change::observation(rental.clone(), self.epoch);
            if let Some(tail) = &tail {
                change = change.with_log_tail(tail.clone());
            }
            match change.apply(event.clone(), at) {
                Ok(Outcome::Changed) => {}
                Ok(Outcome::Unchanged) => return Ok(change.into_rental()),
                Err(_illegal) => return Err(StepError::Stale),
            }
            match self.shared.store.commit(&change).await {
                Ok(()) => {
                    let state = change.rental().state().phase().as_str();
                    tracing::info!(rental = %rental.id(), state, "{}", event.name());
                    return Ok(change.into_rental());
                }
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
            let Some(found) = self.shared.store.get(rental.id()).await? else { return Err(StepError::Stale) };
            if !self.holds_of(&event, &found) {
                return Err(StepError::Overtaken(Box::new(found)));
            }
            rental = found;
        }
        Err(StepError::Stale)
    }

    /// Whether what happened to the rental as it was believed to be also happened to it as it is.
    fn holds_of(&self, event: &Event, found: &Rental) -> bool {
        let same_container = found.launch() == self.rental.launch() && found.container() == self.rental.container();
        same_container
            && match event {
                Event::Started { .. } | Event::Verified { .. } | Event::Stopped { .. } | Event::Ended => true,
                Event::EndBegan { reason: EndReason::Expired } => {
                    let next = found.next(&self.shared.clock.now(), &self.shared.timing);
                    next == Next::Now(Action::End(EndReason::Expired))
                }
                // It came up after all, and what failed is no failure of its launch.
                Event::EndBegan { reason: EndReason::Failed(_) }
                | Event::SuspendBegan { cause: SuspendCause::Failed(_) } => is_on_its_way_up(found),
                Event::EndBegan { .. } => true,
                Event::SuspendBegan { .. } => found.state().end_reason().is_none(),
                // It was wanted in between that it ends instead.
                Event::Suspended { .. } => found.state().suspend_cause().is_some(),
                // Made with, or told of, what may be another by now.
                _ => false,
            }
    }

    /// A rental on its way up that cannot get there ends with the reason; everything else is tried again.
    async fn give_up_or_retry(&self, error: RuntimeError) -> Result<Stepped, StepError> {
        let Some(kind) = error.failure().filter(|_| is_on_its_way_up(&self.rental)) else {
            return Err(StepError::Later(Box::new(error)));
        };
        if matches!(kind, FailureKind::WrongDevices | FailureKind::Refused) {
            let until = self.shared.clock.now().boot.micros.saturating_add(SUSPICION_MICROS);
            self.shared.placement.quarantine.suspect(self.rental.gpus(), until);
        }
        let log_tail = self.log_tail(kind).await;
        tracing::warn!(rental = %self.rental.id(), error = &error as &dyn Error, "rental failed");
        let failure = Failure { kind, detail: with_causes(&error), log_tail };
        let rental = self.record(self.rental.giving_up(failure)).await?;
        Ok(Stepped::Moved(Box::new(rental)))
    }

    async fn log_tail(&self, kind: FailureKind) -> Vec<String> {
        if !matches!(
            kind,
            FailureKind::ExitedEarly | FailureKind::AccessTimeout | FailureKind::NoLogin | FailureKind::Refused
        ) {
            return Vec::new();
        }
        self.last_lines(LOG_TAIL_LINES).await
    }

    /// What is kept of a stopped container's output once the container is gone.
    async fn kept_log(&self, now: Timestamp) -> LogTail {
        let until = now.saturating_add(self.shared.timing.keep_logs).unwrap_or(now);
        LogTail { lines: self.last_lines(KEPT_LINES).await, at: now, until }
    }

    /// The output is a help for people; a record without it is better than none.
    async fn last_lines(&self, most: usize) -> Vec<String> {
        let mut read = self.shared.runtime.logs(self.rental.launch(), most).fuse();
        let mut too_late = self.sleep.sleep(LOG_PATIENCE).fuse();
        let lines = select_biased! {
            lines = read => lines.unwrap_or_default(),
            () = too_late => Vec::new(),
        };
        // A program may print anything; control characters do not belong into a database or a terminal.
        let plain = |line: String| line.chars().filter(|c| !c.is_control()).take(LOG_LINE_CHARS).collect();
        lines.into_iter().map(plain).collect()
    }
}

/// Whether a rental is launched, and not ready.
fn is_on_its_way_up(rental: &Rental) -> bool {
    matches!(rental.state(), State::Provisioning | State::Running)
}

/// What a container that was found says of its launch.
pub(super) fn adopted(launch: LaunchId, found: &Examined) -> Event {
    Event::Adopted(Box::new(Adoption {
        attempt: launch.attempt,
        container: found.container.clone(),
        ports: found.claim.ports.clone(),
        gpus_attached: found.gpus_attached,
        started_at: found.started_at.map(crate::clock::to_micros),
        claim: Some(found.claim.clone()),
    }))
}

/// An error and its causes in one line: for the rental's own record, which has no room for a chain.
pub(super) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text.chars().filter(|c| !c.is_control()).take(1024).collect()
}

struct Reporter<'a> {
    shared: &'a Shared,
    rental: RentalId,
}

impl PullProgress for Reporter<'_> {
    fn update(&self, progress: Progress) {
        self.shared.feed.push(Update::Progress { rental: self.rental, progress });
    }
}
