//! Clauses of ranges of ports that are one renter's.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;

use crate::id::RenterId;
use crate::model::PortRange;
use crate::store::{GivenBack, HostStore, RangeStore};
use crate::testing::store_suite::bench::{Bench, valid, way_down};

const SIZE: u16 = 10;

fn pool(text: &str) -> PortRange {
    valid(text.parse())
}

fn renter(n: usize) -> RenterId {
    valid(format!("user{n}").parse())
}

/// A renter who has a range keeps it; what was given back is the next one's; where none is left, nobody gets one.
pub async fn a_range_stays_its_renters_until_it_is_given_back<S: HostStore + RangeStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let (store, host, pool) = (&bench.store, &bench.host, pool("9000-9024"));
    let own = async |n| valid(store.own_range(host, &renter(n), &pool, SIZE).await).map(|range| range.to_string());
    assert_eq!(valid(store.range_of(host, &renter(1)).await), None);
    assert_eq!(own(1).await.as_deref(), Some("9000-9009"));
    assert_eq!(own(2).await.as_deref(), Some("9010-9019"));
    assert_eq!(own(1).await.as_deref(), Some("9000-9009"), "sticky");
    assert_eq!(own(3).await, None, "the rest is too small");
    let listed: Vec<_> = valid(store.ranges(host).await).into_iter().map(|own| own.renter).collect();
    assert_eq!(listed, [renter(1), renter(2)]);
    assert_eq!(valid(store.give_back(host, &renter(1)).await), GivenBack::Yes);
    assert_eq!(valid(store.give_back(host, &renter(1)).await), GivenBack::NothingThere);
    assert_eq!(own(3).await.as_deref(), Some("9000-9009"));
    assert_eq!(own(1).await, None);
}

/// Two hundred at once get two hundred, and each the same when it is asked twice at once.
pub async fn many_renters_at_once_get_ranges_of_their_own<S: HostStore + RangeStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let pool = pool("9000-10999");
    let asked = (0..200).flat_map(|n| [n, n]);
    let all = join_all(asked.map(async |n| {
        let range = valid(bench.store.own_range(&bench.host, &renter(n), &pool, SIZE).await);
        (n, range.map(|range| (range.first(), range.last())))
    }))
    .await;
    let distinct: BTreeSet<_> = all.iter().filter_map(|(_, range)| *range).collect();
    assert_eq!(distinct.len(), 200);
    assert!(all.chunks(2).all(|pair| pair[0] == pair[1]), "{all:?}");
    assert_eq!(valid(bench.store.ranges(&bench.host).await).len(), 200, "and all of them are kept");
}

/// As long as a live rental holds one of its ports, a range is nobody else's.
pub async fn a_range_in_use_is_not_given_back<S: HostStore + RangeStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let rental = bench.claimed("one").await;
    let port = rental.ports()[0].host.get();
    let pool = pool(&format!("{port}-{}", port + SIZE - 1));
    assert!(valid(bench.store.own_range(&bench.host, &renter(1), &pool, SIZE).await).is_some());
    assert_eq!(valid(bench.store.give_back(&bench.host, &renter(1)).await), GivenBack::InUse);
    bench.live_through(rental, owner, way_down()).await;
    assert_eq!(valid(bench.store.give_back(&bench.host, &renter(1)).await), GivenBack::Yes);
    // One that is suspended holds nothing, and is to have the same ports again.
    let mut new = bench.request("two");
    new.spec.renter = renter(2);
    new.spec.sticky_ports = valid(bench.store.own_range(&bench.host, &renter(2), &pool, SIZE).await);
    let rental = valid(bench.claim(&new).await).rental().clone();
    let suspended = bench.live_through(rental, owner, crate::testing::store_suite::suspend::on_its_way_down()).await;
    assert_eq!(valid(bench.store.give_back(&bench.host, &renter(2)).await), GivenBack::InUse);
    bench
        .live_through(
            suspended,
            owner,
            vec![crate::testing::store_suite::bench::cancelled(), crate::model::RentalEvent::Ended],
        )
        .await;
    assert_eq!(valid(bench.store.give_back(&bench.host, &renter(2)).await), GivenBack::Yes);
}
