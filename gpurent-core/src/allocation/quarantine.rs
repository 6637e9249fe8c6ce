//! The GPUs and ports that must not be given out, though the store says that they are free.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::allocation::Holds;
use crate::clock::BootInstant;
use crate::id::{LaunchId, RentalId};
use crate::model::{Gpu, GpuUuid, HostPort};

/// GPUs and ports that somebody uses of whom the books know nothing: a container whose rental the store has
/// lost or believes to be gone, a program that sits on a port. And what the reconciler's own rentals have: a store that
/// was set back a moment ago may say otherwise, and nobody has noticed yet.
#[derive(Debug, Default)]
pub struct Quarantine {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    containers: BTreeMap<LaunchId, Holds>,
    rentals: BTreeMap<RentalId, Holds>,
    /// Until when, on the boot clock.
    ports: BTreeMap<HostPort, BootInstant>,
    /// GPUs on which a launch failed, and until when that is remembered, on the boot clock.
    suspects: BTreeMap<GpuUuid, BootInstant>,
}

impl Quarantine {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the resources that containers hold beside the store with those of the latest observation.
    pub fn observed(&self, containers: BTreeMap<LaunchId, Holds>, now: BootInstant) {
        let mut kept = self.kept();
        kept.containers = containers;
        kept.ports.retain(|_, until| *until > now);
        kept.suspects.retain(|_, until| *until > now);
    }

    /// A container was known to the books, and is not any more: what it holds is kept until the next observation.
    pub fn lost(&self, launch: LaunchId, holds: Holds) {
        self.kept().containers.insert(launch, holds);
    }

    /// A live rental as the reconciler knows it, and what it has.
    pub(crate) fn has(&self, rental: RentalId, holds: Holds) {
        self.kept().rentals.insert(rental, holds);
    }

    /// A rental lives no longer, as far as the reconciler knows.
    pub(crate) fn has_no_more(&self, rental: RentalId) {
        self.kept().rentals.remove(&rental);
    }

    /// There is no reconciler any more that knows of rentals.
    pub(crate) fn knows_none(&self) {
        self.kept().rentals.clear();
    }

    /// Whether somebody outside the books has one of these GPUs.
    #[must_use]
    pub fn has_any_of(&self, gpus: &[Gpu]) -> bool {
        self.kept().containers.values().any(|held| gpus.iter().any(|gpu| held.gpus.contains(&gpu.uuid)))
    }

    /// Whether another rental's container outside the books has one of these GPUs.
    pub(crate) fn another_has_any_of(&self, rental: RentalId, gpus: &[Gpu]) -> bool {
        let kept = self.kept();
        let mut others = kept.containers.iter().filter(|(launch, _)| launch.rental != rental);
        others.any(|(_, held)| gpus.iter().any(|gpu| held.gpus.contains(&gpu.uuid)))
    }

    /// A container is gone.
    pub fn gone(&self, launch: LaunchId) {
        self.kept().containers.remove(&launch);
    }

    /// A launch on these GPUs failed, perhaps because of them: until `until` on the boot clock others are given out first.
    pub fn suspect(&self, gpus: &[Gpu], until: BootInstant) {
        self.kept().suspects.extend(gpus.iter().map(|gpu| (gpu.uuid.clone(), until)));
    }

    /// A launch on these GPUs became ready.
    pub fn trust(&self, gpus: &[Gpu]) {
        let mut kept = self.kept();
        for gpu in gpus {
            kept.suspects.remove(&gpu.uuid);
        }
    }

    pub(crate) fn is_suspect(&self, gpu: &Gpu) -> bool {
        self.kept().suspects.contains_key(&gpu.uuid)
    }

    /// Keeps a port that another program has from being given out before `until` on the boot clock.
    pub fn port(&self, port: HostPort, until: BootInstant) {
        self.kept().ports.insert(port, until);
    }

    /// Adds all of it to what is held, for the placement of one rental.
    pub(crate) fn add_to(&self, held: &Holds, placed: RentalId) -> Holds {
        let kept = self.kept();
        let mut all = held.clone();
        let others = kept.rentals.iter().filter(|(rental, _)| **rental != placed).map(|(_, held)| held);
        for held in kept.containers.values().chain(others) {
            all.gpus.extend(held.gpus.iter().cloned());
            all.ports.extend(&held.ports);
        }
        all.ports.extend(kept.ports.keys());
        all
    }
}
