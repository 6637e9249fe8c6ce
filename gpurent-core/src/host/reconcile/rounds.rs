//! Looks at running containers, one after the other, each at a pace of its own and few at once.

use std::collections::BTreeMap;

use crate::clock::BootInstant;
use crate::id::LaunchId;

/// The times of the next looks.
pub(super) struct Rounds {
    /// The next look at each, on the boot clock; `None` while one is under way.
    next: BTreeMap<LaunchId, Option<BootInstant>>,
    at_once: usize,
}

impl Rounds {
    pub(super) fn new(at_once: usize) -> Self {
        Self { next: BTreeMap::new(), at_once }
    }

    fn under_way(&self) -> usize {
        self.next.values().filter(|next| next.is_none()).count()
    }

    /// Keeps to these: others are looked at no more, new ones at once.
    pub(super) fn keep_to(&mut self, launches: &[LaunchId], now: BootInstant) {
        self.next.retain(|launch, next| next.is_none() || launches.contains(launch));
        for launch in launches {
            self.next.entry(*launch).or_insert(Some(now));
        }
    }

    /// When the next look is due, on the boot clock.
    pub(super) fn due(&self) -> Option<BootInstant> {
        self.next.values().filter_map(|next| *next).min().filter(|_| self.under_way() < self.at_once)
    }

    /// Begins a look at the one that has waited for the longest time.
    pub(super) fn begin(&mut self, now: BootInstant) -> Option<LaunchId> {
        if self.under_way() >= self.at_once {
            return None;
        }
        let due =
            self.next.iter_mut().filter_map(|(launch, next)| Some((next.filter(|due| *due <= now)?, *launch, next)));
        let (_, launch, next) = due.min_by_key(|(due, launch, _)| (*due, *launch))?;
        *next = None;
        Some(launch)
    }

    /// Ends a look; the next one is due then.
    pub(super) fn done(&mut self, launch: LaunchId, due: BootInstant) {
        self.next.insert(launch, Some(due));
    }
}
