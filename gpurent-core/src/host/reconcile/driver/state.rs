//! The loop's view of its rentals, and when it may act on them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::allocation::Holds;
use crate::clock::BootInstant;
use crate::host::reconcile::contain_panic::contained;
use crate::host::reconcile::driver::{Done, Driver, Extent};
use crate::id::{LaunchId, RentalId};
use crate::model::{Rental, RentalState};

impl Driver {
    /// The next read is one of everything.
    pub(super) fn read_all(&mut self) {
        self.extent = Extent::All;
        self.read.request();
    }

    /// The host may have been somebody else's meanwhile: everything is read again before anything is done.
    pub(super) fn doubt_everything(&mut self) {
        if self.read_in == Some(self.generation) || self.observed_in == Some(self.generation) {
            self.generation.0 += 1;
            self.ended_by_themselves.clear();
            self.later_launches.clear();
            self.read_all();
            self.observe.request();
        }
        self.confirm.request_unless_failing();
    }

    /// Whether the engine may be observed: an observation means something only beside what is stored.
    pub(super) fn may_observe(&self) -> bool {
        self.read_in == Some(self.generation)
    }

    /// Whether what is known is known of a time at which the host was ours.
    pub(super) fn may_act(&self) -> bool {
        let known = self.may_observe() && self.observed_in == Some(self.generation);
        known && self.lease.check().is_ok()
    }

    /// A live rental is so now.
    pub(in crate::host::reconcile) fn know(&mut self, rental: Rental) {
        self.context.placement.quarantine.has(rental.id(), Holds::of(&rental));
        self.live.insert(rental.id(), Arc::new(rental));
    }

    pub(in crate::host::reconcile) fn forget(&mut self, id: RentalId) {
        self.live.remove(&id);
        self.context.placement.quarantine.has_no_more(id);
        self.backoffs.remove(&id);
        self.context.gets_on(id);
        self.unsure.remove(&id);
        self.later_launches.remove(&id);
        self.last_seen.retain(|launch, _| launch.rental != id);
        self.ended_by_themselves.remove(&id);
        self.disks.forget(id);
        self.services.forget(id);
        self.prepared.retain(|launch| launch.rental != id);
        // It may have been what somebody else's place was taken by.
        self.left_alone.values_mut().for_each(|not_before| *not_before = BootInstant::EARLIEST);
    }

    /// Replaces the known rentals by those that the store returned, except where a step has written a newer state since.
    pub(super) fn merge_live(&mut self, rentals: Vec<Rental>, extent: Extent) {
        let listed: BTreeSet<_> = rentals.iter().map(Rental::id).collect();
        let busy = |id: &RentalId| self.in_flight.contains_key(id) || self.moved_during_read.contains(id);
        let missing = self.live.values().filter(|rental| !listed.contains(&rental.id()) && !busy(&rental.id()));
        let gone: Vec<_> = match extent {
            Extent::All => missing.map(|rental| rental.id()).collect(),
            Extent::Active => {
                // It has ended, or is suspended, by somebody else's doing or by a store that was set back: all is read to
                // tell, and what it has is nobody's meanwhile.
                let missing: Vec<_> =
                    missing.filter(|rental| !matches!(rental.state(), RentalState::Suspended { .. })).collect();
                for rental in missing.iter().filter(|rental| rental.container().is_some()) {
                    self.context.placement.quarantine.lost(rental.launch(), Holds::of(rental));
                }
                if !missing.is_empty() {
                    self.extent = Extent::All;
                    self.read.request();
                }
                Vec::new()
            }
        };
        // What is worked on is not forgotten yet; but a store that was set back would give what it has to others.
        let may_run = |rental: &&Arc<Rental>| {
            matches!(rental.state(), RentalState::Provisioning | RentalState::Running | RentalState::Ready)
        };
        let is_worked_on = |id: &RentalId| self.in_flight.contains_key(id) && !self.moved_during_read.contains(id);
        let is_lost = |rental: &&Arc<Rental>| !listed.contains(&rental.id()) && is_worked_on(&rental.id());
        self.unbooked =
            self.live.values().filter(may_run).filter(is_lost).map(|r| (r.launch(), Holds::of(r))).collect();
        for (launch, held) in &self.unbooked {
            self.context.placement.quarantine.lost(*launch, held.clone());
        }
        let news: Vec<_> = rentals
            .into_iter()
            .filter(|rental| !self.moved_during_read.contains(&rental.id()))
            // Also what has a lower revision, or the same and says something else: a store that was set back.
            .filter(|rental| self.live.get(&rental.id()).is_none_or(|known| **known != *rental))
            .collect();
        self.unsure.retain(|id| self.in_flight.contains_key(id) || self.moved_during_read.contains(id));
        for id in gone {
            // Ended by somebody else, or lost by a store that was set back: its container may still run.
            if let Some(rental) = self.live.get(&id).filter(|rental| rental.container().is_some()) {
                self.context.placement.quarantine.lost(rental.launch(), Holds::of(rental));
                self.observe.request();
            }
            self.forget(id);
        }
        let lower =
            |rental: &Rental| self.live.get(&rental.id()).is_some_and(|known| known.last_seq() > rental.last_seq());
        if news.iter().any(lower) {
            // The store was set back: the engine may be further than it is.
            self.observed_in = None;
            self.observe.request();
        }
        for rental in news {
            // What it had by what is lost now its container may have still.
            if let Some(known) = self.live.get(&rental.id()).filter(|known| known.last_seq() > rental.last_seq()) {
                self.context.placement.quarantine.lost(known.launch(), Holds::of(known));
            }
            // A changed rental is looked at at once, whatever held it up before.
            self.backoffs.remove(&rental.id());
            self.know(rental);
        }
    }

    /// Lets the host's own book agree with what is known.
    pub(super) fn keep_book(&self) {
        let context = Arc::clone(&self.context);
        let ready: Vec<_> =
            self.live.values().filter(|rental| matches!(rental.state(), RentalState::Ready)).cloned().collect();
        let seen: Vec<_> = self.last_seen.iter().map(|(launch, moment)| (*launch, moment.clone())).collect();
        // What is there may have to be adopted; what is live may be ready in a moment.
        let live: BTreeSet<_> = self.live.keys().copied().collect();
        let shown = self.shown.clone();
        let needed = move |launch: LaunchId| live.contains(&launch.rental) || shown.contains(&launch);
        self.spawn(async move { Done::Kept(contained(context.deadlines.agree_with(&ready, &seen, needed)).await) });
    }
}
