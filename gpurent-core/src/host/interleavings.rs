//! Every interleaving of what tasks share, by loom: nobody sleeps through news.

use std::sync::Arc;

use loom::future::block_on;
use loom::thread;

use crate::host::Update;
use crate::host::events::Feed;
use crate::host::lease::Lease;
use crate::host::notify::Notify;
use crate::host::readiness::{Readiness, ReadinessCell};
use crate::memory::ManualClock;
use crate::model::rental::tests::claimed;
use crate::runtime::Progress;

/// Waits for a notification as the reconciler does.
async fn heard(notify: &Notify) {
    loop {
        let listener = notify.listen();
        if notify.taken() {
            break;
        }
        listener.await;
    }
}

#[test]
fn a_notification_is_never_slept_through() {
    loom::model(|| {
        let notify = Arc::new(Notify::new());
        let rings = Arc::clone(&notify);
        let other = thread::spawn(move || rings.notify());
        block_on(heard(&notify));
        other.join().unwrap();
    });
}

#[test]
fn two_notifications_are_at_least_one() {
    // Three threads have too many interleavings for a test; two changes of threads find most mistakes.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let notify = Arc::new(Notify::new());
        let rings: Vec<_> = (0..2)
            .map(|_| {
                let notify = Arc::clone(&notify);
                thread::spawn(move || notify.notify())
            })
            .collect();
        block_on(heard(&notify));
        rings.into_iter().for_each(|ring| ring.join().unwrap());
    });
}

#[test]
fn a_subscriber_hears_everything_in_order() {
    loom::model(|| {
        let feed = Arc::new(Feed::default());
        let mut hears = feed.subscribe();
        let pushes = Arc::clone(&feed);
        let rental = Arc::new(claimed().0);
        let other = thread::spawn(move || {
            for n in 1..=2 {
                let progress = Progress { current_bytes: n, ..Progress::default() };
                pushes.push(Update::Progress { rental: Arc::clone(&rental), progress });
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
        let readiness = Arc::new(ReadinessCell::new());
        readiness.set(Readiness::Starting);
        let acts = Arc::clone(&readiness);
        let other = thread::spawn(move || acts.set(Readiness::Ready));
        assert_eq!(block_on(readiness.settled()), Readiness::Ready);
        other.join().unwrap();
    });
}

#[test]
fn the_watch_begins_when_the_lease_is_given_up() {
    loom::model(|| {
        let lease = Lease::none(Arc::new(ManualClock::new()));
        lease.renew(crate::clock::BootInstant::from_micros(1_000_000), std::time::Duration::from_secs(15));
        lease.set_used(true);
        let ends = lease.clone();
        let other = thread::spawn(move || ends.set_used(false));
        // Nobody's clock goes on here: only a notification can end it.
        let never = |_| -> crate::clock::SleepFuture { Box::pin(std::future::pending()) };
        block_on(lease.unused(&never));
        other.join().unwrap();
    });
}
