//! The part of the store in memory that is for every process.

use async_trait::async_trait;
use jiff::Timestamp;

use crate::allocation::renter_limits::lately;
use crate::allocation::{Holds, Placement, RenterHas};
use crate::id::{ContainerId, HostId, Position, RentalId, RenterId, Seq};
use crate::memory::MemoryStore;
use crate::memory::store::rows::RentalRow;
use crate::memory::store::{SHORT_ID, ended_at};
use crate::model::{JournalEntry, RecordedEvent, Rental, RentalEvent, RentalState, Sealed};
use crate::store::{
    Change, ClaimDecision, ClaimError, ClaimOutcome, ClaimSnapshot, Filter, MAX_PAGE, NewRental, PriorRequest, Store,
    StoreError,
};

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
