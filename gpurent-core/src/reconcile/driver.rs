//! Decides what runs when: which rental's step, which chore, how long to sleep.
//!
//! One future, no tasks of its own. Effects run side by side inside it, at most one for each rental, and
//! a panic in one is contained. Only pulls, checks and warnings are cut off when a rental has to end; the
//! other steps are awaited, because a request that was cut off may still reach the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable, BoxFuture, Fuse, FusedFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{FutureExt, select_biased};

use super::ReconcileError;
use super::chores::{PUBLISH_BATCH, observe, publish, take_over};
use super::duty::{Duty, backoff, later};
use super::step::{Step, StepError, Stepped};
use crate::clock::Sleep;
use crate::event::JournalEntry;
use crate::feed::Update;
use crate::host::Shared;
use crate::id::{EngineId, Epoch, LaunchId, Position, RentalId};
use crate::lifecycle::{EndReason, Exit, Failure, FailureKind, State};
use crate::rental::{Action, Next, Rental};
use crate::runtime::{Observation, Presence, RuntimeError};
use crate::store::{StoreError, Tenure};

/// What ended.
enum Done {
    Read(Result<Vec<Rental>, StoreError>),
    Observed(Result<Observation, RuntimeError>),
    Published(Result<Vec<JournalEntry>, StoreError>),
    Confirmed(Result<(), StoreError>),
    Stepped(RentalId, Ended),
    Reaped(LaunchId, Orphan),
}

/// What became of a container that no live rental has a use for.
enum Orphan {
    Removed,
    /// The store does not know its rental: left alone.
    Unknown,
    /// Something failed; the next observation tries again.
    Kept,
}

/// How a step came to its end.
enum Ended {
    With(Result<Stepped, StepError>),
    CutOff,
    Panicked,
}

/// A step under way.
struct InFlight {
    /// Whether it ends a rental whose time is over.
    expiring: bool,
    /// Whether it gives way to what is due by the clock.
    deferrable: bool,
    /// Set where the step may be cut off.
    abort: Option<AbortHandle>,
}

/// How a rental's steps failed lately.
struct Setback {
    /// Whether what failed was the end of a rental whose time is over.
    expiring: bool,
    /// Whether what failed gives way to what is due by the clock.
    deferrable: bool,
    failures: u32,
    not_before: i64,
}

pub(super) struct Driver {
    shared: Arc<Shared>,
    sleep: Arc<dyn Sleep>,
    epoch: Epoch,
    /// The engine that was taken over.
    engine: EngineId,
    running: FuturesUnordered<BoxFuture<'static, Done>>,

    /// The host's rentals as last known; the highest revision wins.
    live: BTreeMap<RentalId, Rental>,
    in_flight: BTreeMap<RentalId, InFlight>,
    setbacks: BTreeMap<RentalId, Setback>,
    /// Launches whose image is here.
    prepared: BTreeSet<LaunchId>,
    /// What an observation found about rentals that believe to be running.
    ended_by_themselves: BTreeMap<RentalId, EndReason>,
    last_seen: BTreeMap<RentalId, jiff::Timestamp>,
    reaping: BTreeSet<LaunchId>,
    /// Containers of rentals that the store does not know: never touched, told of once.
    quarantined: BTreeSet<LaunchId>,

    /// The last position that subscribers were given.
    fed: Position,

    /// Rentals that a step changed while a read was under way: what the read says of them is older.
    moved_during_read: BTreeSet<RentalId>,
    /// Rentals that a step worked on while an observation was under way: it says nothing of them.
    acted_during_observation: BTreeSet<RentalId>,

    read: Duty,
    observe: Duty,
    publish: Duty,
    confirm: Duty,
    sweep: Duty,
}

impl Driver {
    fn new(shared: Arc<Shared>, sleep: Arc<dyn Sleep>, engine: EngineId, tenure: Tenure) -> Self {
        Self {
            shared,
            sleep,
            epoch: tenure.epoch,
            engine,
            running: FuturesUnordered::new(),
            live: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            setbacks: BTreeMap::new(),
            prepared: BTreeSet::new(),
            ended_by_themselves: BTreeMap::new(),
            last_seen: BTreeMap::new(),
            reaping: BTreeSet::new(),
            quarantined: BTreeSet::new(),
            fed: tenure.last_position,
            moved_during_read: BTreeSet::new(),
            acted_during_observation: BTreeSet::new(),
            read: Duty::due_now(),
            observe: Duty::due_now(),
            publish: Duty::due_now(),
            confirm: Duty::due_now(),
            sweep: Duty::due_now(),
        }
    }

    /// Takes over the host and acts for it until `shutdown` ends.
    pub(super) async fn run(
        shared: Arc<Shared>,
        sleep: Arc<dyn Sleep>,
        mut shutdown: Fuse<BoxFuture<'_, ()>>,
    ) -> Result<(), ReconcileError> {
        let Some((engine, tenure)) = take_over(&shared, &*sleep, &mut shutdown).await? else { return Ok(()) };
        shared.feed.begin_at(tenure.last_position);
        Self::new(shared, sleep, engine, tenure).act(shutdown).await
    }

    async fn act(mut self, mut shutdown: Fuse<BoxFuture<'_, ()>>) -> Result<(), ReconcileError> {
        loop {
            // The bell is listened to before the flag is read, so that no nudge falls in between.
            let mut bell = self.shared.bell.listen().fuse();
            if self.shared.intent_pending.swap(false, Ordering::SeqCst) {
                self.read.ask();
                self.publish.ask();
            }
            let now = self.now();
            self.start_steps(now);
            self.start_duties(now);
            let mut timer = self.sleep.sleep(self.pause(now)).fuse();
            select_biased! {
                () = shutdown => break,
                done = self.running.select_next_some() => self.finish(done)?,
                () = bell => {}
                () = timer => {}
            }
        }
        self.drain().await;
        Ok(())
    }

    fn now(&self) -> i64 {
        self.shared.clock.now().boot.micros
    }

    /// How long nothing happens by itself.
    fn pause(&self, now: i64) -> Duration {
        let chores = [&self.read, &self.observe, &self.publish, &self.confirm, &self.sweep];
        let mut wake = chores.iter().filter_map(|duty| duty.due()).min().unwrap_or(i64::MAX);
        let moment = self.shared.clock.now();
        for (id, rental) in &self.live {
            let wait = match self.in_flight.get(id) {
                // What may be cut off is cut off when the rental's time is over.
                Some(step) if step.abort.is_some() => rental.until_due(&moment, &self.shared.timing),
                Some(_) => None,
                None => match rental.next(&moment, &self.shared.timing) {
                    Next::After(wait) => Some(wait),
                    // It may be held up by a setback; the clock goes on.
                    Next::Now(_) | Next::Idle => rental.until_due(&moment, &self.shared.timing),
                },
            };
            if let Some(wait) = wait.filter(|wait| wait.is_positive()) {
                wake = wake.min(later(now, wait.unsigned_abs()));
            }
            // One that is over already waits for something else: a free place among the running steps.
            if let Some(setback) = self.setbacks.get(id).filter(|setback| setback.not_before > now) {
                wake = wake.min(setback.not_before);
            }
        }
        Duration::from_micros(u64::try_from(wake.saturating_sub(now)).unwrap_or(0))
    }

    fn start_duties(&mut self, now: i64) {
        let (shared, epoch) = (Arc::clone(&self.shared), self.epoch);
        if self.sweep.begin(now) {
            self.read.ask();
            self.observe.ask();
            self.sweep.done(now, shared.pace.sweep);
        }
        if self.confirm.begin(now) {
            let shared = Arc::clone(&shared);
            self.spawn(async move { Done::Confirmed(shared.store.confirm(&shared.host, epoch).await) });
        }
        if self.read.begin(now) {
            self.moved_during_read.clear();
            let shared = Arc::clone(&shared);
            self.spawn(async move { Done::Read(shared.store.live(&shared.host).await) });
        }
        if self.publish.begin(now) {
            let shared = Arc::clone(&shared);
            let (fed, doubt) = (self.fed, self.publish.has_failed());
            self.spawn(async move { Done::Published(publish(&shared, epoch, fed, doubt).await) });
        }
        if self.observe.begin(now) {
            self.acted_during_observation = self.in_flight.keys().copied().collect();
            let runs = |rental: &&Rental| matches!(rental.state(), State::Ready | State::Running);
            let expected: Vec<_> = self.live.values().filter(runs).map(Rental::launch).collect();
            let engine = self.engine.clone();
            self.spawn(async move { Done::Observed(observe(&shared, &engine, &expected).await) });
        }
    }

    fn spawn(&self, effect: impl Future<Output = Done> + Send + 'static) {
        self.running.push(effect.boxed());
    }

    fn start_steps(&mut self, now: i64) {
        let moment = self.shared.clock.now();
        let mut due = Vec::new();
        for (id, rental) in &self.live {
            if let Some(step) = self.in_flight.get(id) {
                let next = rental.next(&moment, &self.shared.timing);
                let ends = matches!(rental.state(), State::Ending { .. })
                    || matches!(next, Next::Now(Action::End(_)))
                    || (step.deferrable && is_due_by_the_clock(&next));
                if let Some(abort) = step.abort.as_ref().filter(|_| ends) {
                    abort.abort();
                }
                continue;
            }
            let next = rental.next(&moment, &self.shared.timing);
            let expires = next == Next::Now(Action::End(EndReason::Expired));
            // What else went wrong does not hold up the end of the paid time, nor does what can wait hold up
            // a warning.
            let held_up = |setback: &Setback| {
                let gives_way = (expires && !setback.expiring) || (setback.deferrable && is_due_by_the_clock(&next));
                setback.not_before > now && !gives_way
            };
            if self.setbacks.get(id).is_some_and(held_up) {
                continue;
            }
            let by_itself = self.ended_by_themselves.remove(id).filter(|_| rental.state().end_reason().is_none());
            match (by_itself, next) {
                // Otherwise we may have stopped it ourselves, when its time was over and the store away.
                (Some(reason), _) if !expires => due.push((*id, Action::End(reason))),
                (_, Next::Now(action)) => due.push((*id, action)),
                (_, Next::After(_) | Next::Idle) => {}
            }
        }
        for (id, action) in due {
            self.start_step(id, action);
        }
    }

    fn start_step(&mut self, id: RentalId, action: Action) {
        let Some(rental) = self.live.get(&id).cloned() else { return };
        let launch = rental.launch();
        let pulls = action == Action::Create && !self.prepared.contains(&launch);
        let may_be_cut_off = pulls
            || matches!(
                action,
                Action::Verify { .. } | Action::ReplaceAccess | Action::Warn | Action::WithdrawWarning | Action::Notify
            );
        // Taking down is never held up by what goes up.
        let goes_up = matches!(action, Action::Create | Action::Start | Action::Verify { .. });
        if goes_up && self.in_flight.len() >= self.shared.pace.concurrent_steps {
            return;
        }
        let expiring = action == Action::End(EndReason::Expired);
        let deferrable = matches!(action, Action::ReplaceAccess | Action::WithdrawWarning);
        let (shared, sleep) = (Arc::clone(&self.shared), Arc::clone(&self.sleep));
        let step = Step { shared, sleep, epoch: self.epoch, rental };
        let work = if pulls { step.prepare().boxed() } else { step.take(action).boxed() };
        let (abort, registration) = AbortHandle::new_pair();
        let abort = may_be_cut_off.then_some(abort);
        self.in_flight.insert(id, InFlight { expiring, deferrable, abort });
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

    fn finish(&mut self, done: Done) -> Result<(), ReconcileError> {
        let (now, most) = (self.now(), self.shared.pace.max_backoff);
        match done {
            Done::Confirmed(Ok(())) => self.confirm.done(now, self.shared.pace.confirm),
            Done::Published(Ok(entries)) => {
                if entries.len() == PUBLISH_BATCH {
                    self.publish.ask();
                }
                for entry in entries {
                    self.fed = entry.position;
                    self.shared.feed.push(Update::Event(Arc::new(entry)));
                }
                self.publish.done(now, self.shared.pace.read);
            }
            Done::Read(Ok(rentals)) => {
                self.adopt(rentals);
                if !self.moved_during_read.is_empty() {
                    self.read.ask();
                }
                self.read.done(now, self.shared.pace.read);
            }
            Done::Observed(Ok(observation)) => {
                self.compare(&observation);
                self.observe.done(now, self.shared.pace.observe);
            }
            Done::Confirmed(Err(StoreError::Fenced)) | Done::Published(Err(StoreError::Fenced)) => {
                return Err(ReconcileError::TakenOver);
            }
            // Without the store or the engine, nothing is concluded: everything stays as it is.
            Done::Confirmed(Err(error)) => self.confirm.failed(now, complain("confirming the host", &error, most)),
            Done::Published(Err(error)) => self.publish.failed(now, complain("publishing events", &error, most)),
            Done::Read(Err(error)) => self.read.failed(now, complain("reading the store", &error, most)),
            Done::Observed(Err(error)) => self.observe.failed(now, complain("observing the engine", &error, most)),
            Done::Reaped(launch, orphan) => {
                self.reaping.remove(&launch);
                if matches!(orphan, Orphan::Unknown) {
                    self.quarantined.insert(launch);
                }
            }
            Done::Stepped(id, ended) => return self.stepped(id, ended, now),
        }
        Ok(())
    }

    fn stepped(&mut self, id: RentalId, ended: Ended, now: i64) -> Result<(), ReconcileError> {
        let step = self.in_flight.remove(&id);
        let failed = step.map_or((false, false), |step| (step.expiring, step.deferrable));
        self.moved_during_read.insert(id);
        self.acted_during_observation.insert(id);
        match ended {
            Ended::With(Ok(Stepped::Prepared)) => {
                if let Some(rental) = self.live.get(&id) {
                    self.prepared.insert(rental.launch());
                }
                self.setbacks.remove(&id);
            }
            Ended::With(Ok(Stepped::Moved(rental))) => {
                self.setbacks.remove(&id);
                self.publish.ask();
                if rental.is_live() {
                    self.live.insert(id, *rental);
                } else {
                    self.forget(id);
                }
            }
            Ended::CutOff => {}
            Ended::With(Err(StepError::Fenced)) => return Err(ReconcileError::TakenOver),
            Ended::With(Err(StepError::Stale)) => {
                // Cleared by a read that brings another revision.
                self.set_back(id, now, failed);
                self.read.ask();
            }
            Ended::With(Err(StepError::Later(error))) => {
                self.set_back(id, now, failed);
                tracing::warn!(rental = %id, error = &*error as &dyn Error, "step to be tried again");
            }
            Ended::Panicked => {
                self.set_back(id, now, failed);
                tracing::error!(rental = %id, "step panicked; to be tried again");
            }
        }
        Ok(())
    }

    fn set_back(&mut self, id: RentalId, now: i64, (expiring, deferrable): (bool, bool)) {
        let most = self.shared.pace.max_backoff;
        let setback = self.setbacks.entry(id).or_insert(Setback { expiring, deferrable, failures: 0, not_before: 0 });
        (setback.expiring, setback.deferrable) = (expiring, deferrable);
        setback.failures = setback.failures.saturating_add(1);
        setback.not_before = later(now, backoff(setback.failures, most));
    }

    fn forget(&mut self, id: RentalId) {
        self.live.remove(&id);
        self.setbacks.remove(&id);
        self.last_seen.remove(&id);
        self.ended_by_themselves.remove(&id);
        self.prepared.retain(|launch| launch.rental != id);
    }

    /// Takes what the store says for true, except where a step knows better.
    fn adopt(&mut self, rentals: Vec<Rental>) {
        let listed: BTreeSet<_> = rentals.iter().map(Rental::id).collect();
        let busy = |id: &RentalId| self.in_flight.contains_key(id) || self.moved_during_read.contains(id);
        let gone: Vec<_> = self.live.keys().filter(|id| !listed.contains(id) && !busy(id)).copied().collect();
        let news: Vec<_> = rentals
            .into_iter()
            .filter(|rental| !self.moved_during_read.contains(&rental.id()))
            .filter(|rental| self.live.get(&rental.id()).is_none_or(|known| known.revision() < rental.revision()))
            .collect();
        for id in gone {
            self.forget(id);
        }
        for rental in news {
            // A changed rental is looked at at once, whatever held it up before.
            self.setbacks.remove(&rental.id());
            self.live.insert(rental.id(), rental);
        }
    }

    /// Compares what the engine shows with what is believed.
    fn compare(&mut self, observation: &Observation) {
        let now = self.shared.clock.now().wall;
        for (id, rental) in &self.live {
            if self.acted_during_observation.contains(id) || !matches!(rental.state(), State::Ready | State::Running) {
                continue;
            }
            let reason = match observation.of(rental.launch()).map(|seen| &seen.presence) {
                Some(Presence::Running) => {
                    self.last_seen.insert(*id, now);
                    continue;
                }
                Some(Presence::Exited(exit)) => ended_by_itself(rental, Some(exit), now),
                Some(Presence::Created) | None => {
                    let last_seen = self.last_seen.get(id).copied().or(rental.started_at()).unwrap_or(now);
                    ended_by_itself(rental, None, last_seen)
                }
            };
            self.ended_by_themselves.insert(*id, reason);
        }
        for seen in &observation.containers {
            let launch = seen.launch;
            let is_current = self.live.get(&launch.rental).is_some_and(|rental| rental.attempt() <= launch.attempt);
            let is_busy = self.in_flight.contains_key(&launch.rental)
                || self.acted_during_observation.contains(&launch.rental)
                || self.quarantined.contains(&launch);
            if !is_current && !is_busy && self.reaping.insert(launch) {
                self.reap(launch);
            }
        }
    }

    /// Removes a container that its own rental has no use for any more. A missing row proves nothing: the
    /// store may have been restored from a backup, so such a container is left alone and told of.
    fn reap(&self, launch: LaunchId) {
        let shared = Arc::clone(&self.shared);
        self.spawn(async move {
            let result: Result<(), Box<dyn Error + Send + Sync>> = match shared.store.get(launch.rental).await {
                Ok(Some(rental)) if !rental.is_live() || rental.attempt() > launch.attempt => {
                    tracing::info!(%launch, "removing a container whose rental needs it no more");
                    shared.runtime.remove(launch).await.map_err(Into::into)
                }
                // It became live again in our eyes; the next observation looks anew.
                Ok(Some(_)) => return Done::Reaped(launch, Orphan::Kept),
                Ok(None) => {
                    tracing::error!(%launch, "quarantined: a container of ours whose rental the store does not know");
                    return Done::Reaped(launch, Orphan::Unknown);
                }
                Err(error) => Err(error.into()),
            };
            match result {
                Ok(()) => Done::Reaped(launch, Orphan::Removed),
                Err(error) => {
                    tracing::warn!(%launch, error = &*error as &dyn Error, "container not removed; to be tried again");
                    Done::Reaped(launch, Orphan::Kept)
                }
            }
        });
    }

    /// Waits for the effects that must not be cut off, but not for ever.
    async fn drain(&mut self) {
        for step in self.in_flight.values() {
            if let Some(abort) = &step.abort {
                abort.abort();
            }
        }
        let mut timer = self.sleep.sleep(self.shared.pace.drain).fuse();
        while !self.in_flight.is_empty() && !timer.is_terminated() {
            select_biased! {
                done = self.running.select_next_some() => {
                    if let Done::Stepped(id, _) = done {
                        self.in_flight.remove(&id);
                    }
                }
                () = timer => {}
            }
        }
    }
}

/// Whether a rental's next action is bound to a time.
fn is_due_by_the_clock(next: &Next) -> bool {
    matches!(next, Next::Now(Action::Warn | Action::Notify | Action::End(_)))
}

fn ended_by_itself(rental: &Rental, exit: Option<&Exit>, last_seen: jiff::Timestamp) -> EndReason {
    match (rental.state(), exit) {
        (State::Ready, Some(exit)) => EndReason::Exited { code: exit.code, out_of_memory: exit.out_of_memory },
        (State::Ready, None) => EndReason::Lost { last_seen },
        (_, exit) => EndReason::Failed(Failure {
            kind: if exit.is_some() { FailureKind::ExitedEarly } else { FailureKind::Vanished },
            detail: "The container ended before access was verified".to_owned(),
            log_tail: Vec::new(),
        }),
    }
}

fn complain(what: &str, error: &(dyn Error + 'static), most: Duration) -> Duration {
    tracing::warn!(error, "{what} failed; to be tried again");
    most
}
