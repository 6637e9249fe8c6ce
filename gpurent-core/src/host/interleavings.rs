//! Every interleaving of what tasks share, by loom: nobody sleeps through news.

use std::sync::Arc;

use loom::future::block_on;
use loom::thread;

use crate::host::Update;
use crate::host::events::Feed;
use crate::host::lease::Lease;
use crate::host::notify::Nudge;
use crate::host::readiness::{Stage, Standing};
use crate::id::RentalId;
use crate::memory::ManualClock;
use crate::runtime::Progress;

/// Waits for a nudge as the reconciler does.
async fn heard(nudge: &Nudge) {
    loop {
        let bell = nudge.listen();
        if nudge.taken() {
            break;
        }
        bell.await;
    }
}

#[test]
fn a_nudge_is_never_slept_through() {
    loom::model(|| {
        let nudge = Arc::new(Nudge::new());
        let rings = Arc::clone(&nudge);
        let other = thread::spawn(move || rings.ring());
        block_on(heard(&nudge));
        other.join().unwrap();
    });
}

#[test]
fn two_nudges_are_at_least_one() {
    // Three threads have too many interleavings for a test; two changes of threads find most mistakes.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let nudge = Arc::new(Nudge::new());
        let rings: Vec<_> = (0..2)
            .map(|_| {
                let nudge = Arc::clone(&nudge);
                thread::spawn(move || nudge.ring())
            })
            .collect();
        block_on(heard(&nudge));
        rings.into_iter().for_each(|ring| ring.join().unwrap());
    });
}

#[test]
fn a_subscriber_hears_everything_in_order() {
    loom::model(|| {
        let feed = Arc::new(Feed::default());
        let mut hears = feed.subscribe();
        let pushes = Arc::clone(&feed);
        let rental = RentalId::from(uuid::Uuid::nil());
        let other = thread::spawn(move || {
            for n in 1..=2 {
                let progress = Progress { current_bytes: n, ..Progress::default() };
                pushes.push(Update::Progress { rental, progress });
            }
        });
        block_on(async {
            for n in 1..=2 {
                let Ok(Update::Progress { progress, .. }) = hears.next().await else { panic!("nothing else was said") };
                assert_eq!(progress.current_bytes, n);
            }
        });
        other.join().unwrap();
    });
}

#[test]
fn who_waits_for_the_stock_to_be_taken_is_told() {
    loom::model(|| {
        let standing = Arc::new(Standing::new());
        standing.set(Stage::TakingStock);
        let acts = Arc::clone(&standing);
        let other = thread::spawn(move || acts.set(Stage::Acting));
        assert_eq!(block_on(standing.settled()), Stage::Acting);
        other.join().unwrap();
    });
}

#[test]
fn the_watch_begins_when_the_lease_is_given_up() {
    loom::model(|| {
        let lease = Lease::none(Arc::new(ManualClock::new()));
        lease.renew(1_000_000, std::time::Duration::from_secs(15));
        lease.set_used(true);
        let ends = lease.clone();
        let other = thread::spawn(move || ends.set_used(false));
        // Nobody's clock goes on here: only the bell can end it.
        let never = |_| -> crate::clock::SleepFuture { Box::pin(std::future::pending()) };
        block_on(lease.unused(&never));
        other.join().unwrap();
    });
}
