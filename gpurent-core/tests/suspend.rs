//! Suspended and resumed: what is kept, what is given up, what it costs, and what goes wrong on the way back.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod world;

use gpurent_core::allocation::{PlacementError, RenterLimits, TooMany};
use gpurent_core::clock::Clock;
use gpurent_core::host::{ResumeError, SuspendError, TermExtension};
use gpurent_core::id::RentalId;
use gpurent_core::memory::{InjectedFault, RuntimeStep};
use gpurent_core::model::{
    Credential, EndReason, FailureKind, Files, HostKeys, Phase, Rental, Secrets, SuspendCause, Term,
};
use gpurent_core::runtime::{ContainerRuntime, LaunchSpec, RuntimeError};
use gpurent_core::store::Store;
use jiff::SignedDuration;
use world::{World, mins, password, term};

impl World {
    fn suspend(&mut self, id: RentalId) -> Result<Rental, SuspendError> {
        let suspended = self.pool.run_until(self.rentals.suspend(id)).map(Option::unwrap);
        self.pool.run_until_stalled();
        suspended
    }

    fn resume(&mut self, id: RentalId) -> Result<Rental, ResumeError> {
        let resumed = self.pool.run_until(self.rentals.resume(id)).map(Option::unwrap);
        self.pool.run_until_stalled();
        resumed
    }

    fn phase(&mut self, id: RentalId) -> Phase {
        self.get(id).state().phase()
    }
}

#[test]
fn paid_time_stands_still_while_it_is_suspended() {
    let mut world = World::new();
    let id = world.rent();
    world.advance(mins(20));
    world.suspend(id).unwrap();
    assert_eq!(world.phase(id), Phase::Suspended);
    assert!(world.runtime.running_on(&world.gpu()).is_empty());
    world.advance(mins(600));
    let suspended = world.get(id);
    assert_eq!(suspended.time_left(&world.clock.now()), Some(mins(40)));
    assert_eq!(suspended.bill(world.clock.now().wall).used_micros, 20 * 60 * 1_000_000);
    world.resume(id).unwrap();
    assert_eq!(world.phase(id), Phase::Ready);
    world.advance(mins(39));
    assert_eq!(world.phase(id), Phase::Ready);
    world.advance(mins(1));
    let ended = world.get(id);
    assert_eq!(ended.state().end_reason(), Some(&EndReason::Expired));
    assert_eq!(ended.segments().len(), 2);
    assert_eq!(ended.bill(world.clock.now().wall).used_micros, 60 * 60 * 1_000_000);
    let told = world.events_of(id);
    let pause = ["suspend_began", "stopped", "suspended", "resumed", "created"];
    assert!(told.windows(5).any(|part| part == pause), "{told:?}");
}

#[test]
fn its_gpu_is_another_s_meanwhile_and_may_be_gone() {
    let mut world = World::new();
    let id = world.rent();
    world.suspend(id).unwrap();
    let other = world.rent();
    assert_eq!(world.phase(other), Phase::Ready);
    assert!(matches!(world.resume(id), Err(ResumeError::NotPlaced(PlacementError::NoGpuFree(_)))));
    assert_eq!(world.phase(id), Phase::Suspended);
    world.pool.run_until(world.rentals.cancel(other)).unwrap();
    world.pool.run_until_stalled();
    world.resume(id).unwrap();
    assert_eq!(world.phase(id), Phase::Ready);
}

#[test]
fn what_never_was_ready_ends_instead() {
    let mut world = World::new();
    world.runtime.fail_next(RuntimeStep::Prepare, InjectedFault::Hang);
    let id = world.rent();
    assert_eq!(world.phase(id), Phase::Provisioning);
    world.suspend(id).unwrap();
    assert_eq!(world.phase(id), Phase::Ended);
    assert_eq!(world.get(id).state().end_reason(), Some(&EndReason::Cancelled));
}

#[test]
fn a_renter_has_only_so_many_suspended() {
    let mut world = World::new();
    let most = RenterLimits::default().suspended;
    for _ in 0..most {
        let id = world.rent();
        world.suspend(id).unwrap();
    }
    let id = world.rent();
    assert!(matches!(world.suspend(id), Err(SuspendError::TooMany(TooMany::Suspended(limit))) if limit == most));
    assert_eq!(world.phase(id), Phase::Ready, "it goes on");
}

#[test]
fn a_certain_renter_may_have_another_amount() {
    let hers = RenterLimits { suspended: 1, ..RenterLimits::default() };
    let mut world = World::with(|host| host.renter_limits_of("alice".parse().unwrap(), hers));
    let suspend_two = |world: &mut World, renter: &str| {
        let mut request = world.request();
        request.spec.renter = renter.parse().unwrap();
        let first = world.rent_so(request.clone());
        world.suspend(first).unwrap();
        let second = world.rent_so(request);
        world.suspend(second)
    };
    assert!(suspend_two(&mut world, "bob").is_ok());
    assert!(matches!(suspend_two(&mut world, "alice"), Err(SuspendError::TooMany(TooMany::Suspended(1)))));
}

#[test]
fn asking_twice_changes_nothing() {
    let mut world = World::new();
    let id = world.rent();
    world.suspend(id).unwrap();
    let (revision, attempt) = (world.get(id).revision(), world.get(id).attempt());
    assert_eq!(world.suspend(id).unwrap().revision(), revision);
    world.resume(id).unwrap();
    let revision = world.get(id).revision();
    assert_eq!(world.resume(id).unwrap().revision(), revision);
    assert_eq!(world.get(id).attempt(), attempt.next());
}

#[test]
fn while_it_is_going_down_it_cannot_be_resumed() {
    let mut world = World::new();
    let id = world.rent();
    world.runtime.fail_next(RuntimeStep::Retain, InjectedFault::Before(RuntimeError::Unavailable("away".into())));
    world.suspend(id).unwrap();
    assert_eq!(world.phase(id), Phase::Suspending);
    assert!(matches!(world.resume(id), Err(ResumeError::StillSuspending)));
    world.advance(mins(1));
    assert_eq!(world.phase(id), Phase::Suspended);
}

#[test]
fn while_it_is_going_down_only_its_present_container_has_what_it_needs() {
    let mut world = World::new();
    let id = world.rent();
    let first = world.get(id).attempt();
    world.suspend(id).unwrap();
    assert!(world.get(id).may_need(first));
    world.resume(id).unwrap();
    assert!(!world.get(id).may_need(first), "its files are in the second container");
    world.suspend(id).unwrap();
    assert_eq!(world.phase(id), Phase::Suspended);
    assert!(!world.get(id).may_need(first), "whoever removes it may come late");
    assert!(world.get(id).may_need(first.next()), "it is kept");
    world.resume(id).unwrap();
    world.runtime.fail_next(RuntimeStep::Retain, InjectedFault::Before(RuntimeError::Unavailable("away".into())));
    world.suspend(id).unwrap();
    assert_eq!(world.phase(id), Phase::Suspending);
    assert!(!world.get(id).may_need(first), "whoever removes it may come late");
    assert!(world.get(id).may_need(world.get(id).attempt()));
}

#[test]
fn its_credential_and_its_term_may_be_changed_meanwhile() {
    let mut world = World::new();
    let id = world.rent();
    world.suspend(id).unwrap();
    world.extend(id, TermExtension::By(term("1h"))).unwrap();
    let new = world.change_access(id, "another-password");
    world.resume(id).unwrap();
    assert!(world.lets_in(id, &new));
    assert!(!world.lets_in(id, &Credential::Password(password("first-password"))));
    assert_eq!(world.get(id).time_left(&world.clock.now()), Some(mins(120)));
}

#[test]
fn a_launch_that_fails_suspends_what_was_ready_before() {
    let mut world = World::new();
    let id = world.rent();
    world.advance(mins(10));
    world.suspend(id).unwrap();
    let gone = RuntimeError::ImageUnavailable { image: world.get(id).spec().image.clone(), source: "gone".into() };
    world.runtime.fail_next(RuntimeStep::Prepare, InjectedFault::Before(gone));
    world.resume(id).unwrap();
    let rental = world.get(id);
    assert_eq!(rental.state().phase(), Phase::Suspended);
    let Some(SuspendCause::Failed(failure)) = rental.state().suspend_cause() else { panic!("{:?}", rental.state()) };
    assert_eq!(failure.kind, FailureKind::ImageUnavailable);
    assert_eq!(rental.time_left(&world.clock.now()), Some(mins(50)), "what failed costs nothing");
    world.resume(id).unwrap();
    assert_eq!(world.phase(id), Phase::Ready);
}

#[test]
fn it_is_warned_again_before_the_new_end() {
    let mut world = World::new();
    let id = world.rent();
    world.advance(mins(56));
    assert_eq!(world.announced(id).len(), 1);
    world.suspend(id).unwrap();
    world.advance(mins(60));
    world.resume(id).unwrap();
    world.pool.run_until_stalled();
    assert_eq!(world.announced(id).len(), 2, "once more, with four minutes left");
}

#[test]
fn it_ends_on_request_and_when_nobody_comes_back_for_it() {
    let mut world = World::new();
    let id = world.rent();
    world.suspend(id).unwrap();
    world.pool.run_until(world.rentals.cancel(id)).unwrap();
    world.pool.run_until_stalled();
    assert_eq!(world.get(id).state().end_reason(), Some(&EndReason::Cancelled));
    assert_eq!(world.phase(id), Phase::Ended);
    let id = world.rent();
    world.suspend(id).unwrap();
    world.advance(mins(30 * 24 * 60 - 1));
    assert_eq!(world.phase(id), Phase::Suspended);
    world.advance(mins(1));
    assert_eq!(world.get(id).state().end_reason(), Some(&EndReason::Abandoned));
    assert!(matches!(world.resume(id), Err(ResumeError::Over)));
    assert!(matches!(world.suspend(id), Err(SuspendError::Over)));
    let sealed = world.pool.run_until(world.store.sealed(id)).unwrap();
    assert!(sealed.is_none(), "its credential went with it");
}

#[test]
fn an_open_ended_rental_is_suspended_too() {
    let mut world = World::new();
    let mut request = world.request();
    request.spec.term = Term::OpenEnded;
    let id = world.rent_so(request);
    world.advance(mins(10));
    world.suspend(id).unwrap();
    world.advance(mins(100));
    world.resume(id).unwrap();
    world.advance(mins(5));
    let rental = world.get(id);
    assert_eq!(rental.state().phase(), Phase::Ready);
    assert_eq!(rental.expires_at(), None);
    assert_eq!(rental.bill(world.clock.now().wall).used_micros, 15 * 60 * 1_000_000);
}

/// A container that is taken over by a request that was late, after its rental was suspended again, is put away again.
#[test]
fn a_container_that_comes_late_is_put_away() {
    let mut world = World::new();
    let id = world.rent();
    let launch = LaunchSpec::of(&world.get(id));
    world.suspend(id).unwrap();
    let away = RuntimeError::Refused("not now".into());
    world.runtime.fail_next(RuntimeStep::Create, InjectedFault::Before(away));
    world.resume(id).unwrap();
    assert_eq!(world.phase(id), Phase::Suspended);
    let credential = Credential::Password(password("first-password"));
    let secrets = Secrets { credential, host_keys: HostKeys::default(), registry: None };
    let late = LaunchSpec { id: launch.id.next(), carries_files: true, ..launch };
    let files = world.pool.run_until(world.runtime.create(&late, &secrets)).unwrap().files;
    assert_eq!(files, Files::Same);
    world.pool.run_until(world.runtime.start(&late)).unwrap();
    world.advance(mins(2));
    assert_eq!(world.runtime.containers(), [late.id]);
    assert!(world.runtime.running_on(&world.gpu()).is_empty(), "nobody pays for it");
    world.resume(id).unwrap();
    assert_eq!((world.phase(id), world.get(id).files()), (Phase::Ready, Files::Same));
}

#[test]
fn its_files_come_back_with_it() {
    let mut world = World::new();
    let id = world.rent();
    let container = world.get(id).container().cloned();
    assert_eq!(world.get(id).files(), Files::New);
    world.suspend(id).unwrap();
    let suspended = world.get(id);
    assert_eq!(suspended.retained().map(|retained| &retained.container), container.as_ref());
    assert_eq!(world.rentals.kept_until(&suspended), world.clock.now().wall.checked_add(mins(30 * 24 * 60)).ok());
    world.resume(id).unwrap();
    let resumed = world.get(id);
    assert_eq!((resumed.files(), resumed.container()), (Files::Same, container.as_ref()));
    assert_eq!(resumed.retained(), None);
    world.suspend(id).unwrap();
    let launch = world.get(id).launch();
    world.runtime.lose(launch);
    world.resume(id).unwrap();
    assert_eq!(world.get(id).files(), Files::Lost, "somebody removed the container, and that is told");
    world.pool.run_until(world.rentals.cancel(id)).unwrap();
    world.pool.run_until_stalled();
    assert!(world.runtime.containers().is_empty());
}

#[test]
fn on_another_gpu_and_other_ports_its_files_are_copied() {
    let mut world = World::with_gpus(2);
    let id = world.rent();
    let before = world.get(id);
    world.suspend(id).unwrap();
    let other = world.rent();
    assert_eq!(world.get(other).gpus(), before.gpus(), "its GPU is another's meanwhile");
    world.resume(id).unwrap();
    let resumed = world.get(id);
    assert_eq!((resumed.state().phase(), resumed.files()), (Phase::Ready, Files::Copied));
    assert_ne!(resumed.gpus(), before.gpus());
    world.advance(mins(1));
    assert_eq!(world.runtime.containers().len(), 2, "the one that was copied is gone");
}

#[test]
fn with_a_port_taken_on_the_way_back_nothing_is_lost() {
    let mut world = World::new();
    let id = world.rent();
    let port = world.get(id).ssh_port().unwrap();
    world.suspend(id).unwrap();
    let taken = RuntimeError::PortTaken { port, source: "somebody's".into() };
    world.runtime.fail_next(RuntimeStep::Start, InjectedFault::Before(taken));
    world.resume(id).unwrap();
    let resumed = world.get(id);
    assert_eq!((resumed.state().phase(), resumed.files()), (Phase::Ready, Files::Copied));
    assert_ne!(resumed.ssh_port(), Some(port));
    world.advance(mins(1));
    assert_eq!(world.runtime.containers(), [resumed.launch()]);
}

#[test]
fn who_flaps_uses_the_rental_in_between() {
    let mut world = World::new();
    let id = world.rent();
    for _ in 0..6 {
        world.advance(SignedDuration::from_secs(50));
        world.suspend(id).unwrap();
        world.resume(id).unwrap();
    }
    world.suspend(id).unwrap();
    let refused = world.resume(id);
    assert!(
        matches!(refused, Err(ResumeError::NotPlaced(PlacementError::TooMany(TooMany::Resumes(6))))),
        "{refused:?}"
    );
    // A platform may, for many are behind it.
    world.rentals = world.rentals.for_a_platform();
    world.resume(id).unwrap();
    world.advance(mins(10));
    world.suspend(id).unwrap();
    world.resume(id).unwrap();
    let spent = world.get(id);
    assert_eq!((spent.resumed(), spent.used_before()), (8, mins(15)), "two more than six would need 20 minutes");
}

#[test]
fn a_resumption_that_fails_before_anything_runs_is_not_counted() {
    let mut world = World::new();
    let id = world.rent();
    world.suspend(id).unwrap();
    for _ in 0..8 {
        let no_driver = RuntimeError::GpuRuntimeMissing("none".into());
        world.runtime.fail_next(RuntimeStep::Create, InjectedFault::Before(no_driver));
        world.resume(id).unwrap();
        assert_eq!(world.phase(id), Phase::Suspended);
    }
    assert_eq!(world.get(id).resumed(), 0);
    world.resume(id).unwrap();
    assert_eq!((world.phase(id), world.get(id).resumed()), (Phase::Ready, 1));
}

/// A store that lost when the rental was ready must not cost it its files at the first launch that fails.
#[test]
fn what_is_kept_outlives_a_resumption_that_fails_whatever_the_store_knows() {
    let mut world = World::new();
    let id = world.rent();
    world.suspend(id).unwrap();
    let kept = world.get(id);
    assert!(kept.has_been_ready() && kept.retained().is_some());
    for _ in 0..3 {
        world.runtime.fail_next(RuntimeStep::Create, InjectedFault::Before(RuntimeError::Refused("no".into())));
        world.resume(id).unwrap();
        assert_eq!(world.phase(id), Phase::Suspended);
    }
    world.resume(id).unwrap();
    assert_eq!(world.get(id).files(), Files::Same);
}
