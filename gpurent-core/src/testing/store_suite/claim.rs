//! Clauses of claims: what is placed, and which requests are the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;

use crate::allocation::{PlacementError, PortError};
use crate::id::RentalId;
use crate::model::port::WEB;
use crate::model::{Fingerprint, GpuRequest, HostPort, PublishedPort, Sealed, Transport};
use crate::store::{Change, ClaimError, ClaimOutcome, HostStore, NewRental};
use crate::testing::store_suite::bench::{Bench, at, cancelled, valid, way_down};

/// A claim is read back as it was given.
pub async fn a_claim_is_read_back_whole<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let rental = bench.claimed("one").await;
    assert_eq!(bench.get(rental.id()).await, Some(rental.clone()));
    assert_eq!(valid(bench.store.live(&bench.host).await), vec![rental.clone()]);
    let sealed = valid(bench.store.sealed(rental.id()).await);
    assert_eq!(sealed, Some(Sealed { key_id: "k".to_owned(), bytes: vec![1, 2, 3] }));
    let held = valid(bench.store.held(&bench.host).await);
    assert_eq!(held.gpus, rental.gpus().iter().map(|gpu| gpu.uuid.clone()).collect());
    assert_eq!(held.ports, rental.ports().iter().map(|binding| binding.host).collect());
    assert_eq!(bench.get(RentalId::generate()).await, None);
}

/// Two GPUs are two rentals; the third finds none free, an unknown model none at all.
pub async fn gpus_are_never_held_twice<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let (one, two) = (bench.claimed("one").await, bench.claimed("two").await);
    assert_ne!(one.gpus()[0].uuid, two.gpus()[0].uuid);
    let third = bench.claim(&bench.request("three")).await;
    assert!(matches!(third, Err(ClaimError::NotPlaced(PlacementError::NoGpuFree(_)))), "{third:?}");
    let mut unknown = bench.request("four");
    unknown.spec.gpu = Some(GpuRequest::one(valid("H200".parse())));
    let unknown = bench.claim(&unknown).await;
    assert!(matches!(unknown, Err(ClaimError::NotPlaced(PlacementError::UnknownGpu { .. }))), "{unknown:?}");
}

/// However many ask at once, there are as many winners as GPUs, and all others hear "none free".
pub async fn many_claims_at_once_win_as_often_as_there_are_gpus<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let requests: Vec<_> = (0..50).map(|n| bench.request(&format!("r{n}"))).collect();
    let results = join_all(requests.iter().map(|new| bench.claim(new))).await;
    let winners: Vec<_> = results.iter().flatten().map(ClaimOutcome::rental).collect();
    assert_eq!(winners.len(), 2);
    assert_ne!(winners[0].gpus()[0].uuid, winners[1].gpus()[0].uuid);
    let ports: BTreeSet<_> = winners.iter().flat_map(|rental| rental.ports()).map(|b| b.host).collect();
    assert_eq!(ports.len(), 2);
    for error in results.into_iter().filter_map(Result::err) {
        assert!(matches!(error, ClaimError::NotPlaced(PlacementError::NoGpuFree(_))), "{error:?}");
    }
}

/// A port for datagrams is refused, and leaves no trace, where the engine publishes none.
pub async fn datagrams_are_refused_where_the_engine_publishes_none<S: HostStore>(store: Arc<S>) {
    let mut bench = Bench::new(store);
    bench.placement.udp = false;
    let mut new = bench.request("one");
    let asked = PublishedPort { transport: Transport::Udp, ..PublishedPort::tcp(WEB, None) };
    new.spec.ports = valid(vec![asked].try_into());
    let refused = bench.claim(&new).await;
    assert!(matches!(refused, Err(ClaimError::NotPlaced(PlacementError::UdpNotSupported))), "{refused:?}");
    assert!(valid(bench.store.live(&bench.host).await).is_empty());
    bench.placement.udp = true;
    valid(bench.claim(&new).await);
}

/// A host port that somebody asked for is theirs until the end.
pub async fn a_port_asked_for_is_held_once<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let asking = |name| {
        let mut new = bench.request(name);
        let asked = PublishedPort::tcp(WEB, Some(valid(HostPort::try_from(9999))));
        new.spec.ports = valid(vec![asked].try_into());
        new
    };
    valid(bench.claim(&asking("one")).await);
    let second = bench.claim(&asking("two")).await;
    assert!(matches!(second, Err(ClaimError::NotPlaced(PlacementError::NoPort(PortError::Taken(_))))), "{second:?}");
    assert_eq!(valid(bench.store.live(&bench.host).await).len(), 1, "a refused claim leaves no trace");
}

/// Asked twice in the same way, there is one rental; asked in another way, the name is taken.
pub async fn the_same_request_under_one_name_is_one_rental<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let requests: Vec<_> = (0..20).map(|_| bench.request("same")).collect();
    let results = join_all(requests.iter().map(|new| bench.claim(new))).await;
    let ids: BTreeSet<_> = results.into_iter().map(|result| valid(result).rental().id()).collect();
    assert_eq!(ids.len(), 1);
    let mut other = bench.request("same");
    other.fingerprint = Fingerprint([8; 32]);
    assert!(matches!(bench.claim(&other).await, Err(ClaimError::NameTaken(_))));
    // What is on its way out is not what somebody wants who asks again.
    let rental = valid(bench.claim(&bench.request("same")).await).rental().clone();
    let mut change = Change::intent(rental);
    valid(change.apply(cancelled(), at(1)));
    valid(bench.store.commit(&change).await);
    assert!(matches!(bench.claim(&bench.request("same")).await, Err(ClaimError::NameTaken(_))));
}

/// A name belongs to live rentals only, and is a space of each renter's.
pub async fn a_name_is_free_again_after_the_end<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let first = bench.claimed("again").await;
    bench.live_through(first.clone(), owner, way_down()).await;
    assert_ne!(bench.claimed("again").await.id(), first.id());
    let mut of_another = bench.request("again");
    of_another.spec.renter = valid("another".parse());
    assert!(matches!(valid(bench.claim(&of_another).await), ClaimOutcome::New(_)));
}

/// However often a request is sent under a key, it makes one rental, also after that has ended; another
/// request under the key is refused, and another renter's key is another key.
pub async fn one_key_is_one_rental_for_ever<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let keyed = |name: &str| NewRental { key: Some(valid("key-1".parse())), ..bench.request(name) };
    let requests: Vec<_> = (0..100).map(|n| keyed(&format!("r{n}"))).collect();
    let results = join_all(requests.iter().map(|new| bench.claim(new))).await;
    let ids: BTreeSet<_> = results.into_iter().map(|result| valid(result).rental().id()).collect();
    assert_eq!(ids.len(), 1);
    let rentals = valid(bench.store.live(&bench.host).await);
    assert_eq!(rentals.len(), 1);
    bench.live_through(rentals[0].clone(), owner, way_down()).await;
    let again = valid(bench.claim(&keyed("late")).await);
    assert!(matches!(&again, ClaimOutcome::Existing(rental) if ids.contains(&rental.id()) && !rental.is_live()));
    let other = NewRental { fingerprint: Fingerprint([8; 32]), ..keyed("other") };
    assert!(matches!(bench.claim(&other).await, Err(ClaimError::KeyReused)));
    assert!(valid(bench.store.live(&bench.host).await).is_empty(), "nothing was made");
    let mut somebody_else = keyed("else");
    somebody_else.spec.renter = valid("somebody-else".parse());
    assert!(matches!(valid(bench.claim(&somebody_else).await), ClaimOutcome::New(_)));
    // A key of its own is another request, whatever the name.
    let mut same_name = keyed("else");
    (same_name.key, same_name.spec.renter) = (Some(valid("key-2".parse())), valid("somebody-else".parse()));
    assert!(matches!(bench.claim(&same_name).await, Err(ClaimError::NameTaken(_))));
}

/// A refused request may be made again under the same key.
pub async fn a_refused_request_binds_no_key<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let (one, _two) = (bench.claimed("one").await, bench.claimed("two").await);
    let keyed = NewRental { key: Some(valid("key".parse())), ..bench.request("three") };
    assert!(matches!(bench.claim(&keyed).await, Err(ClaimError::NotPlaced(_))));
    bench.live_through(one, owner, way_down()).await;
    assert!(matches!(valid(bench.claim(&keyed).await), ClaimOutcome::New(_)));
}
