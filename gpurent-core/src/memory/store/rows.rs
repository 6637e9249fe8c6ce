//! The rows of the store in memory, and what a write does to them.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;

use crate::allocation::{Holds, RenterHas};
use crate::id::{EngineId, Epoch, HostId, IdempotencyKey, MachineId, Position, RentalId, RenterId};
use crate::memory::store::Interference;
use crate::model::{Fingerprint, JournalEntry, PortRange, RecordedEvent, Rental, RentalEvent, Sealed};
use crate::store::{Change, KeyRecord, LogTail, NumberedEntry, StoreError};

#[derive(Default)]
pub(in crate::memory) struct Tables {
    pub(in crate::memory) away: bool,
    pub(in crate::memory) hangs: bool,
    pub(in crate::memory) answers_to_lose: u32,
    pub(in crate::memory) interference: Option<Interference>,
    pub(in crate::memory) writes: u64,
    /// Whether the next write of the holder is preceded by another's: every other one is.
    pub(in crate::memory) interferes: bool,
    pub(in crate::memory) hosts: BTreeMap<HostId, HostRow>,
    pub(in crate::memory) rentals: BTreeMap<RentalId, RentalRow>,
    /// In the order of their claims.
    pub(in crate::memory) claimed: Vec<RentalId>,
    pub(in crate::memory) unpublished: Vec<(HostId, RentalId, RecordedEvent)>,
    pub(in crate::memory) keys: BTreeMap<(HostId, RenterId, IdempotencyKey), (Fingerprint, RentalId)>,
    pub(in crate::memory) api_keys: Vec<KeyRecord>,
    pub(in crate::memory) ranges: BTreeMap<(HostId, RenterId), PortRange>,
    pub(in crate::memory) audit: VecDeque<NumberedEntry>,
    pub(in crate::memory) audited: u64,
}

#[derive(Clone)]
pub(in crate::memory) struct HostRow {
    pub(in crate::memory) engine: EngineId,
    pub(in crate::memory) machine: Option<MachineId>,
    pub(in crate::memory) epoch: Epoch,
    pub(in crate::memory) journal: Vec<JournalEntry>,
    /// Of the last entry that the journal ever had.
    pub(in crate::memory) last_position: Position,
}

#[derive(Clone)]
pub(in crate::memory) struct RentalRow {
    pub(in crate::memory) rental: Rental,
    pub(in crate::memory) fingerprint: Fingerprint,
    pub(in crate::memory) sealed: Option<Sealed>,
    pub(in crate::memory) events: Vec<RecordedEvent>,
    pub(in crate::memory) log_tail: Option<LogTail>,
}

impl Tables {
    /// Whether all events of a rental were published.
    pub(in crate::memory) fn is_told(&self, id: RentalId) -> bool {
        self.unpublished.iter().all(|(_, of, _)| *of != id)
    }

    pub(in crate::memory) fn remove(&mut self, host: &HostId, id: RentalId) {
        self.writes += 1;
        self.rentals.remove(&id);
        self.claimed.retain(|claimed| *claimed != id);
        self.keys.retain(|_, (_, of)| *of != id);
        if let Some(row) = self.hosts.get_mut(host) {
            row.journal.retain(|entry| entry.rental != id);
        }
    }

    /// Answers with what has happened, unless the answer is to be lost.
    pub(in crate::memory) fn answer<T>(&mut self, done: T) -> Result<T, StoreError> {
        if self.answers_to_lose == 0 {
            return Ok(done);
        }
        self.answers_to_lose -= 1;
        Err(StoreError::Unavailable("the answer was lost".into()))
    }

    pub(in crate::memory) fn commit(&mut self, change: &Change) -> Result<(), StoreError> {
        let rental = change.rental();
        if let Some(epoch) = change.fence() {
            self.check(rental.host(), epoch)?;
        }
        let wanted = Holds::of(rental);
        let taken = self.live(rental.host()).filter(|row| row.rental.id() != rental.id()).any(|row| {
            let held = Holds::of(&row.rental);
            !held.ports.is_disjoint(&wanted.ports) || !held.gpus.is_disjoint(&wanted.gpus)
        });
        let Some(row) = self.rentals.get_mut(&rental.id()) else { return Err(StoreError::Conflict) };
        if row.rental.revision() != change.expected() || (taken && rental.is_live()) {
            return Err(StoreError::Conflict);
        }
        self.writes += 1;
        row.rental = rental.clone();
        row.events.extend_from_slice(change.events());
        if let Some(sealed) = change.sealed() {
            row.sealed = Some(sealed.clone());
        }
        if !rental.is_live() {
            row.sealed = None;
            for recorded in &mut row.events {
                if let RentalEvent::Claimed(claim) = &mut recorded.event {
                    claim.spec.environment = Default::default();
                }
            }
        }
        if let Some(tail) = change.log_tail() {
            row.log_tail = Some(tail.clone());
        }
        let ended = change.events().iter().find(|recorded| matches!(recorded.event, RentalEvent::Ended));
        if let Some(by) = change.log_tail().map(|tail| tail.at).or(ended.map(|recorded| recorded.at)) {
            let host = rental.host().clone();
            for row in self.rentals.values_mut().filter(|row| *row.rental.host() == host) {
                row.log_tail.take_if(|kept| kept.until <= by);
            }
        }
        let host = rental.host();
        self.unpublished.extend(change.events().iter().map(|event| (host.clone(), rental.id(), event.clone())));
        Ok(())
    }

    pub(in crate::memory) fn check(&self, host: &HostId, epoch: Epoch) -> Result<(), StoreError> {
        match self.hosts.get(host) {
            Some(row) if row.epoch == epoch => Ok(()),
            _ => Err(StoreError::Fenced),
        }
    }

    pub(in crate::memory) fn live(&self, host: &HostId) -> impl Iterator<Item = &RentalRow> {
        self.rentals.values().filter(move |row| row.rental.is_live() && row.rental.host() == host)
    }

    /// Whether a live rental, perhaps a suspended one, is to have ports of the renter's own range.
    pub(in crate::memory) fn is_kept_for_one(&self, host: &HostId, renter: &RenterId) -> bool {
        let mut specs = self.live(host).map(|row| row.rental.spec());
        specs.any(|spec| spec.renter == *renter && spec.sticky_ports.is_some())
    }

    pub(in crate::memory) fn renter_has(&self, host: &HostId, renter: &RenterId, since: Timestamp) -> RenterHas {
        let all = self.rentals.values().map(|row| &row.rental);
        RenterHas::of(all.filter(|rental| rental.host() == host && rental.spec().renter == *renter), since)
    }

    pub(in crate::memory) fn held(&self, host: &HostId) -> Holds {
        let mut held = Holds::default();
        for row in self.live(host) {
            held.add(&row.rental);
        }
        held
    }
}
