//! Services that a rental's programs offer: when they are told, and how often.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod world;

use gpurent_core::id::RentalId;
use gpurent_core::memory::{InjectedFault, RuntimeStep};
use gpurent_core::model::port::WEB;
use gpurent_core::model::{Protocol, PublishedPort, PublishedPorts};
use gpurent_core::runtime::RuntimeError;
use jiff::SignedDuration;
use world::{World, mins};

/// A rental that publishes a port besides SSH's.
fn publishing(world: &mut World) -> RentalId {
    let mut request = world.request();
    request.spec.ports = PublishedPorts::try_from(vec![PublishedPort::tcp(WEB, None)]).unwrap();
    world.rent_so(request)
}

fn times_told(world: &mut World, id: RentalId) -> usize {
    world.events_of(id).iter().filter(|event| **event == "services_up").count()
}

#[test]
fn a_service_is_told_once_and_soon_whenever_it_comes_up() {
    let mut world = World::new();
    let id = publishing(&mut world);
    world.advance(mins(10));
    assert_eq!(times_told(&mut world, id), 0);
    world.runtime.serve(true);
    world.advance(SignedDuration::from_secs(31));
    assert_eq!(times_told(&mut world, id), 1);
    let rental = world.get(id);
    let [service] = rental.services() else { panic!("{:?}", rental.services()) };
    assert_eq!((service.container, service.protocol), (WEB, Protocol::Http));
    assert_eq!(Some(service.host), rental.host_port(WEB));
    world.runtime.serve(false);
    world.advance(mins(1));
    world.runtime.serve(true);
    world.advance(mins(1));
    assert_eq!(times_told(&mut world, id), 1, "once a container");
}

#[test]
fn a_rental_that_is_resumed_is_told_of_again() {
    let mut world = World::new();
    world.runtime.serve(true);
    let id = publishing(&mut world);
    world.advance(SignedDuration::from_secs(1));
    assert_eq!(world.get(id).services().len(), 1);
    world.pool.run_until(world.rentals.suspend(id)).unwrap().unwrap();
    world.pool.run_until_stalled();
    assert_eq!(world.get(id).services(), []);
    world.runtime.serve(false);
    world.pool.run_until(world.rentals.resume(id)).unwrap().unwrap();
    world.advance(mins(1));
    assert_eq!(world.get(id).services(), [], "the new start serves nothing yet");
    world.runtime.serve(true);
    world.advance(mins(1));
    assert_eq!(times_told(&mut world, id), 2);
}

#[test]
fn an_engine_that_does_not_tell_is_asked_again() {
    let mut world = World::new();
    world.runtime.serve(true);
    let away = || RuntimeError::Unavailable("away".into());
    world.runtime.fail_next(RuntimeStep::Services, InjectedFault::Before(away()));
    world.runtime.fail_next(RuntimeStep::Services, InjectedFault::Hang);
    world.runtime.fail_next(RuntimeStep::Services, InjectedFault::Panic);
    let id = publishing(&mut world);
    for _ in 0..40 {
        world.advance(SignedDuration::from_secs(1));
    }
    assert_eq!(times_told(&mut world, id), 1);
}
