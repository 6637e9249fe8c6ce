//! The next actions of a reconciler, for an operator to read before they are taken.

use serde::Serialize;

use crate::clock::Moment;
use crate::id::{LaunchId, RentalId};
use crate::model::{Action, Next, Rental, RentalState, RentalTiming};
use crate::runtime::{ContainerStatus, Observation, ObservedContainer};

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
        /// The state that the engine shows.
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

/// Plans the next actions on the host's live rentals and its containers. `known` tells which rentals the
/// store knows, live or ended.
#[must_use]
pub fn plan(
    live: &[Rental],
    known: &[RentalId],
    observation: &Observation,
    now: &Moment,
    timing: &RentalTiming,
) -> Vec<Planned> {
    let mut lines: Vec<Planned> = live.iter().map(|rental| of_rental(rental, observation, now, timing)).collect();
    for seen in &observation.containers {
        let launch = seen.launch;
        let is_needed = |rental: &Rental| rental.attempt() <= launch.attempt || rental.may_need(launch.attempt);
        if live.iter().any(|rental| rental.id() == launch.rental && is_needed(rental)) {
            continue;
        }
        lines.push(match known.contains(&launch.rental) {
            true => Planned::Remove { launch },
            false if may_be_adopted(seen, live) => Planned::Adopt { launch },
            false => Planned::Quarantine { launch },
        });
    }
    lines
}

/// Whether a container tells what it holds, and nobody else holds that.
fn may_be_adopted(seen: &ObservedContainer, live: &[Rental]) -> bool {
    let holds = |rental: &Rental| {
        rental.gpus().iter().any(|gpu| seen.gpus.contains(&gpu.uuid))
            || rental.ports().iter().any(|binding| seen.ports.contains(&binding.host))
    };
    !seen.ports.is_empty() && !live.iter().any(holds)
}

fn of_rental(rental: &Rental, observation: &Observation, now: &Moment, timing: &RentalTiming) -> Planned {
    let id = rental.id();
    let seen = observation.of(rental.launch());
    match rental.next(now, timing) {
        Next::Now(action) => {
            Planned::Step { rental: id, state: rental.state().phase().as_str(), action: describe(&action) }
        }
        Next::After(_) | Next::Idle if matches!(rental.state(), RentalState::Suspended { .. }) => {
            let its = |seen: &ObservedContainer| seen.launch.rental == id && seen.retained;
            Planned::Waits { rental: id, files: observation.containers.iter().any(its) }
        }
        Next::After(_) | Next::Idle => match seen.map(|seen| &seen.status) {
            Some(ContainerStatus::Running) => Planned::Runs { rental: id, launch: rental.launch() },
            Some(ContainerStatus::Exited(exit)) => {
                Planned::EndedByItself { rental: id, found: format!("exited with code {}", exit.code) }
            }
            Some(ContainerStatus::Unknown) => Planned::Unknown { rental: id, launch: rental.launch() },
            Some(ContainerStatus::Created) | None => {
                Planned::EndedByItself { rental: id, found: "no container".to_owned() }
            }
        },
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
