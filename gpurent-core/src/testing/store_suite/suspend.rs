//! The clauses for rentals that are suspended and resumed.

use std::sync::Arc;

use crate::allocation::Holds;
use crate::model::{Files, Phase, Rental, RentalEvent, Resumption, SuspendCause};
use crate::store::{Change, ClaimError, ClaimOutcome, Filter, HostOwnership, HostStore, StoreError};
use crate::testing::store_suite::bench::{Bench, at, moment, valid};

pub(super) fn on_its_way_down() -> Vec<RentalEvent> {
    vec![
        RentalEvent::SuspendBegan { cause: SuspendCause::Requested },
        RentalEvent::Stopped { exit: None, ended: None },
        RentalEvent::Suspended { since: moment(70), retained: None },
    ]
}

/// The place that the rental had before it was suspended, taken again.
fn resumption(before: &Rental) -> RentalEvent {
    RentalEvent::Resumed(Box::new(Resumption {
        gpus: before.gpus().to_vec(),
        ports: before.ports().to_vec(),
        quote: None,
        due: at(900),
        at: moment(80),
    }))
}

async fn suspended<S: HostStore>(bench: &Bench<S>, owner: HostOwnership, name: &str) -> (Rental, Rental) {
    let before = bench.claimed(name).await;
    let after = bench.live_through(before.clone(), owner, on_its_way_down()).await;
    (before, after)
}

/// GPUs and ports are free while a rental is suspended, its name and its credential are not; resumed, it holds
/// again what it was given.
pub async fn what_is_suspended_holds_nothing_but_its_name<S: HostStore>(store: Arc<S>) {
    let bench = Bench::with_gpus(store, 1);
    let owner = bench.owner().await;
    let (before, rental) = suspended(&bench, owner, "one").await;
    let held = valid(bench.store.held(&bench.host).await);
    assert!(held.gpus.is_empty() && held.ports.is_empty(), "{held:?}");
    assert!(valid(bench.store.sealed(rental.id()).await).is_some());
    assert_eq!(valid(bench.store.live(&bench.host).await), std::slice::from_ref(&rental));
    let filter = Filter { phases: vec![Phase::Suspended], ..Filter::default() };
    assert_eq!(valid(bench.store.list(&bench.host, &filter, None, 10).await), std::slice::from_ref(&rental));
    assert!(matches!(bench.claim(&bench.request("one")).await, Ok(ClaimOutcome::Existing(same)) if same == rental));
    let mut change = Change::intent(rental.clone());
    valid(change.apply(resumption(&before), at(80)));
    valid(bench.store.commit(&change).await);
    let resumed = change.into_rental();
    assert_eq!(bench.get(rental.id()).await, Some(resumed.clone()));
    let (held, own) = (valid(bench.store.held(&bench.host).await), Holds::of(&before));
    assert_eq!((&held.gpus, &held.ports), (&own.gpus, &own.ports));
    assert!(matches!(bench.claim(&bench.request("two")).await, Err(ClaimError::NotPlaced(_))));
    let events = valid(bench.store.events(rental.id(), crate::id::Seq::ZERO, 100).await);
    assert!(Rental::folded(&events).is_some_and(|folded| folded.is_same_but_for_writes(&resumed)));
}

/// A place that another rental holds by now cannot be taken again, not even by a rental that had it before.
pub async fn a_resumed_rental_takes_nothing_from_others<S: HostStore>(store: Arc<S>) {
    let bench = Bench::with_gpus(store, 1);
    let owner = bench.owner().await;
    let (before, rental) = suspended(&bench, owner, "one").await;
    let other = bench.claimed("two").await;
    let mut change = Change::intent(rental.clone());
    valid(change.apply(resumption(&before), at(80)));
    assert!(matches!(bench.store.commit(&change).await, Err(StoreError::Conflict)));
    assert_eq!(bench.get(rental.id()).await, Some(rental));
    assert_eq!(valid(bench.store.held(&bench.host).await).gpus, Holds::of(&other).gpus);
}

/// By its whole id or the first twelve characters, also when the rental has another one, or has ended.
pub async fn a_container_leads_to_its_rental_for_ever<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let id = |n: u32| -> crate::id::ContainerId { valid(format!("{}{n}", uuid::Uuid::new_v4().simple()).parse()) };
    let (first, second) = (id(1), id(2));
    let created = |container: &crate::id::ContainerId| RentalEvent::Created {
        container: container.clone(),
        gpus_attached: true,
        at: None,
        image: None,
        files: Files::New,
        copied_bytes: 0,
    };
    let claimed = bench.claimed("one").await;
    let mut rental = bench.live_through(claimed.clone(), owner, vec![created(&first)]).await;
    let whose = async |container: &str| valid(bench.store.of_container(&bench.host, &valid(container.parse())).await);
    rental = bench.live_through(rental, owner, on_its_way_down()).await;
    rental = bench.live_through(rental, owner, vec![resumption(&claimed), created(&second)]).await;
    bench.live_through(rental.clone(), owner, crate::testing::store_suite::bench::way_down()).await;
    for container in [&first, &second] {
        assert_eq!(whose(container.as_str()).await, Some(rental.id()));
        assert_eq!(whose(&container.as_str()[..12]).await, Some(rental.id()));
        assert_eq!(whose(&container.as_str()[..11]).await, None, "that could be anybody's");
    }
    assert_eq!(whose(id(3).as_str()).await, None);
    let other = Bench::new(Arc::clone(&bench.store));
    let elsewhere = valid(other.store.of_container(&other.host, &first).await);
    assert_eq!(elsewhere, None, "of another host");
}
