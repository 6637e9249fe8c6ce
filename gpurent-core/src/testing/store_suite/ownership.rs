//! Clauses of who acts for a host, and what only they may write.

use std::sync::Arc;

use crate::id::{EngineId, MachineId};
use crate::model::{Files, Phase, RentalEvent};
use crate::store::{Change, HostStore, StoreError};
use crate::testing::store_suite::bench::{Bench, at, cancelled, valid, way_down};

/// A store that notes who acts for a host says so until that one resigns.
pub async fn who_acts_is_noted_until_it_resigns<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    assert_eq!(valid(bench.store.last_acted(&bench.host).await), None);
    let owner = bench.owner().await;
    valid(bench.store.confirm(&bench.host, owner).await);
    let ago = valid(bench.store.last_acted(&bench.host).await);
    assert!(ago.is_none_or(|ago| ago.as_secs() < 20), "{ago:?}");
    valid(bench.store.resign(&bench.host, owner).await);
    assert_eq!(valid(bench.store.last_acted(&bench.host).await), None);
    // A former holder has nothing to resign.
    let next = bench.owner().await;
    let noted = valid(bench.store.last_acted(&bench.host).await);
    assert_eq!(noted.is_some(), ago.is_some(), "whoever takes over acts");
    valid(bench.store.resign(&bench.host, owner).await);
    assert_eq!(valid(bench.store.last_acted(&bench.host).await).is_some(), noted.is_some());
    valid(bench.store.confirm(&bench.host, next).await);
}

/// A process whose host was taken over writes no observation and publishes nothing.
pub async fn observations_need_the_current_epoch<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let old = bench.owner().await;
    let rental = bench.claimed("one").await;
    let new = bench.owner().await;
    assert!(new.epoch > old.epoch);
    let mut change = Change::observation(rental.clone(), old);
    valid(change.apply(
        RentalEvent::Created {
            container: valid("c1".parse()),
            gpus_attached: true,
            at: None,
            image: None,
            files: Files::New,
            copied_bytes: 0,
        },
        at(1),
    ));
    assert!(matches!(bench.store.commit(&change).await, Err(StoreError::Fenced)));
    assert!(matches!(bench.store.publish(&bench.host, old, 10).await, Err(StoreError::Fenced)));
    assert!(matches!(bench.store.confirm(&bench.host, old).await, Err(StoreError::Fenced)));
    assert_eq!(bench.get(rental.id()).await, Some(rental));
    valid(bench.store.confirm(&bench.host, new).await);
}

/// Any process may cancel.
pub async fn intents_need_no_epoch<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    bench.owner().await;
    let rental = bench.claimed("one").await;
    let mut change = Change::intent(rental.clone());
    valid(change.apply(cancelled(), at(1)));
    valid(bench.store.commit(&change).await);
    let phase = bench.get(rental.id()).await.map(|rental| rental.state().phase());
    assert_eq!(phase, Some(Phase::Ending));
}

/// A host id cannot be used with two engines, unless nothing of the first one is left.
pub async fn a_host_with_live_rentals_is_pinned_to_its_engine<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let rental = bench.claimed("one").await;
    let other: EngineId = valid("another".parse());
    let refused = bench.store.acquire_host(&bench.host, &other, None).await;
    assert!(matches!(&refused, Err(StoreError::HostPinned(engine)) if *engine == bench.engine), "{refused:?}");
    valid(bench.store.confirm(&bench.host, owner).await);
    bench.live_through(rental, owner, way_down()).await;
    assert!(valid(bench.store.acquire_host(&bench.host, &other, None).await).epoch > owner.epoch);
    bench.claimed("two").await;
    let back = bench.store.acquire_host(&bench.host, &bench.engine, None).await;
    assert!(matches!(&back, Err(StoreError::HostPinned(engine)) if *engine == other), "{back:?}");
}

/// Engines of two machines that were cloned from one image have one id, and are two. One of which the machine is not known
/// is believed.
pub async fn a_clone_of_the_engines_machine_is_another_engine<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let machines: [MachineId; 2] = ["here", "clone"].map(|name| valid(name.parse()));
    let take_over =
        async |machine: Option<&MachineId>| bench.store.acquire_host(&bench.host, &bench.engine, machine).await;
    valid(take_over(None).await);
    bench.claimed("one").await;
    // An agent of a version that did not tell had it before.
    valid(take_over(Some(&machines[0])).await);
    let refused = take_over(Some(&machines[1])).await;
    assert!(matches!(refused, Err(StoreError::HostPinned(_))), "{refused:?}");
    valid(take_over(None).await);
    let refused = take_over(Some(&machines[1])).await;
    assert!(matches!(refused, Err(StoreError::HostPinned(_))), "it is still known: {refused:?}");
    let owner = valid(take_over(Some(&machines[0])).await);
    let rental = valid(bench.store.live(&bench.host).await).remove(0);
    bench.live_through(rental, owner, way_down()).await;
    valid(take_over(Some(&machines[1])).await);
}
