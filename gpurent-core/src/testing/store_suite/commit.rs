//! Clauses of changes: what they write, free and erase.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::join_all;

use crate::id::{RentalId, Seq};
use crate::model::{CredentialKind, Files, PortBinding, Rental, RentalEvent, Sealed};
use crate::store::{Change, HostStore, LogTail, StoreError};
use crate::testing::store_suite::bench::{Bench, at, cancelled, valid, way_down, whole_life};

/// Of two writes that saw the same revision, one is written.
pub async fn a_stale_write_changes_nothing<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let rental = bench.claimed("one").await;
    let writes = ["c1", "c2", "c3", "c4"].map(|container| {
        let mut change = Change::observation(rental.clone(), owner);
        valid(change.apply(
            RentalEvent::Created {
                container: valid(container.parse()),
                gpus_attached: true,
                at: None,
                image: None,
                files: Files::New,
                copied_bytes: 0,
            },
            at(1),
        ));
        change
    });
    let results = join_all(writes.iter().map(|change| bench.store.commit(change))).await;
    let winners: Vec<_> = writes.iter().zip(&results).filter(|(_, result)| result.is_ok()).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    assert!(results.iter().filter_map(|r| r.as_ref().err()).all(|e| matches!(e, StoreError::Conflict)), "{results:?}");
    assert_eq!(bench.get(rental.id()).await.as_ref(), Some(winners[0].0.rental()));
    assert_eq!(valid(bench.store.events(rental.id(), Seq::ZERO, 100).await).len(), 2);
}

/// Holds last until the end and not longer; so does the credential.
pub async fn the_end_frees_what_was_held_and_erases_the_credential<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let mut new = bench.request("one");
    new.spec.environment = valid(BTreeMap::from([("TOKEN".to_owned(), "canary-4711".to_owned())]).try_into());
    let rental = valid(bench.claim(&new).await).rental().clone();
    let stopped = bench.live_through(rental, owner, way_down()[..2].to_vec()).await;
    assert!(format!("{stopped:?}").contains("canary-4711"), "it may be launched again");
    assert_eq!(valid(bench.store.held(&bench.host).await).gpus.len(), 1);
    let ended = bench.live_through(stopped, owner, vec![RentalEvent::Ended]).await;
    let held = valid(bench.store.held(&bench.host).await);
    assert!(held.gpus.is_empty() && held.ports.is_empty());
    assert_eq!(valid(bench.store.sealed(ended.id()).await), None);
    assert!(valid(bench.store.live(&bench.host).await).is_empty());
    let events = valid(bench.store.events(ended.id(), Seq::ZERO, 100).await);
    assert!(!format!("{events:?} {ended:?}").contains("canary-4711"), "{events:?}");
    assert_eq!(bench.get(ended.id()).await, Some(ended));
}

/// A relaunch holds its new ports and no longer the old ones; a port of somebody else is a conflict.
pub async fn new_ports_replace_the_old_ones<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let (one, two) = (bench.claimed("one").await, bench.claimed("two").await);
    let relaunched = |host| {
        let ports = vec![PortBinding::tcp(crate::model::port::SSH, host)];
        let mut change = Change::observation(one.clone(), owner);
        valid(change.apply(RentalEvent::Relaunched { ports }, at(1)));
        change
    };
    let taken = bench.store.commit(&relaunched(two.ports()[0].host)).await;
    assert!(matches!(taken, Err(StoreError::Conflict)), "{taken:?}");
    let free = valid(30_000.try_into());
    valid(bench.store.commit(&relaunched(free)).await);
    let held = valid(bench.store.held(&bench.host).await).ports;
    assert_eq!(held, BTreeSet::from([free, two.ports()[0].host]));
}

/// A changed credential is what is read from then on, until the end erases it.
pub async fn new_secrets_replace_the_old_ones<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let rental = bench.claimed("one").await;
    let new = Sealed { key_id: "other".to_owned(), bytes: vec![9] };
    let mut change = Change::intent(rental).with_sealed(new.clone());
    valid(change.apply(RentalEvent::AccessChanged { credential: CredentialKind::PublicKey }, at(1)));
    valid(bench.store.commit(&change).await);
    let id = change.rental().id();
    assert_eq!(valid(bench.store.sealed(id).await), Some(new));
    assert_eq!(bench.get(id).await.map(|rental| rental.credential()), Some(CredentialKind::PublicKey));
    bench.live_through(change.into_rental(), owner, way_down()).await;
    assert_eq!(valid(bench.store.sealed(id).await), None);
}

/// The last lines are there for as long as was said, and are dropped then.
pub async fn last_lines_outlive_the_container_for_their_time<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let stop_with = async |name: &str, line: &str, second| {
        let rental = bench.claimed(name).await;
        let rental = bench.live_through(rental, owner, vec![cancelled()]).await;
        let tail = LogTail { lines: vec![line.to_owned()], at: at(second), until: at(second + 100) };
        let mut change = Change::observation(rental, owner).with_log_tail(tail);
        valid(change.apply(RentalEvent::Stopped { exit: None, ended: None }, at(second)));
        valid(bench.store.commit(&change).await);
        bench.live_through(change.into_rental(), owner, vec![RentalEvent::Ended]).await.id()
    };
    let first = stop_with("one", "a \u{e9} \"line\"", 0).await;
    let lines = async |id, second| valid(bench.store.log_tail(id, at(second)).await);
    assert_eq!(lines(first, 99).await, Some(vec!["a \u{e9} \"line\"".to_owned()]));
    assert_eq!(lines(first, 100).await, None);
    let second = stop_with("two", "later", 200).await;
    assert_eq!(lines(second, 200).await, Some(vec!["later".to_owned()]));
    assert_eq!(lines(first, 0).await, None, "what is out of date goes with the next write");
    assert_eq!(lines(RentalId::generate(), 0).await, None);
}

/// The stored events tell the whole of the stored rental.
pub async fn events_fold_to_the_rental<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let rental = bench.claimed("one").await;
    let ended = bench.live_through(rental, owner, whole_life()).await;
    let events = valid(bench.store.events(ended.id(), Seq::ZERO, 100).await);
    let folded = Rental::folded(&events);
    assert_eq!(folded.as_ref().map(Rental::state), Some(ended.state()));
    assert_eq!(folded.as_ref().map(Rental::segments), Some(ended.segments()));
    assert_eq!(folded.map(|rental| rental.bill(at(0))), Some(ended.bill(at(0))));
    let rest = valid(bench.store.events(ended.id(), Seq::new(2), 3).await);
    assert_eq!(rest.iter().map(|event| event.seq.get()).collect::<Vec<_>>(), vec![3, 4, 5]);
}
