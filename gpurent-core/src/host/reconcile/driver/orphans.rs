//! The meaning of an observation: which rentals ended by themselves, which containers nobody needs, which ones
//! the store has lost.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use crate::allocation::Holds;
use crate::clock::Moment;
use crate::host::reconcile::adopt::{Found, adopt};
use crate::host::reconcile::clock_mapping::ended_with_the_machine;
use crate::host::reconcile::contain_panic::contained;
use crate::host::reconcile::driver::{Done, Driver, Orphan};
use crate::id::{LaunchId, RentalId};
use crate::model::{EndReason, Exit, Failure, FailureKind, Rental, RentalState};
use crate::runtime::{ContainerStatus, Observation, ObservedContainer};

/// How long a container that could not be adopted is left alone before that is tried again.
const ADOPT_RETRY_DELAY: Duration = Duration::from_secs(10);

impl Driver {
    /// Compares what the engine shows with what is believed.
    pub(in crate::host::reconcile) fn compare(&mut self, observation: &Observation, asked_at: &Moment) {
        let now = self.context.clock.now();
        for (id, rental) in &self.live {
            if self.acted_during_observation.contains(id) || !rental.state().is_up() {
                continue;
            }
            let launch = rental.launch();
            let last_seen = self.last_seen.get(&launch);
            let seen = observation.of(launch);
            if seen.is_some_and(|seen| seen.retained) {
                // It did not end: it was suspended, and the store was set back. It is gone on with below.
                continue;
            }
            let reason = match seen.map(|seen| &seen.status) {
                Some(ContainerStatus::Running) => {
                    self.last_seen.insert(launch, asked_at.clone());
                    continue;
                }
                Some(ContainerStatus::Unknown) => continue,
                Some(ContainerStatus::Exited(exit)) => ended_by_itself(rental, Some(exit), last_seen, &now),
                Some(ContainerStatus::Created) | None => ended_by_itself(rental, None, last_seen, &now),
            };
            self.ended_by_themselves.insert(*id, reason);
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
        let rental = self.live.get(&id).filter(|rental| may_be_further(rental.state()))?;
        let (launch, retained) = *self.later_launches.get(&id)?;
        let is_further = match rental.state() {
            RentalState::Provisioning => launch.attempt >= rental.attempt(),
            RentalState::Running | RentalState::Ready if retained => launch.attempt >= rental.attempt(),
            _ => launch.attempt > rental.attempt(),
        };
        is_further.then_some(launch)
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
            let held = self.held_by(seen);
            match self.live.get(&launch.rental) {
                Some(rental) if is_further(rental, seen, now) => {
                    self.later_launches.insert(launch.rental, (launch, seen.retained));
                    if !seen.retained {
                        beside_the_books.insert(launch, held);
                    }
                }
                Some(rental) if may_be_put_away(rental, launch) => {
                    // Made after all, by a request that was late, or started by somebody else.
                    let is_put_away = seen.retained && !matches!(seen.status, ContainerStatus::Running);
                    if !is_put_away {
                        orphans.insert(launch);
                        beside_the_books.insert(launch, held);
                    }
                }
                Some(rental) if rental.may_need(launch.attempt) => {}
                Some(rental) if rental.attempt() == launch.attempt => {}
                Some(rental) if rental.attempt() < launch.attempt => {
                    beside_the_books.insert(launch, held);
                }
                // Of an earlier launch, or of no live rental at all.
                Some(_) | None => {
                    orphans.insert(launch);
                    // What was put away holds nothing, and cannot be started by a request that is late.
                    if !seen.retained || matches!(seen.status, ContainerStatus::Running) {
                        beside_the_books.insert(launch, held);
                    }
                }
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

    /// The resources of a container beside the store. One that does not say may have everything.
    fn held_by(&self, seen: &ObservedContainer) -> Holds {
        if seen.gpus.is_empty() && seen.ports.is_empty() {
            let all = self.context.placement.gpus.iter().map(|gpu| gpu.uuid.clone());
            return Holds { gpus: all.collect(), ..Holds::default() };
        }
        Holds { gpus: seen.gpus.iter().cloned().collect(), ports: seen.ports.iter().copied().collect(), without_gpu: 0 }
    }

    /// Removes a container that its own rental has no use for any more. A missing row proves nothing: the
    /// store may have been restored from a backup, so then the rental is made again.
    fn settle(&self, launch: LaunchId, past_grace: bool) {
        let (context, owner, lease) = (Arc::clone(&self.context), self.owner, self.lease.clone());
        self.spawn(async move {
            let tried: Result<Orphan, Box<dyn Error + Send + Sync>> = contained(async {
                match context.store.get(launch.rental).await? {
                    Some(rental) if may_be_put_away(&rental, launch) => {
                        tracing::info!(%launch, "putting a container of a suspended rental away");
                        lease.check()?;
                        context.runtime.retain(launch).await?;
                        Ok(Orphan::PutAway)
                    }
                    Some(rental)
                        if !rental.is_live()
                            || (rental.attempt() > launch.attempt && !rental.may_need(launch.attempt)) =>
                    {
                        if !past_grace {
                            return Ok(Orphan::Kept);
                        }
                        tracing::info!(%launch, "removing a container whose rental needs it no more");
                        lease.check()?;
                        context.runtime.remove(launch).await?;
                        Ok(Orphan::Removed)
                    }
                    // It became live again in our eyes; the next observation looks anew.
                    Some(_) => Ok(Orphan::Kept),
                    None => Ok(match adopt(&context, owner, launch).await? {
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

/// Whether the container belongs to a later launch than the stored rental. It does after the store was restored from a
/// backup that predates the launch, or predates it so far that the rental looks as if it had missed its start deadline.
fn is_further(rental: &Rental, seen: &ObservedContainer, now: &Moment) -> bool {
    let later = rental.attempt() < seen.launch.attempt;
    if seen.retained && matches!(rental.state(), RentalState::Provisioning | RentalState::Running | RentalState::Ready)
    {
        return later || rental.attempt() == seen.launch.attempt;
    }
    let too_late = rental.time_to_end(now).is_some_and(|left| !left.is_positive());
    let has_run = matches!(seen.status, ContainerStatus::Running | ContainerStatus::Exited(_));
    let started = rental.attempt() == seen.launch.attempt && has_run;
    match rental.state() {
        RentalState::Provisioning => later || (started && too_late),
        state => later && may_be_further(state),
    }
}

/// Whether a rental that was read in this state may have been launched again since, by a store that was set back.
fn may_be_further(state: &RentalState) -> bool {
    state.end_reason().is_none()
}

/// Whether a container is one of a suspended rental, which are put away.
fn may_be_put_away(rental: &Rental, launch: LaunchId) -> bool {
    matches!(rental.state(), RentalState::Suspended { .. }) && rental.may_need(launch.attempt)
}

fn ended_by_itself(rental: &Rental, exit: Option<&Exit>, last_seen: Option<&Moment>, now: &Moment) -> EndReason {
    let lost = || {
        let seen = last_seen.map(|seen| seen.wall).or(rental.started_at());
        EndReason::Lost { last_seen: seen.unwrap_or(now.wall) }
    };
    match (rental.state(), exit) {
        (RentalState::Ready, Some(exit)) if ended_with_the_machine(rental, exit, last_seen, now) => lost(),
        (RentalState::Ready, Some(exit)) => EndReason::Exited { code: exit.code, out_of_memory: exit.out_of_memory },
        (RentalState::Ready, None) => lost(),
        (_, exit) => EndReason::Failed(Failure {
            kind: if exit.is_some() { FailureKind::ExitedEarly } else { FailureKind::Vanished },
            detail: "The container ended before access was verified".to_owned(),
            log_tail: Vec::new(),
        }),
    }
}
