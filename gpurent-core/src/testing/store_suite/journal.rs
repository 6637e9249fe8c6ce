//! Clauses of the journal: each event once, in order, without a gap.

use std::sync::Arc;

use futures_util::future::join_all;

use crate::id::Position;
use crate::store::HostStore;
use crate::testing::store_suite::bench::{Bench, let_others_go_on, valid, whole_life};

/// Positions run from 1 without a gap; nothing is published twice.
pub async fn the_journal_has_every_event_once_and_in_order<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let rental = bench.claimed("one").await;
    let first = valid(bench.store.publish(&bench.host, owner, 10).await);
    assert_eq!(first.len(), 1);
    bench.live_through(rental, owner, whole_life()).await;
    let mut published = first;
    loop {
        let more = valid(bench.store.publish(&bench.host, owner, 3).await);
        if more.is_empty() {
            break;
        }
        published.extend(more);
    }
    assert!(published.iter().zip(1..).all(|(entry, n)| entry.position.get() == n && entry.recorded.seq.get() == n));
    assert_eq!(published.len(), 8);
    assert_eq!(valid(bench.store.journal(&bench.host, Position::ZERO, 100).await), published);
    let ownership = valid(bench.store.acquire_host(&bench.host, &bench.engine, None).await);
    assert_eq!(ownership.last_position, Position::new(8));
    let rest = valid(bench.store.journal(&bench.host, Position::new(6), 1).await);
    assert_eq!(rest, published[6..7]);
}

/// A reader that follows positions sees every event, however many write meanwhile.
pub async fn readers_miss_nothing_while_others_write<S: HostStore>(store: Arc<S>) {
    const WRITERS: usize = 32;
    let bench = Bench::with_gpus(store, 32);
    let owner = bench.owner().await;
    let mut rentals = Vec::new();
    for n in 0..WRITERS {
        rentals.push(bench.claimed(&format!("r{n}")).await);
    }
    let read = async {
        let (mut seen, mut cursor) = (Vec::new(), Position::ZERO);
        while seen.len() < 8 * WRITERS {
            valid(bench.store.publish(&bench.host, owner, 4).await);
            for entry in valid(bench.store.journal(&bench.host, cursor, 100).await) {
                cursor = entry.position;
                seen.push((entry.rental, entry.recorded.seq.get()));
            }
            let_others_go_on().await;
        }
        seen
    };
    let write = join_all(rentals.iter().map(|rental| bench.live_through(rental.clone(), owner, whole_life())));
    let (seen, _) = futures_util::join!(read, write);
    for rental in rentals {
        let seqs: Vec<_> = seen.iter().filter(|(id, _)| *id == rental.id()).map(|(_, seq)| *seq).collect();
        assert_eq!(seqs, (1..=8).collect::<Vec<_>>());
    }
}

/// A publication that was given up may still happen, beside the next one: each position is given once.
pub async fn publications_at_once_leave_no_gap<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let (one, two) = (bench.claimed("one").await, bench.claimed("two").await);
    let publish = async {
        for _ in 0..8 {
            let at_once = join_all((0..6).map(|_| bench.store.publish(&bench.host, owner, 100))).await;
            assert!(at_once.iter().all(Result::is_ok), "{at_once:?}");
            let_others_go_on().await;
        }
    };
    let write_one = bench.live_through(one, owner, whole_life());
    let write_two = bench.live_through(two, owner, whole_life());
    futures_util::join!(publish, write_one, write_two);
    valid(bench.store.publish(&bench.host, owner, 100).await);
    let journal = valid(bench.store.journal(&bench.host, Position::ZERO, 100).await);
    assert_eq!(journal.iter().map(|entry| entry.position.get()).collect::<Vec<_>>(), (1..=16).collect::<Vec<_>>());
}
