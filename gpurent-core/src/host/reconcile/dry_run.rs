//! The next actions of a reconciler, for an operator to read before they are taken.

use serde::Serialize;

use crate::allocation::Holds;
use crate::clock::Moment;
use crate::host::reconcile::decide::{
    Decision, Settlement, Sighting, Standing, decide, held_by, settlement, sighting, standing,
};
use crate::id::{LaunchId, RentalId};
use crate::model::{Action, Rental, RentalTiming};
use crate::runtime::{Observation, ObservedContainer};

/// One line of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Planned {
    /// A rental goes on.
    Step {
        /// Which.
        rental: RentalId,
        /// The rental's state.
        state: &'static str,
        /// The next action on the rental.
        action: String,
    },
    /// A rental is believed to run, and the engine says otherwise: it ends.
    EndedByItself {
        /// Which.
        rental: RentalId,
        /// Why it ended, by what the engine shows.
        found: String,
    },
    /// A rental runs, and its container was found: nothing to do now.
    Runs {
        /// Which.
        rental: RentalId,
        /// The rental's container.
        launch: LaunchId,
    },
    /// A rental is suspended: nothing to do until it is resumed, or was kept for long enough.
    Waits {
        /// Which.
        rental: RentalId,
        /// Whether its container was found, with its files.
        files: bool,
    },
    /// The engine does not say how a rental's container is: nothing is concluded.
    Unknown {
        /// Which.
        rental: RentalId,
        /// The rental's container.
        launch: LaunchId,
    },
    /// A rental cannot be brought up: a container that the store does not have down for it has, or may have, one of its GPUs.
    HeldUp {
        /// Which.
        rental: RentalId,
    },
    /// A container belongs to a later launch than the store knows of: the rental goes on with it.
    TakeUp {
        /// Which.
        rental: RentalId,
        /// The launch of the container.
        launch: LaunchId,
    },
    /// A container of a suspended rental that is not put away.
    PutAway {
        /// The launch of the container.
        launch: LaunchId,
    },
    /// A container whose rental has ended, or has been launched anew: it is removed.
    Remove {
        /// The launch of the container.
        launch: LaunchId,
    },
    /// A container whose rental the store does not know: it is made known again.
    Adopt {
        /// The launch of the container.
        launch: LaunchId,
    },
    /// A container whose rental the store does not know, and whose place is another's by now, or which does
    /// not tell what it is: it is left alone, for an operator to decide.
    Quarantine {
        /// The launch of the container.
        launch: LaunchId,
    },
}

/// Plans the next actions on the host's live rentals and its containers. `others` are the rentals that its other containers
/// belong to, as far as the store has them: they have ended.
///
/// The decisions are the reconciler's own. What only a running one knows is left out: steps that failed lately, and when
/// each container was last seen running.
#[must_use]
pub fn plan(
    live: &[Rental],
    others: &[Rental],
    observation: &Observation,
    now: &Moment,
    timing: &RentalTiming,
) -> Vec<Planned> {
    let containers: Vec<(&ObservedContainer, Standing)> = observation
        .containers
        .iter()
        .map(|seen| (seen, standing(live.iter().find(|rental| rental.id() == seen.launch.rental), seen, now)))
        .collect();
    let mut lines: Vec<Planned> =
        live.iter().map(|rental| of_rental(rental, &containers, observation, now, timing)).collect();
    for (seen, standing) in containers {
        let launch = seen.launch;
        match standing {
            Standing::InUse | Standing::Further | Standing::Later => {}
            Standing::NotPutAway => lines.push(Planned::PutAway { launch }),
            Standing::Orphan { .. } => {
                let stored = live.iter().chain(others).find(|rental| rental.id() == launch.rental);
                match settlement(stored, launch) {
                    Settlement::PutAway => lines.push(Planned::PutAway { launch }),
                    Settlement::Remove => lines.push(Planned::Remove { launch }),
                    Settlement::Adopt if may_be_adopted(seen, live) => lines.push(Planned::Adopt { launch }),
                    Settlement::Adopt => lines.push(Planned::Quarantine { launch }),
                    Settlement::Keep => {}
                }
            }
        }
    }
    lines
}

/// Whether a container tells what it holds, and nobody else holds that. The reconciler asks the store, which knows of what
/// is claimed in the same moment.
fn may_be_adopted(seen: &ObservedContainer, live: &[Rental]) -> bool {
    let holds = |rental: &Rental| {
        rental.gpus().iter().any(|gpu| seen.gpus.contains(&gpu.uuid))
            || rental.ports().iter().any(|binding| seen.ports.contains(&binding.host))
    };
    !seen.ports.is_empty() && !live.iter().any(holds)
}

fn of_rental(
    rental: &Rental,
    containers: &[(&ObservedContainer, Standing)],
    observation: &Observation,
    now: &Moment,
    timing: &RentalTiming,
) -> Planned {
    let (id, state) = (rental.id(), rental.state().phase().as_str());
    let its = |seen: &ObservedContainer| seen.launch.rental == id;
    let further = containers.iter().rfind(|(seen, standing)| its(seen) && *standing == Standing::Further);
    let occupies = |seen: &ObservedContainer| !held_by(seen, rental.gpus()).gpus.is_disjoint(&Holds::of(rental).gpus);
    let is_held_up = containers.iter().any(|(seen, standing)| standing.holds_beside_the_store(seen) && occupies(seen));
    let sighting = sighting(rental, observation, None, now);
    let ended = match &sighting {
        Sighting::EndedByItself(reason) => Some(reason.clone()),
        _ => None,
    };
    let further = further.map(|(seen, _)| seen.launch);
    match (decide(rental, rental.next(now, timing), ended.clone(), further, is_held_up), sighting) {
        (Decision::TakeUp(launch), _) => Planned::TakeUp { rental: id, launch },
        (Decision::Act(Action::End(reason)), _) if ended.as_ref() == Some(&reason) => {
            Planned::EndedByItself { rental: id, found: reason.describe() }
        }
        (Decision::Act(action), _) => Planned::Step { rental: id, state, action: describe(&action) },
        (Decision::HeldUp, _) => Planned::HeldUp { rental: id },
        (Decision::Nothing, Sighting::Unknown) => Planned::Unknown { rental: id, launch: rental.launch() },
        (Decision::Nothing, _) if rental.state().is_up() => Planned::Runs { rental: id, launch: rental.launch() },
        (Decision::Nothing, _) => {
            let files = observation.containers.iter().any(|seen| its(seen) && seen.retained);
            Planned::Waits { rental: id, files }
        }
    }
}

fn describe(action: &Action) -> String {
    match action {
        Action::Prepare | Action::Create => "fetch the image and make the container".to_owned(),
        Action::Start => "start the container".to_owned(),
        Action::Verify { .. } => "verify access".to_owned(),
        Action::ReplaceAccess => "replace the credential".to_owned(),
        Action::Warn => "warn the renter".to_owned(),
        Action::WithdrawWarning => "tell the renter of the extension".to_owned(),
        Action::WarnOfDisk { used, limit } => format!("tell the renter what it writes: {}", used.beside(*limit)),
        Action::TellServices(services) => {
            let ports: Vec<String> = services.iter().map(|service| service.container.to_string()).collect();
            format!("tell what answers on port {}", ports.join(", "))
        }
        Action::Notify => "tell the program to finish".to_owned(),
        Action::End(reason) => format!("end: {}", reason.describe()),
        Action::Stop { grace } => format!("stop the container within {} s", grace.as_secs()),
        Action::Retain => "put the container away and free GPUs and ports".to_owned(),
        Action::Remove => "remove the container and free GPUs and ports".to_owned(),
    }
}
