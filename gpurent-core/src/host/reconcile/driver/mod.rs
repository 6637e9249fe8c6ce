//! Decides what runs when: which rental's step, which periodic task, how long to sleep.
//!
//! One future, no tasks of its own. Effects run side by side inside it, at most one for each rental, and
//! a panic in one is contained. Only pulls, checks and warnings are cut off when a rental has to end; the
//! other steps are awaited, because a request that was cut off may still reach the engine.

mod disk_watch;
mod in_flight;
mod orphans;
mod periodic_tasks;
mod service_watch;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, Fuse, FusedFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{FutureExt, select_biased};

use crate::allocation::{Holds, Written};
use crate::clock::{BootInstant, Moment, Sleep};
use crate::host::context::HostContext;
use crate::host::lease::Lease;
use crate::host::pulls::PullId;
use crate::host::reconcile::driver::disk_watch::{DiskWatch, Look};
use crate::host::reconcile::driver::in_flight::{Backoff, Ended, InFlight};
use crate::host::reconcile::driver::service_watch::ServiceWatch;
use crate::host::reconcile::leadership::{AcquiredHost, acquire_host};
use crate::host::reconcile::periodic::PeriodicTask;
use crate::host::reconcile::publish::{Known, Published};
use crate::host::reconcile::watchdog::watch_while_unused;
use crate::host::{ReconcileError, pulls};
use crate::id::{EngineId, LaunchId, Position, RentalId};
use crate::model::{EndReason, Next, Rental, Service};
use crate::runtime::{Observation, RuntimeError};
use crate::store::{Deadline, DeadlineError, HostOwnership, StoreError};

/// How long the store may take to note that this process acts no longer.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(1);

/// The outcome of something that ran beside the loop.
pub(in crate::host::reconcile) enum Done {
    Read(Generation, Extent, Result<Vec<Rental>, StoreError>),
    /// Asked at this moment: what was seen was so then or later.
    Observed(Generation, Moment, Result<Observation, RuntimeError>),
    Published(Result<Vec<Published>, StoreError>),
    /// Asked at this time on the boot clock.
    Confirmed(BootInstant, Result<(), StoreError>),
    Kept(Result<(), DeadlineError>),
    Stepped(RentalId, Ended),
    Pulled(PullId, pulls::Outcome),
    /// Asked for at this time on the boot clock.
    Measured(Look, Result<Written, RuntimeError>),
    LookedForServices(LaunchId, Result<Vec<Service>, RuntimeError>),
    Settled(LaunchId, Orphan),
}

/// A period in which the host was surely ours. Incremented whenever ownership may have been lost: answers to reads that
/// began in an earlier generation are discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::host::reconcile) struct Generation(u64);

/// How much was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::host::reconcile) enum Extent {
    /// Every live rental.
    All,
    /// The rentals that are not suspended: of the others there may be many, and nothing happens to them.
    Active,
}

/// The outcome for a container that no live rental has a use for.
pub(in crate::host::reconcile) enum Orphan {
    Removed,
    /// The container belongs to a suspended rental, and waits with its files.
    PutAway,
    /// The store did not know its rental, and does now.
    Adopted(Box<Rental>),
    /// The store does not know its rental, and cannot be told: left alone.
    Unknown,
    /// The container was seen too early, or something failed; the next observation tries again.
    Kept,
}

pub(in crate::host::reconcile) struct Driver {
    pub(in crate::host::reconcile) context: Arc<HostContext>,
    pub(in crate::host::reconcile) sleep: Arc<dyn Sleep>,
    pub(in crate::host::reconcile) owner: HostOwnership,
    pub(in crate::host::reconcile) lease: Lease,
    pub(in crate::host::reconcile) generation: Generation,
    /// How much is read next.
    pub(in crate::host::reconcile) extent: Extent,
    /// The generation in which the store was read, and everything may be acted upon.
    pub(in crate::host::reconcile) read_in: Option<Generation>,
    /// The same for the engine.
    pub(in crate::host::reconcile) observed_in: Option<Generation>,
    /// The engine that was taken over.
    pub(in crate::host::reconcile) engine: EngineId,
    pub(in crate::host::reconcile) running: FuturesUnordered<BoxFuture<'static, Done>>,

    /// The host's rentals as last known.
    pub(in crate::host::reconcile) live: Known,
    pub(in crate::host::reconcile) in_flight: BTreeMap<RentalId, InFlight>,
    /// Holds of rentals that are worked on, and that the store does not know any more.
    pub(in crate::host::reconcile) unbooked: BTreeMap<LaunchId, Holds>,
    pub(in crate::host::reconcile) backoffs: BTreeMap<RentalId, Backoff>,
    /// Rentals of which a step may have written more than it could tell: nothing goes up before they were read
    /// again.
    pub(in crate::host::reconcile) unsure: BTreeSet<RentalId>,
    /// Launches whose image is here.
    pub(in crate::host::reconcile) prepared: BTreeSet<LaunchId>,
    pub(in crate::host::reconcile) disks: DiskWatch,
    pub(in crate::host::reconcile) services: ServiceWatch,
    /// The ends that looks found for rentals that believe to be running: they do not run, or write more than they may.
    pub(in crate::host::reconcile) ended_by_themselves: BTreeMap<RentalId, EndReason>,
    /// Later launches than the store knows of, and whether they were put away.
    pub(in crate::host::reconcile) later_launches: BTreeMap<RentalId, (LaunchId, bool)>,
    pub(in crate::host::reconcile) last_seen: BTreeMap<LaunchId, Moment>,
    /// Containers that the last observation showed without a use, since when on the boot clock.
    pub(in crate::host::reconcile) orphans: BTreeMap<LaunchId, BootInstant>,
    pub(in crate::host::reconcile) settling: BTreeSet<LaunchId>,
    /// Containers of rentals that the store does not know and cannot be told of now; not tried again before
    /// this time on the boot clock, or before something is freed.
    pub(in crate::host::reconcile) left_alone: BTreeMap<LaunchId, BootInstant>,
    /// Launches that the last observation showed, and those of them that ran.
    pub(in crate::host::reconcile) shown: BTreeSet<LaunchId>,

    /// The last position that subscribers were given.
    pub(in crate::host::reconcile) fed: Position,

    /// Rentals that a step changed while a read was under way: what the read says of them is older.
    pub(in crate::host::reconcile) moved_during_read: BTreeSet<RentalId>,
    /// Rentals that a step worked on while an observation was under way: it says nothing of them.
    pub(in crate::host::reconcile) acted_during_observation: BTreeSet<RentalId>,

    pub(in crate::host::reconcile) read: PeriodicTask,
    pub(in crate::host::reconcile) observe: PeriodicTask,
    pub(in crate::host::reconcile) publish: PeriodicTask,
    pub(in crate::host::reconcile) confirm: PeriodicTask,
    pub(in crate::host::reconcile) keep: PeriodicTask,
    pub(in crate::host::reconcile) sweep: PeriodicTask,
}

impl Driver {
    fn new(context: Arc<HostContext>, sleep: Arc<dyn Sleep>, taken: AcquiredHost, kept: Vec<Deadline>) -> Self {
        let AcquiredHost { engine, ownership, asked_at } = taken;
        let lease = Lease::none(Arc::clone(&context.clock));
        lease.renew(asked_at, context.config.lease);
        context.set_lease(Some(lease.clone()));
        Self {
            context,
            sleep,
            owner: ownership,
            lease,
            generation: Generation(0),
            extent: Extent::All,
            read_in: None,
            observed_in: None,
            engine,
            running: FuturesUnordered::new(),
            live: Known::new(),
            in_flight: BTreeMap::new(),
            unbooked: BTreeMap::new(),
            backoffs: BTreeMap::new(),
            unsure: BTreeSet::new(),
            prepared: BTreeSet::new(),
            disks: DiskWatch::default(),
            services: ServiceWatch::default(),
            ended_by_themselves: BTreeMap::new(),
            later_launches: BTreeMap::new(),
            last_seen: kept.into_iter().map(|kept| (kept.launch, kept.last_seen)).collect(),
            orphans: BTreeMap::new(),
            settling: BTreeSet::new(),
            left_alone: BTreeMap::new(),
            shown: BTreeSet::new(),
            fed: ownership.last_position,
            moved_during_read: BTreeSet::new(),
            acted_during_observation: BTreeSet::new(),
            read: PeriodicTask::due_now(),
            observe: PeriodicTask::due_now(),
            publish: PeriodicTask::due_now(),
            confirm: PeriodicTask::due_now(),
            keep: PeriodicTask::idle(),
            sweep: PeriodicTask::due_now(),
        }
    }

    /// Takes over the host and acts for it until `shutdown` ends.
    pub(in crate::host::reconcile) async fn run(
        context: Arc<HostContext>,
        sleep: Arc<dyn Sleep>,
        mut shutdown: Fuse<BoxFuture<'_, ()>>,
    ) -> Result<(), ReconcileError> {
        let Some(taken) = acquire_host(&context, &*sleep, &mut shutdown).await? else { return Ok(()) };
        context.feed.begin_at(taken.ownership.last_position);
        let kept = context.deadlines.read().await.unwrap_or_else(|error| {
            // The store has the rest. Without the book, what ended while nobody looked is paid for its start only.
            tracing::error!(error = &error as &dyn Error, "the book of deadlines cannot be read");
            Vec::new()
        });
        Self::new(context, sleep, taken, kept).act(shutdown).await
    }

    async fn act(mut self, mut shutdown: Fuse<BoxFuture<'_, ()>>) -> Result<(), ReconcileError> {
        let (context, lease, sleep) = (Arc::clone(&self.context), self.lease.clone(), Arc::clone(&self.sleep));
        let mut watch = std::pin::pin!(watch_while_unused(&context, &lease, &*sleep).fuse());
        loop {
            // Listened to before the flag is read, so that no notification falls in between.
            let mut listener = self.context.intents.listen().fuse();
            if self.context.intents.taken() {
                self.read.request();
                self.publish.request();
                // An extension that came to nothing may be in the book. (Before it is known what is there, all in it stays.)
                if self.observed_in == Some(self.generation) {
                    self.keep.request_unless_failing();
                }
            }
            let now = self.now();
            if self.lease.check().is_err() {
                self.doubt_everything();
            }
            let acts = self.may_act();
            self.lease.set_used(acts);
            if acts {
                self.start_steps(now);
                self.measure_disks(now);
                self.look_for_services(now);
                self.start_pulls();
            } else if let Some(pulls) = &self.context.pulls {
                pulls.put_off();
            }
            self.start_periodic_tasks(now);
            let pause = self.pause(now);
            let before = self.context.clock.now();
            let mut timer = self.sleep.sleep(pause).fuse();
            select_biased! {
                () = shutdown => break,
                done = self.running.select_next_some() => self.finish(done)?,
                () = listener => {}
                () = timer => {}
                () = watch => {}
            }
            // The process stood still, or (by the wall clock) the machine did: whatever is believed may be long over.
            let after = self.context.clock.now();
            let frozen = after.wall.duration_since(before.wall) - after.since(&before);
            let too_long = self.context.config.lease / 2;
            if after.instant() > now.after(pause).after(too_long) || frozen.unsigned_abs() > too_long {
                self.lease.end();
            }
        }
        self.drain().await;
        let mut timer = self.sleep.sleep(RESIGN_TIMEOUT).fuse();
        let mut resigned = self.context.store.resign(&self.context.host, self.owner).fuse();
        select_biased! {
            resigned = resigned => if let Err(error) = resigned {
                // A note for operators; whoever takes over does not ask for it.
                tracing::debug!(error = &error as &dyn Error, "the end was not noted");
            },
            () = timer => {}
        }
        Ok(())
    }

    pub(in crate::host::reconcile) fn now(&self) -> BootInstant {
        self.context.clock.now().instant()
    }

    /// How long nothing happens by itself.
    fn pause(&self, now: BootInstant) -> Duration {
        let tasks = [&self.read, &self.publish, &self.confirm, &self.keep, &self.sweep];
        let observe = Some(&self.observe).filter(|_| self.may_observe());
        let mut wake =
            tasks.into_iter().chain(observe).filter_map(PeriodicTask::due).min().unwrap_or(BootInstant::LATEST);
        let moment = self.context.clock.now();
        let acts = self.may_act();
        let looks = [self.disks.due(), self.services.due()];
        wake = wake.min(looks.into_iter().flatten().min().filter(|_| acts).unwrap_or(BootInstant::LATEST));
        for (id, rental) in &self.live {
            let wait = match self.in_flight.get(id) {
                _ if !acts => None,
                // What may be cut off is cut off when the rental's time is over.
                Some(step) if step.abort.is_some() => rental.until_due(&moment, &self.context.timing),
                Some(_) => None,
                None => match rental.next(&moment, &self.context.timing) {
                    Next::After(wait) => Some(wait),
                    // It may be held up by a backoff; the clock goes on.
                    Next::Now(_) | Next::Idle => rental.until_due(&moment, &self.context.timing),
                },
            };
            if let Some(wait) = wait.filter(|wait| wait.is_positive()) {
                wake = wake.min(now.after(wait.unsigned_abs()));
            }
            // One that is over already waits for something else: a free place among the running steps.
            if let Some(backoff) = self.backoffs.get(id).filter(|backoff| backoff.not_before > now) {
                wake = wake.min(backoff.not_before);
            }
        }
        wake.since(now)
    }

    pub(in crate::host::reconcile) fn spawn(&self, effect: impl Future<Output = Done> + Send + 'static) {
        self.running.push(effect.boxed());
    }

    /// Waits for the effects that must not be cut off, but not for ever.
    async fn drain(&mut self) {
        for step in self.in_flight.values() {
            if let Some(abort) = &step.abort {
                abort.abort();
            }
        }
        let mut timer = self.sleep.sleep(self.context.config.drain).fuse();
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
