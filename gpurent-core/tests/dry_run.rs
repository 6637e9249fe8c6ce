//! The plan that an operator reads, against what the reconciler then does.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod world;

use gpurent_core::clock::Clock;
use gpurent_core::host::{Planned, plan};
use gpurent_core::id::{RentalId, Seq};
use gpurent_core::model::{EndReason, Rental, RentalState, RentalTiming};
use gpurent_core::runtime::{ContainerRuntime, ContainerStatus, Observation};
use gpurent_core::store::Store;
use world::{World, mins};

impl World {
    fn suspend(&mut self, id: RentalId) {
        self.pool.run_until(self.rentals.suspend(id)).unwrap();
        self.pool.run_until_stalled();
    }

    fn resume(&mut self, id: RentalId) {
        self.pool.run_until(self.rentals.resume(id)).unwrap();
        self.pool.run_until_stalled();
    }

    fn cancel(&mut self, id: RentalId) {
        self.pool.run_until(self.rentals.cancel(id)).unwrap();
        self.pool.run_until_stalled();
    }
}

fn observed(world: &mut World) -> Observation {
    world.pool.run_until(world.runtime.observe(&"host".parse().unwrap())).unwrap()
}

fn planned(world: &mut World, live: &[Rental], others: &[Rental]) -> Vec<Planned> {
    let observation = observed(world);
    plan(live, others, &observation, &world.clock.now(), &RentalTiming::default())
}

fn planned_now(world: &mut World) -> Vec<Planned> {
    let live = world.pool.run_until(world.store.live(&"host".parse().unwrap())).unwrap();
    planned(world, &live, &[])
}

#[test]
fn a_rental_runs_until_its_time_is_over() {
    let mut world = World::new();
    let id = world.rent();
    let launch = world.get(id).launch();
    assert_eq!(planned_now(&mut world), [Planned::Runs { rental: id, launch }]);
    world.clock.advance(mins(60));
    let planned = planned_now(&mut world);
    assert!(matches!(&planned[..], [Planned::Step { action, .. }] if action.starts_with("end:")), "{planned:?}");
    assert!(plan(&[], &[], &Observation::default(), &world.clock.now(), &RentalTiming::default()).is_empty());
}

#[test]
fn a_container_that_is_gone_ends_its_rental_whatever_else_is_due() {
    let mut world = World::new();
    let id = world.rent();
    // Five minutes before the end its renter is to be warned.
    world.clock.advance(mins(56));
    assert!(matches!(&planned_now(&mut world)[..], [Planned::Step { action, .. }] if action.starts_with("warn")));
    let launch = world.get(id).launch();
    world.runtime.lose(launch);
    let planned = planned_now(&mut world);
    assert!(matches!(&planned[..], [Planned::EndedByItself { rental, .. }] if *rental == id), "{planned:?}");

    world.advance(mins(1));
    assert!(matches!(world.get(id).state().end_reason(), Some(EndReason::Lost { .. })));
}

#[test]
fn the_plan_goes_on_with_a_later_launch_than_the_store_knows_of() {
    let mut world = World::new();
    let id = world.rent();
    let before = world.get(id);
    world.suspend(id);
    world.resume(id);
    let launch = world.get(id).launch();
    assert!(launch.attempt > before.attempt());
    assert_eq!(planned(&mut world, &[before], &[]), [Planned::TakeUp { rental: id, launch }]);
}

#[test]
fn a_container_of_a_suspended_rental_that_runs_is_put_away() {
    let mut world = World::new();
    let id = world.rent();
    let running = observed(&mut world);
    world.suspend(id);
    let suspended = world.get(id);
    assert!(matches!(suspended.state(), RentalState::Suspended { .. }));
    assert_eq!(planned_now(&mut world), [Planned::Waits { rental: id, files: true }]);
    // Somebody else started it.
    let [seen] = &running.containers[..] else { panic!("one container") };
    assert_eq!(seen.status, ContainerStatus::Running);
    let lines = plan(&[suspended], &[], &running, &world.clock.now(), &RentalTiming::default());
    assert!(lines.contains(&Planned::PutAway { launch: seen.launch }), "{lines:?}");
}

#[test]
fn a_container_is_removed_adopted_or_left_alone_by_what_the_store_knows_of_its_rental() {
    let mut world = World::new();
    let id = world.rent();
    let observation = observed(&mut world);
    let launch = world.get(id).launch();
    let now = world.clock.now();
    let planned = |live: &[Rental], others: &[Rental]| plan(live, others, &observation, &now, &RentalTiming::default());
    assert_eq!(planned(&[], &[]), [Planned::Adopt { launch }]);
    world.cancel(id);
    assert_eq!(planned(&[], &[world.get(id)]), [Planned::Remove { launch }]);
    // Its GPU and ports are another's by now, which cannot be brought up beside it.
    let other = world.rent();
    let claimed = world.pool.run_until(world.store.events(other, Seq::ZERO, 1)).unwrap();
    let claimed = Rental::folded(&claimed).unwrap();
    assert_eq!(planned(&[claimed], &[]), [Planned::HeldUp { rental: other }, Planned::Quarantine { launch }]);
}
