//! Promises that renters and hosts were given: what has to hold although its answer was lost.

use crate::id::{LaunchId, RentalId};
use crate::model::Term;
use crate::store::Store;
use crate::testing::simulation::environment::at_once;
use crate::testing::simulation::oracle::Oracle;

impl Oracle {
    /// Notes that a renter was told that this rental is theirs.
    pub(in crate::testing::simulation) fn promises(&mut self, rental: RentalId, key: Option<u8>) {
        self.promised.entry(rental).or_default();
        if let Some(key) = key {
            let first = *self.keys.entry(key).or_insert(rental);
            if first != rental && !self.restored {
                self.report_violation(format!("I8: key {key} made two rentals"));
            }
        }
    }

    /// An extension by so many seconds is asked for: the rental may last so long until its agent knows better.
    pub(in crate::testing::simulation) fn hopes(&mut self, rental: RentalId, secs: i64) {
        let hope = self.hoped.entry(rental).or_default();
        hope.micros = if hope.is_answered { secs * 1_000_000 } else { hope.micros.max(secs * 1_000_000) };
        hope.is_answered = false;
    }

    /// An extension is about to be recorded: whatever was known before says nothing of it.
    pub(in crate::testing::simulation) fn extends(&mut self, rental: RentalId) {
        if let Some(hope) = self.hoped.get_mut(&rental) {
            hope.is_answered = false;
        }
    }

    /// An agent is about to record that a launch is ready. Until it knows that it has, it may have to try again, and the paid
    /// time counts from then.
    pub(in crate::testing::simulation) fn readies(&mut self, now: i64, launch: LaunchId) {
        self.readied_at.insert(launch, now);
    }

    /// An agent's knowledge that a rental was changed, and with it whether that was extended before.
    pub(in crate::testing::simulation) fn knows(&mut self, rental: RentalId) {
        let row = at_once(self.store.get(rental)).unwrap_or_default();
        // What ends now may have been late for as long as nobody knew.
        if row.is_some_and(|row| row.state().end_reason().is_none())
            && let Some(hope) = self.hoped.get_mut(&rental).filter(|hope| !hope.of_the_dead)
        {
            hope.is_answered = true;
        }
    }

    /// An agent is gone, and with it the knowledge of which extension was never answered. The book has the longer term.
    pub(in crate::testing::simulation) fn agent_dies(&mut self) {
        self.hoped.values_mut().filter(|hope| !hope.is_answered).for_each(|hope| hope.of_the_dead = true);
    }

    /// Notes that a renter was told that this rental lasts so long.
    pub(in crate::testing::simulation) fn promises_term(&mut self, rental: RentalId, term: Term) {
        let promised = self.promised.entry(rental).or_default();
        if promised.is_none_or(|promised| promised.is_shorter_than(term)) {
            *promised = Some(term);
        }
    }

    /// The store was set back to an earlier state.
    pub(in crate::testing::simulation) fn set_back(&mut self, now: i64) {
        self.restored = true;
        self.echoes_until = now + 10_000_000;
        self.changed = true;
        self.promised.clear();
        self.keys.clear();
        for host in &mut self.hosts {
            host.acted = None;
        }
    }
}
