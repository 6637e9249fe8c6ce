//! A cache of what each host holds, so that most claims need one round trip instead of two.
//!
//! A hint, no more: the constraints decide. One that turns out wrong costs a second look, and nobody is
//! refused for want of a place without one. It is forgotten as soon as this process frees something, and
//! after a moment, since other processes free things too.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gpurent_core::allocation::Holds;
use gpurent_core::id::HostId;
use gpurent_core::model::Rental;

/// How long cached holds are used.
const CACHE_TTL: Duration = Duration::from_secs(2);
/// The most hosts that are cached at once.
const MOST_HOSTS: usize = 4096;

#[derive(Default)]
pub(super) struct HoldCache {
    hosts: Mutex<HashMap<HostId, CachedHolds>>,
}

#[derive(Default)]
struct CachedHolds {
    /// Grows whenever something is freed: what was read before is worth nothing then.
    version: u64,
    held: Option<(Instant, Holds)>,
}

/// The version of what was read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Version(u64);

impl HoldCache {
    fn hosts(&self) -> MutexGuard<'_, HashMap<HostId, CachedHolds>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cached holds of a host; `None` where they have to be read.
    pub(super) fn get(&self, host: &HostId) -> (Version, Option<Holds>) {
        let mut hosts = self.hosts();
        if hosts.len() >= MOST_HOSTS && !hosts.contains_key(host) {
            hosts.clear();
        }
        let cached = hosts.entry(host.clone()).or_default();
        let fresh = cached.held.as_ref().filter(|(since, _)| since.elapsed() < CACHE_TTL);
        (Version(cached.version), fresh.map(|(_, held)| held.clone()))
    }

    /// Keeps what was read at `version`.
    pub(super) fn store(&self, host: &HostId, version: Version, held: Holds) {
        if let Some(cached) = self.hosts().get_mut(host).filter(|cached| cached.version == version.0) {
            cached.held = Some((Instant::now(), held));
        }
    }

    /// A rental was made: it holds its own from now on.
    pub(super) fn insert(&self, rental: &Rental) {
        if let Some((_, held)) = self.hosts().get_mut(rental.host()).and_then(|cached| cached.held.as_mut()) {
            held.add(rental);
        }
    }

    /// Something was freed, or turned out to be held by others.
    pub(super) fn invalidate(&self, host: &HostId) {
        if let Some(cached) = self.hosts().get_mut(host) {
            cached.version += 1;
            cached.held = None;
        }
    }
}
