//! The loop's recurring work for the host as a whole, and what it learns from it.
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::BootInstant;
use crate::host::readiness::Readiness;
use crate::host::reconcile::contain_panic::contained;
use crate::host::reconcile::driver::{Done, Driver, Extent};
use crate::host::reconcile::observe::observe;
use crate::host::reconcile::publish::{PUBLISH_BATCH, publish};
use crate::host::reconcile::pull::pull;
use crate::host::{EngineHealth, ReconcileError, Update};
use crate::id::{Attempt, LaunchId, RentalId};
use crate::runtime::ContainerStatus;
use crate::store::StoreError;

fn complain(what: &str, error: &(dyn Error + 'static), most: Duration) -> Duration {
    tracing::warn!(error, "{what} failed; to be tried again");
    most
}

/// The longest pause between two questions whether the host is ours: everything waits for the answer.
const MAX_CONFIRM_BACKOFF: Duration = Duration::from_secs(2);

impl Driver {
    pub(super) fn start_periodic_tasks(&mut self, now: BootInstant) {
        let (context, owner) = (Arc::clone(&self.context), self.owner);
        if self.sweep.begin(now) {
            self.read_all();
            self.observe.request();
            self.sweep.finished(now, context.config.sweep);
        }
        if self.confirm.begin(now) {
            let context = Arc::clone(&context);
            self.spawn(
                async move { Done::Confirmed(now, contained(context.store.confirm(&context.host, owner)).await) },
            );
        }
        if self.read.begin(now) {
            self.moved_during_read.clear();
            let (context, generation) = (Arc::clone(&context), self.generation);
            // Before anything may be done everything has to be known.
            let extent = if self.may_observe() { self.extent } else { Extent::All };
            self.extent = Extent::Active;
            self.spawn(async move {
                let read = match extent {
                    Extent::All => contained(context.store.live(&context.host)).await,
                    Extent::Active => contained(context.store.active(&context.host)).await,
                };
                Done::Read(generation, extent, read)
            });
        }
        if self.publish.begin(now) {
            let context = Arc::clone(&context);
            let (fed, doubt, known) = (self.fed, self.publish.has_failed(), self.live.clone());
            self.spawn(async move { Done::Published(contained(publish(&context, owner, fed, doubt, known)).await) });
        }
        if self.may_observe() && self.observe.begin(now) {
            self.acted_during_observation = self.in_flight.keys().copied().collect();
            let expected: Vec<_> =
                self.live.values().filter(|rental| rental.state().is_up()).map(|rental| rental.launch()).collect();
            let asked_at = self.context.clock.now();
            self.context.asks_engine(Some(now));
            let (engine, generation, context) = (self.engine.clone(), self.generation, Arc::clone(&context));
            self.spawn(async move {
                Done::Observed(generation, asked_at, contained(observe(&context, &engine, &expected)).await)
            });
        }
        if self.keep.begin(now) {
            self.keep_book();
        }
    }

    /// Pulls images that were asked for before anything is claimed for them.
    pub(super) fn start_pulls(&self) {
        let Some(pulls) = &self.context.pulls else { return };
        let launch = || LaunchId { rental: RentalId::generate(), attempt: Attempt::new(1) };
        for wanted in pulls.take(&self.context.host, launch) {
            let (context, sleep) = (Arc::clone(&self.context), Arc::clone(&self.sleep));
            self.spawn(async move { Done::Pulled(wanted.id, pull(&context, &*sleep, wanted).await) });
        }
    }

    pub(super) fn finish(&mut self, done: Done) -> Result<(), ReconcileError> {
        let (now, most) = (self.now(), self.context.config.max_backoff);
        if matches!(done, Done::Observed(..)) {
            self.context.asks_engine(None);
        }
        match done {
            Done::Confirmed(asked_at, Ok(())) => {
                self.lease.renew(asked_at, self.context.config.lease);
                if !self.may_act() {
                    // The store is there again: what is still to be known is not waited for any longer.
                    self.read.request();
                    self.observe.request();
                }
                self.confirm.finished(now, self.context.config.confirm);
            }
            Done::Published(Ok(entries)) => {
                if entries.len() == PUBLISH_BATCH {
                    self.publish.request();
                }
                for (entry, rental) in entries {
                    self.fed = entry.position;
                    self.context.feed.push(Update::Event { entry: Arc::new(entry), rental });
                }
                self.publish.finished(now, self.context.config.read);
            }
            // Asked before the host was found to be perhaps somebody else's.
            Done::Read(generation, _, Ok(_)) if generation != self.generation => {
                self.read_all();
                self.read.finished(now, self.context.config.read);
            }
            Done::Observed(generation, _, Ok(_)) if generation != self.generation => {
                self.observe.request();
                self.observe.finished(now, self.context.config.observe);
            }
            Done::Read(generation, extent, Ok(rentals)) => {
                self.merge_live(rentals, extent);
                // Of a host that may be somebody else's it says nothing yet.
                if extent == Extent::All && self.lease.check().is_ok() {
                    self.read_in = Some(generation);
                }
                if !self.moved_during_read.is_empty() {
                    self.read.request();
                }
                self.read.finished(now, self.context.config.read);
            }
            Done::Observed(generation, asked_at, Ok(observation)) => {
                let unknown =
                    observation.containers.iter().filter(|seen| seen.status == ContainerStatus::Unknown).count();
                let health = if unknown == 0 { EngineHealth::Answers } else { EngineHealth::HangsOver(unknown) };
                self.context.set_engine_health(health);
                self.compare(&observation, &asked_at);
                self.observed_in = Some(generation);
                if self.context.readiness.get() != Readiness::Ready {
                    self.context.readiness.set(Readiness::Ready);
                }
                self.keep.request();
                self.observe.finished(now, self.context.config.observe);
            }
            Done::Kept(Ok(())) => self.keep.finished(now, Duration::MAX),
            Done::Confirmed(_, Err(StoreError::Fenced)) | Done::Published(Err(StoreError::Fenced)) => {
                return Err(ReconcileError::TakenOver);
            }
            // Without the store or the engine, nothing is concluded: everything stays as it is.
            Done::Confirmed(_, Err(error)) => {
                self.context.readiness.stalled();
                self.confirm.failed(now, complain("confirming the host", &error, MAX_CONFIRM_BACKOFF));
            }
            Done::Published(Err(error)) => self.publish.failed(now, complain("publishing events", &error, most)),
            Done::Read(_, extent, Err(error)) => {
                if extent == Extent::All {
                    self.extent = extent;
                }
                self.context.readiness.stalled();
                self.read.failed(now, complain("reading the store", &error, most));
            }
            Done::Observed(_, _, Err(error)) => {
                self.context.set_engine_health(EngineHealth::Silent);
                self.context.readiness.stalled();
                self.observe.failed(now, complain("observing the engine", &error, most));
            }
            Done::Kept(Err(error)) => self.keep.failed(now, complain("keeping the book of deadlines", &error, most)),
            Done::Pulled(id, outcome) => {
                if let Some(pulls) = &self.context.pulls {
                    pulls.done(id, outcome, &self.context.clock.now());
                }
            }
            Done::Measured(look, used) => self.measured(look, used),
            Done::LookedForServices(launch, found) => self.looked_for_services(launch, found),
            Done::Settled(launch, orphan) => self.settled(launch, orphan),
            Done::Stepped(id, ended) => return self.stepped(id, ended, now),
        }
        Ok(())
    }
}
