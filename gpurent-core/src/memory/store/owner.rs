//! The part of the store in memory that is for the owner of a host.

use async_trait::async_trait;

use crate::id::{EngineId, Epoch, HostId, MachineId, Position, RentalId};
use crate::memory::MemoryStore;
use crate::memory::store::rows::{HostRow, RentalRow};
use crate::model::{JournalEntry, RecordedEvent, Rental, RentalState};
use crate::store::{HostOwnership, HostStore, RecoveredRental, StoreError};

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
