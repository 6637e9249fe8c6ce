//! Clauses of lists.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::SignedDuration;

use crate::model::{EndKind, Phase, Rental};
use crate::store::{Filter, HostStore};
use crate::testing::store_suite::bench::{Bench, moment, valid, way_down, whole_life};

/// Lists come newest first, page after page, filtered by renter and phase.
pub async fn lists_are_filtered_and_paged<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let mut new = bench.request(&format!("r{n}"));
        new.at = moment(n).shifted(SignedDuration::ZERO);
        if n == 3 {
            new.spec.renter = valid("other".parse());
        }
        let rental = valid(bench.claim(&new).await).rental().clone();
        ids.insert(0, rental.id());
        bench.live_through(rental, owner, if n < 4 { way_down() } else { Vec::new() }).await;
    }
    let list = async |filter: &Filter, after, limit| {
        let page = valid(bench.store.list(&bench.host, filter, after, limit).await);
        page.iter().map(Rental::id).collect::<Vec<_>>()
    };
    let all = Filter::default();
    assert_eq!(list(&all, None, 100).await, ids);
    assert_eq!(list(&all, None, 2).await, ids[..2]);
    assert_eq!(list(&all, Some(ids[1]), 2).await, ids[2..4]);
    assert_eq!(list(&all, Some(ids[4]), 2).await, []);
    let ended = Filter { phases: vec![Phase::Ended], ..Filter::default() };
    assert_eq!(list(&ended, None, 100).await, ids[1..]);
    let others = Filter { renter: Some(valid("other".parse())), ..Filter::default() };
    assert_eq!(list(&others, None, 100).await, ids[1..2]);
}

/// Names, labels and outcomes select as phases do; a state may be named either way.
pub async fn lists_are_filtered_by_name_label_and_outcome<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let mut labelled = bench.request("labelled");
    let labels = [("team".to_owned(), "it's \"ours\"".to_owned())];
    labelled.spec.labels = valid(std::collections::BTreeMap::from(labels).try_into());
    let labelled = valid(bench.claim(&labelled).await).rental().id();
    let expired = bench.live_through(bench.claimed("expired").await, owner, whole_life()).await.id();
    let terminated = bench.live_through(bench.claimed("terminated").await, owner, way_down()).await.id();
    let list = async |filter: Filter| {
        let page = valid(bench.store.list(&bench.host, &filter, None, 100).await);
        page.iter().map(Rental::id).collect::<BTreeSet<_>>()
    };
    let all = Filter::default();
    let named = Filter { name: Some(valid("expired".parse())), ..all.clone() };
    assert_eq!(list(named).await, BTreeSet::from([expired]));
    let label = |value: &str| Filter { label: Some(("team".to_owned(), value.to_owned())), ..all.clone() };
    assert_eq!(list(label("it's \"ours\"")).await, BTreeSet::from([labelled]));
    assert_eq!(list(label("other")).await, BTreeSet::new());
    assert_eq!(list(Filter { ends: vec![EndKind::Terminated], ..all.clone() }).await, BTreeSet::from([terminated]));
    let either = Filter { ends: vec![EndKind::Expired], phases: vec![Phase::Provisioning], ..all };
    assert_eq!(list(either).await, BTreeSet::from([labelled, expired]));
}
