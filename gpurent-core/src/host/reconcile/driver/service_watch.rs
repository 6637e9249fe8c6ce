//! The watch over what rentals offer on their published ports: a service that comes up is told, each once a container.
//!
//! Most come up soon after the container or never. So a container is asked often at first and ever more rarely later, and no more
//! when all its ports have answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, select_biased};

use crate::clock::BootInstant;
use crate::host::reconcile::contain_panic::contained;
use crate::host::reconcile::driver::{Done, Driver};
use crate::host::reconcile::rounds::Rounds;
use crate::id::{LaunchId, RentalId};
use crate::model::{Action, PortBinding, Rental, RentalState, Service};
use crate::runtime::RuntimeError;

/// How many rentals are asked at once.
const AT_ONCE: usize = 8;

/// The pauses between two looks: a quarter of the time for which the container has been asked, between these.
const MIN_PROBE_INTERVAL: Duration = Duration::from_secs(1);
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// How long one look may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// The looks at all rentals' ports.
pub(in crate::host::reconcile) struct ServiceWatch {
    rounds: Rounds,
    /// Since when each is asked, on the boot clock.
    since: BTreeMap<LaunchId, BootInstant>,
    /// Services that were found and are not recorded yet.
    found: BTreeMap<RentalId, (LaunchId, Vec<Service>)>,
}

impl Default for ServiceWatch {
    fn default() -> Self {
        Self { rounds: Rounds::new(AT_ONCE), since: BTreeMap::new(), found: BTreeMap::new() }
    }
}

impl ServiceWatch {
    /// When the next look is due, on the boot clock.
    pub(in crate::host::reconcile) fn due(&self) -> Option<BootInstant> {
        self.rounds.due()
    }

    /// Takes the news that a rental's renter is to be told.
    pub(in crate::host::reconcile) fn news(&mut self, rental: &Rental) -> Option<Action> {
        let (launch, services) = self.found.remove(&rental.id())?;
        let is_current = launch == rental.launch() && matches!(rental.state(), RentalState::Ready);
        is_current.then_some(Action::TellServices(services))
    }

    pub(in crate::host::reconcile) fn forget(&mut self, rental: RentalId) {
        self.found.remove(&rental);
    }
}

impl Driver {
    /// Looks at the ports of those whose turn it is.
    pub(in crate::host::reconcile) fn look_for_services(&mut self, now: BootInstant) {
        let asked: Vec<LaunchId> = self
            .live
            .values()
            .filter(|rental| rental.silent_ports().next().is_some())
            .map(|rental| rental.launch())
            .collect();
        self.services.rounds.keep_to(&asked, now);
        self.services.since.retain(|launch, _| asked.contains(launch));
        while let Some(launch) = self.services.rounds.begin(now) {
            self.services.since.entry(launch).or_insert(now);
            let ports: Vec<PortBinding> =
                self.live.get(&launch.rental).map(|rental| rental.silent_ports().collect()).unwrap_or_default();
            let (context, sleep) = (Arc::clone(&self.context), Arc::clone(&self.sleep));
            self.spawn(async move {
                let mut found = std::pin::pin!(contained(context.runtime.services(launch, &ports)).fuse());
                let mut too_late = sleep.sleep(PROBE_TIMEOUT).fuse();
                let found = select_biased! {
                    found = found => found,
                    () = too_late => Err(RuntimeError::Unavailable("its ports do not answer in time".into())),
                };
                Done::LookedForServices(launch, found)
            });
        }
    }

    /// Takes in what a look has found.
    pub(in crate::host::reconcile) fn looked_for_services(
        &mut self,
        launch: LaunchId,
        found: Result<Vec<Service>, RuntimeError>,
    ) {
        let now = self.now();
        let asked_for = self.services.since.get(&launch).map_or(Duration::ZERO, |since| now.since(*since));
        let pause = asked_for / 4;
        self.services.rounds.done(launch, now.after(pause.clamp(MIN_PROBE_INTERVAL, MAX_PROBE_INTERVAL)));
        match found {
            Ok(found) if found.is_empty() => {}
            Ok(found) => {
                self.services.found.insert(launch.rental, (launch, found));
            }
            // Of one that has just ended, or an engine that is away: the next look tells.
            Err(error) => {
                tracing::debug!(%launch, error = &error as &dyn std::error::Error, "its ports cannot be looked at");
            }
        }
    }
}
