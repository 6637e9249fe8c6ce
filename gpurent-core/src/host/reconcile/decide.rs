//! The reconciler's decisions about rentals and containers, as pure functions of what the store knows, what the engine
//! shows, and the time. The loop acts on them; the [dry run](super::dry_run) tells them to an operator.

use crate::allocation::Holds;
use crate::clock::Moment;
use crate::host::reconcile::clock_mapping::ended_with_the_machine;
use crate::id::LaunchId;
use crate::model::{Action, EndReason, Exit, Failure, FailureKind, Gpu, Next, Rental, RentalState};
use crate::runtime::{ContainerStatus, Observation, ObservedContainer};

/// The meaning of an observation for a rental.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Sighting {
    /// The rental needs no running container now.
    NotUp,
    /// The rental's container runs.
    Running,
    /// The engine does not say how the container is: nothing is concluded.
    Unknown,
    /// The container was put away. The rental did not end but was suspended, and the store was set back.
    PutAway,
    /// The container does not run any more.
    EndedByItself(EndReason),
}

/// Judges what is seen of a rental. `last_seen` is when its container was last seen running, where that is known.
pub(super) fn sighting(
    rental: &Rental,
    observation: &Observation,
    last_seen: Option<&Moment>,
    now: &Moment,
) -> Sighting {
    if !rental.state().is_up() {
        return Sighting::NotUp;
    }
    let Some(seen) = observation.of(rental.launch()) else {
        return Sighting::EndedByItself(ended_by_itself(rental, None, last_seen, now));
    };
    match &seen.status {
        _ if seen.retained => Sighting::PutAway,
        ContainerStatus::Running => Sighting::Running,
        ContainerStatus::Unknown => Sighting::Unknown,
        ContainerStatus::Exited(exit) => Sighting::EndedByItself(ended_by_itself(rental, Some(exit), last_seen, now)),
        ContainerStatus::Created => Sighting::EndedByItself(ended_by_itself(rental, None, last_seen, now)),
    }
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

/// A container's use, by what the store knows of its rental.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The container is its rental's present one, or one whose files the rental may still need.
    InUse,
    /// The container belongs to a later launch than the stored one, and its rental goes on with it.
    Further,
    /// The container belongs to a later launch than the stored one, of a rental that is ending: it goes with the rental.
    Later,
    /// The container belongs to a suspended rental, and is not put away: it was made after all, by a request that was
    /// late, or somebody else started it.
    NotPutAway,
    /// The container belongs to an earlier launch, or to no live rental at all.
    Orphan {
        /// Whether it may use what it was made with. One that was put away holds nothing, and cannot be started by a
        /// request that is late.
        holds: bool,
    },
}

impl Standing {
    /// Whether the container has GPUs and ports that the store does not have it down for.
    pub(super) fn holds_beside_the_store(self, seen: &ObservedContainer) -> bool {
        match self {
            Self::InUse => false,
            Self::Further => !seen.retained,
            Self::Later | Self::NotPutAway => true,
            Self::Orphan { holds } => holds,
        }
    }
}

/// Tells what a container is to its live rental, if it has one.
pub(super) fn standing(rental: Option<&Rental>, seen: &ObservedContainer, now: &Moment) -> Standing {
    let (attempt, runs) = (seen.launch.attempt, matches!(seen.status, ContainerStatus::Running));
    let orphan = Standing::Orphan { holds: !seen.retained || runs };
    let Some(rental) = rental else { return orphan };
    if is_further(rental, seen, now) {
        Standing::Further
    } else if may_be_put_away(rental, seen.launch) {
        if seen.retained && !runs { Standing::InUse } else { Standing::NotPutAway }
    } else if rental.may_need(attempt) || rental.attempt() == attempt {
        Standing::InUse
    } else if rental.attempt() < attempt {
        Standing::Later
    } else {
        orphan
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

/// Whether a launch that was seen is still later than the rental, which may have changed since.
pub(super) fn is_still_further(rental: &Rental, launch: LaunchId, retained: bool) -> bool {
    may_be_further(rental.state())
        && match rental.state() {
            RentalState::Provisioning => launch.attempt >= rental.attempt(),
            RentalState::Running | RentalState::Ready if retained => launch.attempt >= rental.attempt(),
            _ => launch.attempt > rental.attempt(),
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

/// The GPUs and ports of a container beside the store, on a host with these GPUs. One that does not say may have every GPU.
pub(super) fn held_by(seen: &ObservedContainer, gpus: &[Gpu]) -> Holds {
    if seen.gpus.is_empty() && seen.ports.is_empty() {
        return Holds { gpus: gpus.iter().map(|gpu| gpu.uuid.clone()).collect(), ..Holds::default() };
    }
    Holds { gpus: seen.gpus.iter().cloned().collect(), ports: seen.ports.iter().copied().collect(), without_gpu: 0 }
}

/// The fate of a container without a use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    /// The container waits with its files.
    PutAway,
    /// The container's rental has ended, or was launched anew.
    Remove,
    /// The container's rental is live again: the next observation looks anew.
    Keep,
    /// The store does not know the rental. That proves nothing, since the store may have been restored from a backup:
    /// the rental is made again.
    Adopt,
}

/// Decides on a container without a use, by its rental as the store has it.
pub(super) fn settlement(stored: Option<&Rental>, launch: LaunchId) -> Settlement {
    let is_needless =
        |rental: &Rental| !rental.is_live() || (rental.attempt() > launch.attempt && !rental.may_need(launch.attempt));
    match stored {
        None => Settlement::Adopt,
        Some(rental) if may_be_put_away(rental, launch) => Settlement::PutAway,
        Some(rental) if is_needless(rental) => Settlement::Remove,
        Some(_) => Settlement::Keep,
    }
}

/// A decision on a rental.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Decision {
    /// The rental goes on with the container of a later launch.
    TakeUp(LaunchId),
    /// The action is taken.
    Act(Action),
    /// The rental is not brought up yet: something else may have what it was given.
    HeldUp,
    /// There is nothing to do.
    Nothing,
}

/// Decides what is done with a rental. `ended` is why it ended by itself, if it did; `further` is the later launch that was
/// seen; `is_held_up` says that nothing may be created or started.
pub(super) fn decide(
    rental: &Rental,
    next: Next,
    ended: Option<EndReason>,
    further: Option<LaunchId>,
    is_held_up: bool,
) -> Decision {
    if let Some(launch) = further {
        return Decision::TakeUp(launch);
    }
    match (ended.filter(|_| rental.state().is_up()), next) {
        // At the end of the paid time it may be the host that stopped it, while the store was away.
        (Some(reason), next) if !is_expiry(&next) => Decision::Act(Action::End(reason)),
        (_, Next::Now(Action::Prepare | Action::Create | Action::Start)) if is_held_up => Decision::HeldUp,
        (_, Next::Now(action)) => Decision::Act(action),
        (_, Next::After(_) | Next::Idle) => Decision::Nothing,
    }
}

/// Whether the rental's paid time is over.
pub(super) fn is_expiry(next: &Next) -> bool {
    *next == Next::Now(Action::End(EndReason::Expired))
}
