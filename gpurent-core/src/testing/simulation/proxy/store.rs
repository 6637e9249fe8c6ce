//! The store behind a faulty line.

use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;

use crate::allocation::{Holds, Placement, RenterHas};
use crate::id::{ContainerId, EngineId, HostId, MachineId, Position, RentalId, RenterId, Seq};
use crate::memory::MemoryStore;
use crate::model::{JournalEntry, RecordedEvent, Rental, RentalEvent, Sealed};
use crate::store::{
    Change, ClaimError, ClaimOutcome, Filter, HostOwnership, HostStore, NewRental, RecoveredRental, Store, StoreError,
};
use crate::testing::simulation::environment::{About, at_once};
use crate::testing::simulation::fault_point::FaultPoint;
use crate::testing::simulation::proxy::FaultProxy;

/// The store behind a line.
pub(in crate::testing::simulation) struct FaultyStore(pub(in crate::testing::simulation) FaultProxy);

fn away(what: &'static str) -> StoreError {
    StoreError::Unavailable(what.into())
}

impl FaultyStore {
    async fn ask<T: Send + 'static>(
        &self,
        point: FaultPoint,
        about: About,
        effect: impl FnMut(&MemoryStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (store, mut effect) = (Arc::clone(&self.0.store), effect);
        let effect = move || effect(&store);
        self.0.call(point, about, effect, |what| Err(away(what)), || Err(away("refused"))).await
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn claim(&self, new: &NewRental, placement: &Placement) -> Result<ClaimOutcome, ClaimError> {
        let about = About { phases: Vec::new(), ..self.0.about(new.id, || new.name.to_string()) };
        let (new, placement, store) = (new.clone(), placement.clone(), Arc::clone(&self.0.store));
        let effect = move || at_once(store.claim(&new, &placement));
        self.0
            .call(FaultPoint::Claim, about, effect, |what| Err(away(what).into()), || Err(away("refused").into()))
            .await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let events = || change.events().iter().map(|event| event.event.name()).collect::<Vec<_>>().join("+");
        let about = self.0.about(change.rental().id(), events);
        let (change, oracle, id) = (change.clone(), Arc::clone(&self.0.oracle), change.rental().id());
        for recorded in change.events() {
            match recorded.event {
                RentalEvent::Verified { .. } => {
                    self.0.oracle().readies(self.0.environment.now(), change.rental().launch());
                }
                RentalEvent::Extended { .. } => self.0.oracle().extends(id),
                _ => {}
            }
        }
        let committed = self.ask(FaultPoint::Commit, about, move |store| {
            let current = store.epoch_of(change.rental().host());
            let committed = at_once(store.commit(&change));
            let fenced = change.fence().is_some_and(|fence| Some(fence) != current);
            if committed.is_ok() && fenced {
                oracle.lock().unwrap_or_else(PoisonError::into_inner).report_violation(format!(
                    "I9: an observation of epoch {:?} was accepted in epoch {current:?}",
                    change.fence()
                ));
            }
            committed
        });
        committed.await?;
        self.0.oracle().knows(id);
        Ok(())
    }

    async fn get(&self, id: RentalId) -> Result<Option<Rental>, StoreError> {
        self.ask(FaultPoint::Get, self.0.about(id, String::new), move |store| at_once(store.get(id))).await
    }

    async fn of_container(&self, host: &HostId, container: &ContainerId) -> Result<Option<RentalId>, StoreError> {
        self.0.store.of_container(host, container).await
    }

    async fn live(&self, host: &HostId) -> Result<Vec<Rental>, StoreError> {
        let host = host.clone();
        self.ask(FaultPoint::Live, self.0.about_host(), move |store| at_once(store.live(&host))).await
    }

    async fn active(&self, host: &HostId) -> Result<Vec<Rental>, StoreError> {
        let host = host.clone();
        self.ask(FaultPoint::Live, self.0.about_host(), move |store| at_once(store.active(&host))).await
    }

    async fn list(
        &self,
        host: &HostId,
        filter: &Filter,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError> {
        at_once(self.0.store.list(host, filter, after, limit))
    }

    async fn ended_before(
        &self,
        host: &HostId,
        before: Timestamp,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError> {
        at_once(self.0.store.ended_before(host, before, after, limit))
    }

    async fn forget(&self, host: &HostId, rentals: &[RentalId]) -> Result<usize, StoreError> {
        at_once(self.0.store.forget(host, rentals))
    }

    async fn held(&self, host: &HostId) -> Result<Holds, StoreError> {
        let host = host.clone();
        self.ask(FaultPoint::Live, self.0.about_host(), move |store| at_once(store.held(&host))).await
    }

    async fn renter_has(&self, host: &HostId, renter: &RenterId, since: Timestamp) -> Result<RenterHas, StoreError> {
        let (host, renter) = (host.clone(), renter.clone());
        let effect = move |store: &MemoryStore| at_once(store.renter_has(&host, &renter, since));
        self.ask(FaultPoint::Live, self.0.about_host(), effect).await
    }

    async fn log_tail(&self, id: RentalId, now: Timestamp) -> Result<Option<Vec<String>>, StoreError> {
        at_once(self.0.store.log_tail(id, now))
    }

    async fn sealed(&self, id: RentalId) -> Result<Option<Sealed>, StoreError> {
        self.ask(FaultPoint::Sealed, self.0.about(id, String::new), move |store| at_once(store.sealed(id))).await
    }

    async fn events(&self, id: RentalId, after: Seq, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        at_once(self.0.store.events(id, after, limit))
    }

    async fn journal(&self, host: &HostId, after: Position, limit: usize) -> Result<Vec<JournalEntry>, StoreError> {
        let host = host.clone();
        self.ask(FaultPoint::Journal, self.0.about_host(), move |store| at_once(store.journal(&host, after, limit)))
            .await
    }
}

#[async_trait]
impl HostStore for FaultyStore {
    async fn acquire_host(
        &self,
        host: &HostId,
        engine: &EngineId,
        machine: Option<&MachineId>,
    ) -> Result<HostOwnership, StoreError> {
        let (host, engine, machine) = (host.clone(), engine.clone(), machine.cloned());
        let (oracle, process, number) = (Arc::clone(&self.0.oracle), self.0.process, self.0.host);
        let taken = self
            .ask(FaultPoint::TakeOver, self.0.about_host(), move |store| {
                at_once(store.acquire_host(&host, &engine, machine.as_ref()))
            })
            .await?;
        oracle.lock().unwrap_or_else(PoisonError::into_inner).took_over(process, number, taken.epoch);
        Ok(taken)
    }

    async fn confirm(&self, host: &HostId, owner: HostOwnership) -> Result<(), StoreError> {
        let host = host.clone();
        self.ask(FaultPoint::Confirm, self.0.about_host(), move |store| at_once(store.confirm(&host, owner))).await
    }

    async fn adopt(&self, found: &RecoveredRental, owner: HostOwnership) -> Result<(), StoreError> {
        let about = About { phases: Vec::new(), ..self.0.about(found.rental.id(), String::new) };
        let found = found.clone();
        self.ask(FaultPoint::Adopt, about, move |store| at_once(store.adopt(&found, owner))).await
    }

    async fn publish(
        &self,
        host: &HostId,
        owner: HostOwnership,
        limit: usize,
    ) -> Result<Vec<JournalEntry>, StoreError> {
        let host = host.clone();
        self.ask(FaultPoint::Publish, self.0.about_host(), move |store| at_once(store.publish(&host, owner, limit)))
            .await
    }
}
