//! A host that pulls images before anything is claimed for them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod world;

use futures_util::FutureExt;
use gpurent_core::host::RentError;
use gpurent_core::memory::{InjectedFault, RuntimeStep};
use gpurent_core::model::Phase;
use gpurent_core::runtime::RuntimeError;
use jiff::SignedDuration;
use world::World;

fn host() -> World {
    World::with(|host| host.pull_first())
}

/// A rental is asked for; what is not answered at once is answered after so long.
fn ask(world: &mut World, after: SignedDuration) -> Result<Phase, RentError> {
    let (rentals, request) = (world.rentals.clone(), world.request());
    let mut asked = async move { rentals.rent(request).await }.boxed_local();
    let claimed = (&mut asked).now_or_never().unwrap_or_else(|| {
        world.pool.run_until_stalled();
        world.advance(after);
        world.pool.run_until(asked)
    });
    let id = claimed?.rental().id();
    world.pool.run_until_stalled();
    Ok(world.get(id).state().phase())
}

#[test]
fn an_image_that_is_here_makes_nobody_wait() {
    let mut world = host();
    assert_eq!(ask(&mut world, SignedDuration::ZERO).unwrap(), Phase::Ready);
}

#[test]
fn no_gpu_waits_for_a_registry() {
    let mut world = host();
    world.runtime.fail_next(RuntimeStep::Prepare, InjectedFault::Hang);
    for _ in 0..3 {
        let pulling = ask(&mut world, SignedDuration::from_secs(2));
        assert!(matches!(pulling, Err(RentError::Pulling(_))), "{pulling:?}");
    }
    let held = world.pool.run_until(world.rentals.held()).unwrap();
    assert!(held.gpus.is_empty() && held.ports.is_empty());
}

#[test]
fn an_image_that_cannot_be_had_is_told_and_asked_for_again_later() {
    let mut world = host();
    let image = world.request().spec.image;
    let fails =
        || InjectedFault::Before(RuntimeError::ImageUnavailable { image: image.clone(), source: "no such".into() });
    world.runtime.fail_next(RuntimeStep::Prepare, fails());
    for _ in 0..2 {
        let refused = ask(&mut world, SignedDuration::ZERO);
        assert!(matches!(&refused, Err(RentError::Unpullable(why)) if why.contains("no such")), "{refused:?}");
    }
    world.advance(SignedDuration::from_secs(31));
    assert_eq!(ask(&mut world, SignedDuration::ZERO).unwrap(), Phase::Ready);
}

#[test]
fn one_renter_has_only_so_many_pulls() {
    let mut world = host();
    for _ in 0..4 {
        world.runtime.fail_next(RuntimeStep::Prepare, InjectedFault::Hang);
    }
    let mut ask_for = |image: &str, renter: &str| {
        let mut request = world.request();
        request.spec.image = image.parse().unwrap();
        request.spec.renter = renter.parse().unwrap();
        let rentals = world.rentals.clone();
        let mut asked = async move { rentals.rent(request).await }.boxed_local();
        let first = (&mut asked).now_or_never();
        world.pool.run_until_stalled();
        world.advance(SignedDuration::from_secs(3));
        first.unwrap_or_else(|| world.pool.run_until(asked)).map(|claimed| claimed.rental().id())
    };
    for n in 0..5 {
        let pulling = ask_for(&format!("image:{n}"), "greedy");
        assert!(matches!(pulling, Err(RentError::Pulling(_))), "{pulling:?}");
    }
    ask_for("image:9", "modest").unwrap();
}
