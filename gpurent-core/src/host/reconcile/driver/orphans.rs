//! The fate of containers without a use, and of rentals that an observation says something of.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use crate::allocation::Holds;
use crate::clock::Moment;
use crate::host::reconcile::adopt::{Found, adopt};
use crate::host::reconcile::contain_panic::contained;
use crate::host::reconcile::decide::{
    Settlement, Sighting, Standing, held_by, is_still_further, settlement, sighting, standing,
};
use crate::host::reconcile::driver::{Done, Driver, Orphan};
use crate::id::{LaunchId, RentalId};
use crate::runtime::Observation;

/// How long a container that could not be adopted is left alone before that is tried again.
const ADOPT_RETRY_DELAY: Duration = Duration::from_secs(10);

impl Driver {
    /// Compares what the engine shows with what is believed.
    pub(in crate::host::reconcile) fn compare(&mut self, observation: &Observation, asked_at: &Moment) {
        let now = self.context.clock.now();
        for (id, rental) in &self.live {
            if self.acted_during_observation.contains(id) {
                continue;
            }
            let launch = rental.launch();
            match sighting(rental, observation, self.last_seen.get(&launch), &now) {
                Sighting::Running => {
                    self.last_seen.insert(launch, asked_at.clone());
                }
                Sighting::EndedByItself(reason) => {
                    self.ended_by_themselves.insert(*id, reason);
                }
                // One that was put away is gone on with below.
                Sighting::NotUp | Sighting::Unknown | Sighting::PutAway => {}
            }
        }
        self.shown = observation.containers.iter().map(|seen| seen.launch).collect();
        let is_current = |launch: &LaunchId| self.live.get(&launch.rental).is_some_and(|r| r.launch() == *launch);
        self.last_seen.retain(|launch, _| self.shown.contains(launch) || is_current(launch));
        self.look_for_orphans(observation, &now);
        // It did not end, but was launched again.
        let further: Vec<_> =
            self.later_launches.keys().copied().filter(|id| self.later_launch(*id).is_some()).collect();
        self.ended_by_themselves.retain(|id, _| !further.contains(id));
    }

    /// A later launch of a rental than the store knows of.
    pub(in crate::host::reconcile) fn later_launch(&self, id: RentalId) -> Option<LaunchId> {
        let (launch, retained) = *self.later_launches.get(&id)?;
        self.live.get(&id).filter(|rental| is_still_further(rental, launch, retained)).map(|_| launch)
    }

    fn look_for_orphans(&mut self, observation: &Observation, now: &Moment) {
        let mut beside_the_books: BTreeMap<LaunchId, Holds> = self.unbooked.clone();
        let mut orphans = BTreeSet::new();
        // Of those that were worked on meanwhile this observation says nothing.
        let is_worked_on =
            |id: &RentalId| self.in_flight.contains_key(id) || self.acted_during_observation.contains(id);
        self.later_launches.retain(|id, _| is_worked_on(id));
        for seen in &observation.containers {
            let launch = seen.launch;
            if is_worked_on(&launch.rental) {
                continue;
            }
            let standing = standing(self.live.get(&launch.rental).map(Arc::as_ref), seen, now);
            match standing {
                Standing::Further => {
                    self.later_launches.insert(launch.rental, (launch, seen.retained));
                }
                Standing::NotPutAway | Standing::Orphan { .. } => {
                    orphans.insert(launch);
                }
                Standing::InUse | Standing::Later => {}
            }
            if standing.holds_beside_the_store(seen) {
                beside_the_books.insert(launch, held_by(seen, &self.context.placement.gpus));
            }
        }
        // Whoever they belong to: what they have must not be given to somebody else.
        self.context.placement.quarantine.observed(beside_the_books, now.instant());
        self.orphans.retain(|launch, _| orphans.contains(launch));
        self.left_alone.retain(|launch, _| orphans.contains(launch));
        for launch in orphans {
            let since = *self.orphans.entry(launch).or_insert(now.instant());
            // Where a later launch or a suspension is known, nobody can still be about to use it.
            let is_earlier = self.live.contains_key(&launch.rental);
            let past_grace = is_earlier || since.after(self.context.config.orphan_grace) <= now.instant();
            let waits = self.left_alone.get(&launch).is_some_and(|not_before| *not_before > now.instant());
            if !waits && self.settling.insert(launch) {
                self.settle(launch, past_grace);
            }
        }
    }

    /// Removes a container that its own rental has no use for any more. A missing row proves nothing: the
    /// store may have been restored from a backup, so then the rental is made again.
    fn settle(&self, launch: LaunchId, past_grace: bool) {
        let (context, owner, lease) = (Arc::clone(&self.context), self.owner, self.lease.clone());
        self.spawn(async move {
            let tried: Result<Orphan, Box<dyn Error + Send + Sync>> = contained(async {
                let stored = context.store.get(launch.rental).await?;
                match settlement(stored.as_ref(), launch) {
                    Settlement::PutAway => {
                        tracing::info!(%launch, "putting a container of a suspended rental away");
                        lease.check()?;
                        context.runtime.retain(launch).await?;
                        Ok(Orphan::PutAway)
                    }
                    Settlement::Remove if past_grace => {
                        tracing::info!(%launch, "removing a container whose rental needs it no more");
                        lease.check()?;
                        context.runtime.remove(launch).await?;
                        Ok(Orphan::Removed)
                    }
                    Settlement::Remove | Settlement::Keep => Ok(Orphan::Kept),
                    Settlement::Adopt => Ok(match adopt(&context, owner, launch).await? {
                        Found::Adopted(rental) => Orphan::Adopted(rental),
                        Found::LeftAlone => {
                            // For an operator to decide, but not for ever on somebody else's GPU.
                            let kept = context.deadlines.of(launch).await;
                            let left = kept.and_then(|kept| kept.time_left(&context.clock.now()));
                            if left.is_some_and(|left| !left.is_positive()) {
                                lease.check()?;
                                context.runtime.stop(launch, Duration::ZERO).await?;
                            }
                            Orphan::Unknown
                        }
                    }),
                }
            })
            .await;
            let orphan = tried.unwrap_or_else(|error| {
                tracing::warn!(%launch, error = &*error as &dyn Error, "container not dealt with; to be tried again");
                Orphan::Kept
            });
            Done::Settled(launch, orphan)
        });
    }

    pub(in crate::host::reconcile) fn settled(&mut self, launch: LaunchId, orphan: Orphan) {
        self.settling.remove(&launch);
        match orphan {
            Orphan::Kept => {}
            Orphan::PutAway | Orphan::Removed => self.context.placement.quarantine.gone(launch),
            Orphan::Adopted(rental) => {
                self.publish.request();
                self.moved_during_read.insert(rental.id());
                self.acted_during_observation.insert(rental.id());
                self.know(*rental);
                // The books have it now.
                self.context.placement.quarantine.gone(launch);
                self.keep.request();
            }
            Orphan::Unknown => {
                let not_before = self.context.clock.now().instant().after(ADOPT_RETRY_DELAY);
                if self.left_alone.insert(launch, not_before).is_none() {
                    tracing::error!(%launch, "left alone: a container whose rental the store does not know, and cannot be told of");
                }
            }
        }
    }
}
