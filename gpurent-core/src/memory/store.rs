//! A store in memory. Holds the rules, loses everything with the process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;

use crate::allocation::renter_limits::lately;
use crate::allocation::{Holds, Placement, RenterHas};
use crate::id::{ContainerId, EngineId, Epoch, HostId, IdempotencyKey, MachineId, Position, RentalId, RenterId, Seq};
use crate::model::{Fingerprint, JournalEntry, PortRange, RecordedEvent, Rental, RentalEvent, RentalState, Sealed};
use crate::store::{
    Change, ClaimDecision, ClaimError, ClaimOutcome, ClaimSnapshot, Filter, HostOwnership, HostStore, KeyRecord,
    LogTail, MAX_PAGE, NewRental, NumberedEntry, PriorRequest, RecoveredRental, Store, StoreError,
};

/// The shortest part of a container's id that is taken for it, as Docker shows it.
const SHORT_ID: usize = 12;

/// A store for tests and for trying things out.
#[derive(Default)]
pub struct MemoryStore {
    tables: Mutex<Tables>,
    /// Rung when a hanging store goes on.
    goes_on: event_listener::Event,
}

type Interference = Box<dyn Fn(Rental) -> Option<Change> + Send>;

#[derive(Default)]
pub(super) struct Tables {
    away: bool,
    hangs: bool,
    answers_to_lose: u32,
    interference: Option<Interference>,
    writes: u64,
    /// Whether the next write of the holder is preceded by another's: every other one is.
    interferes: bool,
    hosts: BTreeMap<HostId, HostRow>,
    rentals: BTreeMap<RentalId, RentalRow>,
    /// In the order of their claims.
    claimed: Vec<RentalId>,
    unpublished: Vec<(HostId, RentalId, RecordedEvent)>,
    keys: BTreeMap<(HostId, RenterId, IdempotencyKey), (Fingerprint, RentalId)>,
    pub(super) api_keys: Vec<KeyRecord>,
    pub(super) ranges: BTreeMap<(HostId, RenterId), PortRange>,
    pub(super) audit: VecDeque<NumberedEntry>,
    pub(super) audited: u64,
}

#[derive(Clone)]
struct HostRow {
    engine: EngineId,
    machine: Option<MachineId>,
    epoch: Epoch,
    journal: Vec<JournalEntry>,
    /// Of the last entry that the journal ever had.
    last_position: Position,
}

#[derive(Clone)]
struct RentalRow {
    rental: Rental,
    fingerprint: Fingerprint,
    sealed: Option<Sealed>,
    events: Vec<RecordedEvent>,
    log_tail: Option<LogTail>,
}

/// See [`MemoryStore::snapshot`].
#[cfg(feature = "testing")]
#[derive(Clone)]
pub(crate) struct StoreSnapshot {
    hosts: BTreeMap<HostId, HostRow>,
    rentals: BTreeMap<RentalId, RentalRow>,
    claimed: Vec<RentalId>,
    unpublished: Vec<(HostId, RentalId, RecordedEvent)>,
    keys: BTreeMap<(HostId, RenterId, IdempotencyKey), (Fingerprint, RentalId)>,
}

impl MemoryStore {
    /// Lets the store answer, or not.
    pub fn set_available(&self, available: bool) {
        self.lock().away = !available;
    }

    /// Lets the store hang, as a database does whose disk does: calls neither succeed nor fail.
    pub fn set_hanging(&self, hangs: bool) {
        self.lock().hangs = hangs;
        self.goes_on.notify(usize::MAX);
    }

    /// Lets somebody else write before every other write of the host's holder, so that whoever tries again gets
    /// through: `change` is given the rental as it is, and makes the other's change of it, or none.
    pub fn interfere(&self, change: impl Fn(Rental) -> Option<Change> + Send + 'static) {
        self.lock().interference = Some(Box::new(change));
    }

    /// Lets the next `n` claims, commits and publications happen, and their answers get lost.
    pub fn lose_answers(&self, n: u32) {
        self.lock().answers_to_lose = n;
    }

    /// Everything, as a backup has it.
    #[cfg(feature = "testing")]
    pub(crate) fn snapshot(&self) -> StoreSnapshot {
        let tables = self.lock();
        StoreSnapshot {
            hosts: tables.hosts.clone(),
            rentals: tables.rentals.clone(),
            claimed: tables.claimed.clone(),
            unpublished: tables.unpublished.clone(),
            keys: tables.keys.clone(),
        }
    }

    /// Sets everything back to a backup.
    #[cfg(feature = "testing")]
    pub(crate) fn restore(&self, backup: StoreSnapshot) {
        let mut tables = self.lock();
        tables.writes += 1;
        tables.hosts = backup.hosts;
        tables.rentals = backup.rentals;
        tables.claimed = backup.claimed;
        tables.unpublished = backup.unpublished;
        tables.keys = backup.keys;
    }

    /// All rentals, live or ended.
    #[cfg(feature = "testing")]
    pub(crate) fn all(&self) -> Vec<Rental> {
        self.lock().rentals.values().map(|row| row.rental.clone()).collect()
    }

    /// A host's current epoch.
    #[cfg(feature = "testing")]
    pub(crate) fn epoch_of(&self, host: &HostId) -> Option<Epoch> {
        self.lock().hosts.get(host).map(|row| row.epoch)
    }

    /// How often something was written.
    #[cfg(feature = "testing")]
    pub(crate) fn writes(&self) -> u64 {
        self.lock().writes
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn open(&self) -> Result<MutexGuard<'_, Tables>, StoreError> {
        loop {
            // Listened to before the look, so that no change falls in between.
            let goes_on = self.goes_on.listen();
            {
                let tables = self.lock();
                if tables.away {
                    return Err(StoreError::Unavailable("the store is away".into()));
                }
                if !tables.hangs {
                    return Ok(tables);
                }
            }
            goes_on.await;
        }
    }
}

/// The time of a rental's end.
fn ended_at(rental: &Rental) -> Option<Timestamp> {
    match rental.state() {
        RentalState::Ended { at, .. } => Some(*at),
        _ => None,
    }
}

impl Tables {
    /// Whether all events of a rental were published.
    fn is_told(&self, id: RentalId) -> bool {
        self.unpublished.iter().all(|(_, of, _)| *of != id)
    }

    fn remove(&mut self, host: &HostId, id: RentalId) {
        self.writes += 1;
        self.rentals.remove(&id);
        self.claimed.retain(|claimed| *claimed != id);
        self.keys.retain(|_, (_, of)| *of != id);
        if let Some(row) = self.hosts.get_mut(host) {
            row.journal.retain(|entry| entry.rental != id);
        }
    }

    /// Answers with what has happened, unless the answer is to be lost.
    fn answer<T>(&mut self, done: T) -> Result<T, StoreError> {
        if self.answers_to_lose == 0 {
            return Ok(done);
        }
        self.answers_to_lose -= 1;
        Err(StoreError::Unavailable("the answer was lost".into()))
    }

    fn commit(&mut self, change: &Change) -> Result<(), StoreError> {
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

    fn check(&self, host: &HostId, epoch: Epoch) -> Result<(), StoreError> {
        match self.hosts.get(host) {
            Some(row) if row.epoch == epoch => Ok(()),
            _ => Err(StoreError::Fenced),
        }
    }

    fn live(&self, host: &HostId) -> impl Iterator<Item = &RentalRow> {
        self.rentals.values().filter(move |row| row.rental.is_live() && row.rental.host() == host)
    }

    /// Whether a live rental, perhaps a suspended one, is to have ports of the renter's own range.
    pub(super) fn is_kept_for_one(&self, host: &HostId, renter: &RenterId) -> bool {
        let mut specs = self.live(host).map(|row| row.rental.spec());
        specs.any(|spec| spec.renter == *renter && spec.sticky_ports.is_some())
    }

    fn renter_has(&self, host: &HostId, renter: &RenterId, since: Timestamp) -> RenterHas {
        let all = self.rentals.values().map(|row| &row.rental);
        RenterHas::of(all.filter(|rental| rental.host() == host && rental.spec().renter == *renter), since)
    }

    pub(super) fn held(&self, host: &HostId) -> Holds {
        let mut held = Holds::default();
        for row in self.live(host) {
            held.add(&row.rental);
        }
        held
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn claim(&self, new: &NewRental, placement: &Placement) -> Result<ClaimOutcome, ClaimError> {
        let mut tables = self.open().await?;
        let key = new.key.clone().map(|key| (new.host.clone(), new.spec.renter.clone(), key));
        let prior = |row: &RentalRow, fingerprint| PriorRequest { rental: row.rental.clone(), fingerprint };
        let same_key = match key.as_ref().and_then(|key| tables.keys.get(key)) {
            Some((fingerprint, id)) => {
                Some(tables.rentals.get(id).map(|row| prior(row, *fingerprint)).ok_or(ClaimError::KeyReused)?)
            }
            None => None,
        };
        let is_same_name =
            |row: &&RentalRow| *row.rental.name() == new.name && row.rental.spec().renter == new.spec.renter;
        let same_name = tables.live(&new.host).find(is_same_name).map(|row| prior(row, row.fingerprint));
        // The same request, arriving once more when its rental has ended already.
        if same_key.is_none() && same_name.is_none() && tables.rentals.contains_key(&new.id) {
            return Err(StoreError::Conflict.into());
        }
        let has = tables.renter_has(&new.host, &new.spec.renter, lately(new.at.wall));
        let held = tables.held(&new.host);
        let placed = match new.decide(ClaimSnapshot { held, has, same_key, same_name }, placement)? {
            ClaimDecision::Existing(rental) => return Ok(ClaimOutcome::Existing(*rental)),
            ClaimDecision::Place(placed) => placed,
        };
        let (rental, event) = new.settle(placed);
        let row = RentalRow {
            rental: rental.clone(),
            fingerprint: new.fingerprint,
            sealed: Some(new.sealed.clone()),
            events: vec![event.clone()],
            log_tail: None,
        };
        if let Some(key) = key {
            tables.keys.insert(key, (new.fingerprint, new.id));
        }
        tables.writes += 1;
        tables.rentals.insert(new.id, row);
        tables.claimed.push(new.id);
        tables.unpublished.push((new.host.clone(), new.id, event));
        Ok(tables.answer(ClaimOutcome::New(rental))?)
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let mut tables = self.open().await?;
        tables.interferes = !tables.interferes;
        if change.fence().is_some() && tables.interferes {
            let found = tables.rentals.get(&change.rental().id()).map(|row| row.rental.clone());
            let other = tables.interference.as_ref().zip(found).and_then(|(interfere, found)| interfere(found));
            if let Some(other) = other {
                tables.commit(&other)?;
            }
        }
        tables.commit(change)?;
        tables.answer(())
    }

    async fn get(&self, id: RentalId) -> Result<Option<Rental>, StoreError> {
        Ok(self.open().await?.rentals.get(&id).map(|row| row.rental.clone()))
    }

    async fn of_container(&self, host: &HostId, container: &ContainerId) -> Result<Option<RentalId>, StoreError> {
        let tables = self.open().await?;
        let is_it = |id: &ContainerId| {
            let (id, asked) = (id.as_str(), container.as_str());
            id == asked || (asked.len() >= SHORT_ID && id.starts_with(asked))
        };
        let has_it = |row: &&RentalRow| {
            row.rental.host() == host
                && row.events.iter().any(|recorded| match &recorded.event {
                    RentalEvent::Created { container, .. } => is_it(container),
                    RentalEvent::Adopted(found) => is_it(&found.container),
                    _ => false,
                })
        };
        let latest = tables.claimed.iter().rev().filter_map(|id| tables.rentals.get(id)).find(has_it);
        Ok(latest.map(|row| row.rental.id()))
    }

    async fn live(&self, host: &HostId) -> Result<Vec<Rental>, StoreError> {
        Ok(self.open().await?.live(host).map(|row| row.rental.clone()).collect())
    }

    async fn active(&self, host: &HostId) -> Result<Vec<Rental>, StoreError> {
        let live = self.live(host).await?;
        Ok(live.into_iter().filter(|rental| !matches!(rental.state(), RentalState::Suspended { .. })).collect())
    }

    async fn list(
        &self,
        host: &HostId,
        filter: &Filter,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError> {
        let tables = self.open().await?;
        let place = |rental: &Rental| (rental.created_at(), rental.id());
        let after = match after.map(|after| tables.rentals.get(&after)) {
            None => None,
            Some(Some(row)) => Some(place(&row.rental)),
            // Where a deleted one was, nobody knows: callers that page look for it first.
            Some(None) => return Ok(Vec::new()),
        };
        let mut found: Vec<&Rental> = tables
            .rentals
            .values()
            .map(|row| &row.rental)
            .filter(|rental| rental.host() == host && filter.passes(rental))
            .filter(|rental| after.is_none_or(|after| place(rental) < after))
            .collect();
        found.sort_by_key(|rental| std::cmp::Reverse(place(rental)));
        Ok(found.into_iter().take(limit.min(MAX_PAGE)).cloned().collect())
    }

    async fn ended_before(
        &self,
        host: &HostId,
        before: Timestamp,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError> {
        let tables = self.open().await?;
        let mut ended: Vec<(Timestamp, &Rental)> = tables
            .rentals
            .values()
            .filter(|row| row.rental.host() == host && tables.is_told(row.rental.id()))
            .filter_map(|row| Some((ended_at(&row.rental)?, &row.rental)))
            .filter(|(at, _)| *at < before)
            .collect();
        ended.sort_by_key(|(at, rental)| (*at, rental.id()));
        // After one that is gone, those that are left come from the first on.
        let behind = ended.iter().position(|(_, rental)| after == Some(rental.id())).map_or(0, |place| place + 1);
        Ok(ended[behind..].iter().take(limit.min(MAX_PAGE)).map(|(_, rental)| (*rental).clone()).collect())
    }

    async fn forget(&self, host: &HostId, rentals: &[RentalId]) -> Result<usize, StoreError> {
        let mut tables = self.open().await?;
        let mut forgotten = 0;
        for id in rentals.iter().take(MAX_PAGE) {
            let is_over = |row: &RentalRow| row.rental.host() == host && !row.rental.is_live();
            if tables.rentals.get(id).is_some_and(is_over) && tables.is_told(*id) {
                tables.remove(host, *id);
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    async fn held(&self, host: &HostId) -> Result<Holds, StoreError> {
        Ok(self.open().await?.held(host))
    }

    async fn renter_has(&self, host: &HostId, renter: &RenterId, since: Timestamp) -> Result<RenterHas, StoreError> {
        Ok(self.open().await?.renter_has(host, renter, since))
    }

    async fn log_tail(&self, id: RentalId, now: Timestamp) -> Result<Option<Vec<String>>, StoreError> {
        let tables = self.open().await?;
        let tail = tables.rentals.get(&id).and_then(|row| row.log_tail.as_ref());
        Ok(tail.filter(|tail| tail.until > now).map(|tail| tail.lines.clone()))
    }

    async fn sealed(&self, id: RentalId) -> Result<Option<Sealed>, StoreError> {
        Ok(self.open().await?.rentals.get(&id).and_then(|row| row.sealed.clone()))
    }

    async fn events(&self, id: RentalId, after: Seq, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        let tables = self.open().await?;
        let events = tables.rentals.get(&id).map(|row| row.events.as_slice()).unwrap_or_default();
        Ok(events.iter().filter(|event| event.seq > after).take(limit.min(MAX_PAGE)).cloned().collect())
    }

    async fn journal(&self, host: &HostId, after: Position, limit: usize) -> Result<Vec<JournalEntry>, StoreError> {
        let tables = self.open().await?;
        let journal = tables.hosts.get(host).map(|row| row.journal.as_slice()).unwrap_or_default();
        Ok(journal.iter().filter(|entry| entry.position > after).take(limit.min(MAX_PAGE)).cloned().collect())
    }
}

#[async_trait]
impl HostStore for MemoryStore {
    async fn acquire_host(
        &self,
        host: &HostId,
        engine: &EngineId,
        machine: Option<&MachineId>,
    ) -> Result<HostOwnership, StoreError> {
        let mut tables = self.open().await?;
        // One that is suspended has nothing on any engine.
        let busy = tables.live(host).any(|row| !matches!(row.rental.state(), RentalState::Suspended { .. }));
        let row = tables.hosts.entry(host.clone()).or_insert_with(|| HostRow {
            engine: engine.clone(),
            machine: None,
            epoch: Epoch::ZERO,
            journal: Vec::new(),
            last_position: Position::ZERO,
        });
        let elsewhere = row.machine.as_ref().zip(machine).is_some_and(|(known, machine)| known != machine);
        if busy && (row.engine != *engine || elsewhere) {
            return Err(StoreError::HostPinned(row.engine.clone()));
        }
        row.engine = engine.clone();
        row.machine = machine.cloned().or(row.machine.take().filter(|_| busy));
        row.epoch = row.epoch.next();
        Ok(HostOwnership { epoch: row.epoch, last_position: row.last_position })
    }

    async fn confirm(&self, host: &HostId, owner: HostOwnership) -> Result<(), StoreError> {
        self.open().await?.check(host, owner.epoch)
    }

    async fn adopt(&self, found: &RecoveredRental, owner: HostOwnership) -> Result<(), StoreError> {
        let mut tables = self.open().await?;
        let rental = &found.rental;
        tables.check(rental.host(), owner.epoch)?;
        let held = tables.held(rental.host());
        let is_namesake = |other: &Rental| other.name() == rental.name() && other.spec().renter == rental.spec().renter;
        let name_taken = tables.live(rental.host()).any(|row| is_namesake(&row.rental));
        let taken = rental.gpus().iter().any(|gpu| held.gpus.contains(&gpu.uuid))
            || rental.ports().iter().any(|binding| held.ports.contains(&binding.host));
        if name_taken || taken || tables.rentals.contains_key(&rental.id()) {
            return Err(StoreError::Conflict);
        }
        let row = RentalRow {
            rental: rental.clone(),
            fingerprint: found.fingerprint,
            sealed: None,
            events: found.events.clone(),
            log_tail: None,
        };
        tables.writes += 1;
        tables.rentals.insert(rental.id(), row);
        tables.claimed.push(rental.id());
        let news = found.events.iter().map(|event| (rental.host().clone(), rental.id(), event.clone()));
        tables.unpublished.extend(news);
        tables.answer(())
    }

    async fn publish(
        &self,
        host: &HostId,
        owner: HostOwnership,
        limit: usize,
    ) -> Result<Vec<JournalEntry>, StoreError> {
        let mut tables = self.open().await?;
        tables.check(host, owner.epoch)?;
        let (ours, others) = std::mem::take(&mut tables.unpublished).into_iter().partition(|(of, _, _)| of == host);
        tables.unpublished = others;
        let mut ours: Vec<(HostId, RentalId, RecordedEvent)> = ours;
        let later = ours.split_off(limit.min(ours.len()));
        tables.unpublished.extend(later);
        let Some(row) = tables.hosts.get_mut(host) else { return Err(StoreError::Fenced) };
        let (mut published, mut written) = (Vec::with_capacity(ours.len()), 0);
        for (_, rental, recorded) in ours {
            let position = Position::new(row.last_position.get() + 1);
            row.last_position = position;
            let entry = JournalEntry { position, rental, recorded };
            row.journal.push(entry.clone());
            written += 1;
            published.push(entry);
        }
        tables.writes += written;
        tables.answer(published)
    }
}
