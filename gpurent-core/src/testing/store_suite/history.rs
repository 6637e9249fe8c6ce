//! Clauses on rentals that have ended: a store has to list them with the others, export and delete them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::{Position, RentalId, Seq};
use crate::model::{EndKind, Phase, Rental};
use crate::store::{Filter, HostStore};
use crate::testing::store_suite::bench::{Bench, at, cancelled, moment, valid, way_down, whole_life};
use crate::testing::store_suite::suspend::on_its_way_down;

/// Every list is what its filter lets pass, newest first, however long its pages are.
pub async fn lists_are_what_their_filters_let_pass<S: HostStore>(store: Arc<S>) {
    let bench = Bench::with_gpus(store, 16);
    let owner = bench.owner().await;
    let mut newest_first: Vec<Rental> = Vec::new();
    for n in 0..24_i64 {
        let mut new = bench.request(if n % 3 == 0 { "same" } else { "another" });
        // Names are good for one live rental.
        if n >= 18 {
            new.name = valid(format!("live-{n}").parse());
        }
        // Some are made in the same moment.
        new.at = moment(n / 2);
        new.spec.renter = valid(["alice", "bob"][usize::from(n % 4 == 1)].parse());
        let labels = [("team", ["red", "blue"][usize::from(n % 5 == 0)]), ("long", &*"x".repeat(1024))];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        new.spec.labels = valid(BTreeMap::from(labels).try_into());
        let rental = valid(bench.claim(&new).await).rental().clone();
        let events = match n {
            0..12 => whole_life(),
            12..18 => way_down(),
            18..20 => on_its_way_down(),
            20..22 => vec![cancelled()],
            _ => Vec::new(),
        };
        newest_first.push(bench.live_through(rental, owner, events).await);
    }
    newest_first.sort_by_key(|rental| std::cmp::Reverse((rental.created_at(), rental.id())));
    for filter in filters() {
        let passes = newest_first.iter().filter(|rental| filter.passes(rental));
        let expected: Vec<RentalId> = passes.map(Rental::id).collect();
        for limit in [1, 5, 100] {
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let page = valid(bench.store.list(&bench.host, &filter, after, limit).await);
                listed.extend(page.iter().map(Rental::id));
                after = page.last().map(Rental::id);
                if page.len() < limit {
                    break;
                }
            }
            assert_eq!(listed, expected, "{filter:?} by {limit}");
        }
    }
}

fn filters() -> Vec<Filter> {
    let label = |name: &str, value: &str| Some((name.to_owned(), value.to_owned()));
    let states: [(Vec<Phase>, Vec<EndKind>); 7] = [
        (vec![], vec![]),
        (vec![Phase::Provisioning], vec![]),
        (vec![Phase::Suspended, Phase::Ending], vec![]),
        (vec![], vec![EndKind::Terminated]),
        (vec![Phase::Ended], vec![]),
        (vec![Phase::Provisioning], vec![EndKind::Expired, EndKind::Failed]),
        (Phase::ALL.to_vec(), EndKind::ALL.to_vec()),
    ];
    let mut filters = Vec::new();
    for (phases, ends) in states {
        for renter in [None, Some("bob"), Some("nobody")] {
            for name in [None, Some("same")] {
                for label in [None, label("team", "blue"), label("long", &"x".repeat(1024)), label("team", "grey")] {
                    filters.push(Filter {
                        renter: renter.map(|renter| valid(renter.parse())),
                        name: name.map(|name| valid(name.parse())),
                        label,
                        phases: phases.clone(),
                        ends: ends.clone(),
                    });
                }
            }
        }
    }
    filters
}

/// Rentals that have ended are read in the order of their ends, and are gone with all that is known of them once they are
/// deleted; what lives, or was not published, stays.
pub async fn ended_rentals_are_read_by_age_and_forgotten<S: HostStore>(store: Arc<S>) {
    let bench = Bench::with_gpus(store, 8);
    let owner = bench.owner().await;
    let mut ended = Vec::new();
    for (name, events) in [("late", whole_life()), ("early", way_down())] {
        let mut new = bench.request(name);
        new.key = Some(valid(name.parse()));
        new.spec.labels = valid(BTreeMap::from([("team".to_owned(), "red".to_owned())]).try_into());
        let rental = valid(bench.claim(&new).await).rental().clone();
        ended.insert(0, bench.live_through(rental, owner, events).await.id());
    }
    let live = bench.claimed("live").await.id();
    let later = at(1_000);
    let before = async |time, after, limit| {
        let page = valid(bench.store.ended_before(&bench.host, time, after, limit).await);
        page.iter().map(Rental::id).collect::<Vec<_>>()
    };
    assert_eq!(before(later, None, 10).await, [], "nobody was told of their ends");
    assert_eq!(valid(bench.store.forget(&bench.host, &ended).await), 0);

    valid(bench.store.publish(&bench.host, owner, 100).await);
    assert_eq!(before(later, None, 10).await, ended);
    assert_eq!(before(later, None, 1).await, ended[..1]);
    assert_eq!(before(later, Some(ended[0]), 10).await, ended[1..]);
    assert_eq!(before(at(3), None, 10).await, [], "the first one ended in second 3");
    assert_eq!(before(at(4), None, 10).await, ended[..1]);

    let last = valid(bench.store.journal(&bench.host, Position::ZERO, 100).await).last().map(|entry| entry.position);
    assert_eq!(valid(bench.store.forget(&bench.host, &[ended[0], live, RentalId::generate()]).await), 1);
    assert_eq!(valid(bench.store.get(ended[0]).await), None);
    assert_eq!(valid(bench.store.events(ended[0], Seq::ZERO, 100).await), []);
    let journal = valid(bench.store.journal(&bench.host, Position::ZERO, 100).await);
    assert!(journal.iter().all(|entry| entry.rental != ended[0]) && journal.iter().any(|e| e.rental == ended[1]));
    let labelled = Filter { label: Some(("team".to_owned(), "red".to_owned())), ..Filter::default() };
    let left = valid(bench.store.list(&bench.host, &labelled, None, 10).await);
    assert_eq!(left.iter().map(Rental::id).collect::<Vec<_>>(), ended[1..]);
    assert_eq!(before(later, Some(ended[0]), 10).await, ended[1..], "after one that is gone");
    assert!(valid(bench.store.get(live).await).is_some());

    assert_eq!(valid(bench.store.forget(&bench.host, &ended).await), 1);
    // Positions are never given again, and keys are free.
    let rental = valid(bench.store.get(live).await).unwrap_or_else(|| panic!("it lives"));
    bench.live_through(rental, owner, vec![cancelled()]).await;
    let next = valid(bench.store.publish(&bench.host, owner, 100).await);
    assert_eq!(next.first().map(|entry| entry.position.get()), last.map(|last| last.get() + 1));
    assert_eq!(valid(bench.store.acquire_host(&bench.host, &bench.engine, None).await).last_position, next[0].position);
    let mut again = bench.request("early");
    again.key = Some(valid("early".parse()));
    assert!(!ended.contains(&valid(bench.claim(&again).await).rental().id()));
}
