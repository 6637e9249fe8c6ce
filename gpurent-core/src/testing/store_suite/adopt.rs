//! Clauses of rentals that the store did not know.

use std::sync::Arc;

use crate::id::{Attempt, RentalId, Seq};
use crate::model::{Adoption, Fingerprint, RecordedEvent, Rental, RentalEvent};
use crate::store::{HostStore, RecoveredRental, StoreError};
use crate::testing::store_suite::bench::{Bench, at, moment, valid, way_down};

/// The claim that the container of `rental` tells after the store has lost it: the same one under another id.
fn lost(rental: &Rental, name: &str) -> RecoveredRental {
    let mut claim = rental.claim();
    (claim.id, claim.name) = (RentalId::generate(), valid(name.parse()));
    let found = Adoption {
        attempt: Attempt::new(2),
        container: valid("found".parse()),
        ports: claim.ports.clone(),
        gpus_attached: true,
        started_at: Some(at(5)),
        claim: Box::new(claim.clone()),
    };
    let tells = [
        RentalEvent::Claimed(Box::new(claim)),
        RentalEvent::Adopted(Box::new(found)),
        RentalEvent::Verified { paid_from: moment(5) },
    ];
    let number = |(n, event)| RecordedEvent { seq: Seq::new(n), at: at(9), event };
    let events: Vec<_> = (1..).zip(tells).map(number).collect();
    let rental = Rental::folded(&events).unwrap_or_else(|| panic!("legal events"));
    RecoveredRental { rental, events, fingerprint: Fingerprint([0; 32]) }
}

/// A rental that only its container knew of is live again, holds its GPUs and ports, is in the journal, and
/// ends like any other.
pub async fn a_lost_rental_is_adopted_once_and_holds_what_it_has<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let ended = bench.live_through(bench.claimed("one").await, owner, way_down()).await;
    let found = lost(&ended, "found");
    let id = found.rental.id();
    let later = bench.owner().await;
    let fenced = bench.store.adopt(&found, owner).await;
    assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
    valid(bench.store.adopt(&found, later).await);
    let again = bench.store.adopt(&found, later).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    assert_eq!(bench.get(id).await, Some(found.rental.clone()));
    assert_eq!(valid(bench.store.events(id, Seq::ZERO, 10).await), found.events);
    assert_eq!(valid(bench.store.sealed(id).await), None);
    let held = valid(bench.store.held(&bench.host).await);
    assert_eq!(held.gpus, found.rental.gpus().iter().map(|gpu| gpu.uuid.clone()).collect());
    assert_eq!(held.ports, found.rental.ports().iter().map(|binding| binding.host).collect());
    let news = valid(bench.store.publish(&bench.host, later, 100).await);
    assert_eq!(news.iter().filter(|entry| entry.rental == id).count(), 3);
    bench.live_through(found.rental, later, way_down()).await;
    assert!(valid(bench.store.held(&bench.host).await).gpus.is_empty());
}

/// Where its place or its name is another's by now, nothing is written.
pub async fn a_recovered_rental_takes_nothing_from_others<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let live = bench.claimed("one").await;
    let found = lost(&live, "found");
    let refused = bench.store.adopt(&found, owner).await;
    assert!(matches!(refused, Err(StoreError::Conflict)), "its GPU is taken: {refused:?}");
    assert_eq!(bench.get(found.rental.id()).await, None);
    let namesake = bench.claimed("found").await;
    bench.live_through(live, owner, way_down()).await;
    let refused = bench.store.adopt(&found, owner).await;
    assert!(matches!(refused, Err(StoreError::Conflict)), "its name is taken: {refused:?}");
    assert_eq!(bench.get(namesake.id()).await, Some(namesake));
}
