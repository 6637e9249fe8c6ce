//! The resources that this process believes to be held, so that most claims need one round trip instead of two.
//!
//! A belief, no more: the constraints decide. One that turns out wrong costs a second look, and nobody is
//! refused for want of a place without one. It is forgotten as soon as this process frees something, and
//! after a moment, since other processes free things too.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gpurent_core::allocation::Held;
use gpurent_core::id::HostId;
use gpurent_core::model::Rental;

/// How long a belief is acted upon.
const TRUST: Duration = Duration::from_secs(2);
/// Of how many hosts something is believed at once.
const MOST_HOSTS: usize = 4096;

#[derive(Default)]
pub(super) struct Beliefs {
    hosts: Mutex<HashMap<HostId, Belief>>,
}

#[derive(Default)]
struct Belief {
    /// Grows whenever something is freed: what was read before is worth nothing then.
    version: u64,
    held: Option<(Instant, Held)>,
}

/// The version of what was read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Version(u64);

impl Beliefs {
    fn hosts(&self) -> MutexGuard<'_, HashMap<HostId, Belief>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The belief about a host; `None` where it has to be read.
    pub(super) fn of(&self, host: &HostId) -> (Version, Option<Held>) {
        let mut hosts = self.hosts();
        if hosts.len() >= MOST_HOSTS && !hosts.contains_key(host) {
            hosts.clear();
        }
        let belief = hosts.entry(host.clone()).or_default();
        let fresh = belief.held.as_ref().filter(|(since, _)| since.elapsed() < TRUST);
        (Version(belief.version), fresh.map(|(_, held)| held.clone()))
    }

    /// Keeps what was read at `version`.
    pub(super) fn learn(&self, host: &HostId, version: Version, held: Held) {
        if let Some(belief) = self.hosts().get_mut(host).filter(|belief| belief.version == version.0) {
            belief.held = Some((Instant::now(), held));
        }
    }

    /// A rental was made: it holds its own from now on.
    pub(super) fn took(&self, rental: &Rental) {
        if let Some((_, held)) = self.hosts().get_mut(rental.host()).and_then(|belief| belief.held.as_mut()) {
            held.add(rental);
        }
    }

    /// Something was freed, or turned out to be held by others.
    pub(super) fn forget(&self, host: &HostId) {
        if let Some(belief) = self.hosts().get_mut(host) {
            belief.version += 1;
            belief.held = None;
        }
    }
}
