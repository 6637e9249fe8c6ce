//! An application that follows one rental, and one that waits for it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

use futures_util::FutureExt;
use futures_util::task::LocalSpawnExt;
use gpurent_core::Phase;
use gpurent_core::host::{RentError, RentalFollower, RentalUpdate};
use gpurent_core::id::{RentalId, Seq};
use gpurent_core::testing::TestHost;

fn told(host: &mut TestHost, follower: &mut RentalFollower) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        host.settle();
        match follower.next().now_or_never() {
            Some(Ok(Some(RentalUpdate::Event(event)))) => told.push(event.event.name().to_owned()),
            Some(Ok(Some(RentalUpdate::Progress(_)))) => {}
            Some(Ok(None)) => told.push("(over)".to_owned()),
            Some(Err(error)) => panic!("{error}"),
            None => return told,
        }
        if told.last().is_some_and(|last| last == "(over)") {
            return told;
        }
    }
}

#[test]
fn one_rental_is_followed_from_its_claim_to_its_end() {
    let mut host = TestHost::with(2, |host| host);
    let id = host.rent(TestHost::request("2h"));
    let mut follower = host.rentals.follow_rental(id, Seq::ZERO);
    assert_eq!(told(&mut host, &mut follower), ["claimed", "created", "started", "verified"]);
    host.rent(TestHost::request("1h"));
    assert_eq!(told(&mut host, &mut follower), [""; 0], "another's are not its own");
    host.advance("PT2H".parse().unwrap());
    let rest = told(&mut host, &mut follower);
    assert_eq!(rest.first().map(String::as_str), Some("end_began"));
    assert_eq!(rest[rest.len() - 2..], ["ended", "(over)"]);
    let mut later = host.rentals.follow_rental(id, Seq::new(3));
    assert_eq!(told(&mut host, &mut later).first().map(String::as_str), Some("verified"), "resumed after the third");
    let mut after_the_end = host.rentals.follow_rental(id, later.seq());
    assert_eq!(told(&mut host, &mut after_the_end), ["(over)"], "nothing is waited for that never comes");
    let mut of_nobody = host.rentals.follow_rental(RentalId::generate(), Seq::ZERO);
    assert_eq!(told(&mut host, &mut of_nobody), ["(over)"]);
}

#[test]
fn a_state_is_waited_for_and_an_end_ends_the_wait() {
    let mut host = TestHost::new();
    let id = host.rent(TestHost::request("2h"));
    let is_over = |rental: &gpurent_core::Rental| rental.state().phase() == Phase::Ended;
    assert!(host.rentals.wait_until(id, is_over).now_or_never().is_none());
    let rentals = host.rentals.clone();
    let mut never = Box::pin(rentals.wait_until(id, |_| false));
    assert!(never.as_mut().now_or_never().is_none());
    host.advance("PT2H".parse().unwrap());
    let ended = host.pool.run_until(never).unwrap().unwrap();
    assert!(is_over(&ended), "what has ended changes no more");
    assert!(host.rentals.wait_until(RentalId::generate(), is_over).now_or_never().unwrap().unwrap().is_none());
}

#[test]
fn who_rents_before_the_reconciler_was_polled_waits_for_it() {
    let (mut host, reconciler) = TestHost::apart(1, |host| host);
    let rentals = host.rentals.clone();
    let mut rented = Box::pin(rentals.rent(TestHost::request("2h")));
    assert!(rented.as_mut().now_or_never().is_none());
    host.pool.spawner().spawn_local(reconciler.map(drop)).unwrap();
    let id = host.pool.run_until(rented).unwrap().rental().id();
    host.settle();
    assert_eq!(host.get(id).state().phase(), Phase::Ready);
}

#[test]
fn without_a_reconciler_nobody_waits() {
    let (host, reconciler) = TestHost::apart(1, |host| host);
    drop(reconciler);
    let refused = host.rentals.rent(TestHost::request("2h")).now_or_never();
    assert!(matches!(refused, Some(Err(RentError::NotReconciled))));
}
