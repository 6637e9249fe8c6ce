//! A rental's whole life on the fakes, on an executor that is not tokio.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_executor::LocalPool;
use futures_util::FutureExt;
use futures_util::task::LocalSpawnExt;
use gpurent_core::allocation::PortPools;
use gpurent_core::host::{HostBuilder, ReconcileError, RentError, Rentals, Subscription, Update};
use gpurent_core::id::{HostId, RentalId, Seq};
use gpurent_core::memory::{InjectedFault, ManualClock, MemoryRuntime, MemoryStore, RuntimeStep, SimulatedGpus};
use gpurent_core::model::{
    Credential, CredentialRequest, EndReason, FailureKind, GpuRequest, HourlyRate, MicroUnits, Password, Phase,
    RateCard, Rental, RentalRequest, RentalSpec, SealKey,
};
use gpurent_core::runtime::RuntimeError;
use gpurent_core::store::Filter;
use jiff::SignedDuration;

/// Store, engine and clock outlive the process; a [`World`] is the process.
#[derive(Clone)]
struct Outside {
    store: Arc<MemoryStore>,
    runtime: MemoryRuntime,
    clock: ManualClock,
    key: Arc<SealKey>,
}

impl Outside {
    fn new() -> Self {
        let clock = ManualClock::new();
        Self {
            store: Arc::default(),
            runtime: MemoryRuntime::new(clock.clone()),
            clock,
            key: Arc::new(SealKey::generate().0),
        }
    }
}

type Outcome = Arc<Mutex<Option<Result<(), ReconcileError>>>>;

struct World {
    outside: Outside,
    pool: LocalPool,
    rentals: Rentals,
    heard: Subscription,
    outcome: Outcome,
}

fn host() -> HostId {
    "host".parse().unwrap()
}

fn secs(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

impl World {
    fn new() -> Self {
        Self::around(Outside::new())
    }

    /// A new process around the same outside.
    fn around(outside: Outside) -> Self {
        let prices = RateCard::new("USD".to_owned().try_into().unwrap())
            .with("RTX 5090".parse().unwrap(), HourlyRate::new(MicroUnits::new(3_600_000)).unwrap());
        let (rentals, reconciler) = HostBuilder::new(
            host(),
            outside.store.clone(),
            Arc::new(outside.runtime.clone()),
            outside.key.clone(),
            SimulatedGpus::new(&host(), 2, "NVIDIA GeForce RTX 5090".parse().unwrap()).gpus().to_vec(),
            PortPools::new("22000-22999".parse().unwrap(), "8000-8999".parse().unwrap()).unwrap(),
        )
        .clock(Arc::new(outside.clock.clone()))
        .prices(prices)
        .build();
        let pool = LocalPool::new();
        let (clock, outcome) = (outside.clock.clone(), Outcome::default());
        let slot = Arc::clone(&outcome);
        pool.spawner()
            .spawn_local(async move {
                let result = reconciler.run(move |time| clock.sleep(time), std::future::pending()).await;
                *slot.lock().unwrap() = Some(result);
            })
            .unwrap();
        let heard = rentals.subscribe();
        let mut world = Self { outside, pool, rentals, heard, outcome };
        world.settle();
        world
    }

    fn settle(&mut self) {
        self.pool.run_until_stalled();
    }

    fn advance(&mut self, by: SignedDuration) {
        self.outside.clock.advance(by);
        self.settle();
    }

    /// Lets so many seconds pass, one by one.
    fn tick(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.advance(secs(1));
        }
    }

    fn try_rent(&mut self, name: &str) -> Result<RentalId, RentError> {
        let gpu = GpuRequest::one("rtx-5090".parse().unwrap());
        let mut spec =
            RentalSpec::new("me".parse().unwrap(), gpu, "ubuntu:22.04".parse().unwrap(), "1h".parse().unwrap());
        spec.name = Some(name.parse().unwrap());
        let credential = CredentialRequest::Password(Password::new("correct horse".to_owned()).unwrap());
        let claimed = self.pool.run_until(self.rentals.rent(RentalRequest::new(spec, credential)))?;
        Ok(claimed.rental().id())
    }

    fn rent(&mut self) -> RentalId {
        let id = self.try_rent("mine").unwrap();
        self.settle();
        id
    }

    fn get(&mut self, id: RentalId) -> Rental {
        self.pool.run_until(self.rentals.get(id)).unwrap().unwrap()
    }

    fn phase(&mut self, id: RentalId) -> Phase {
        self.get(id).state().phase()
    }

    fn reason(&mut self, id: RentalId) -> EndReason {
        self.get(id).state().end_reason().expect("it ends").clone()
    }

    fn cancel(&mut self, id: RentalId) {
        self.pool.run_until(self.rentals.cancel(id)).unwrap().unwrap();
        self.settle();
    }

    /// Everything is free, gone and told.
    fn assert_nothing_left(&mut self, id: RentalId) {
        assert_eq!(self.phase(id), Phase::Ended);
        assert!(self.outside.runtime.containers().is_empty());
        let live = self.pool.run_until(self.rentals.list(
            &Filter { phases: Phase::ALL[..4].to_vec(), ..Filter::default() },
            None,
            10,
        ));
        assert!(live.unwrap().is_empty());
        let events = self.pool.run_until(self.rentals.events(id, Seq::ZERO, 100)).unwrap();
        let folded = Rental::folded(&events).expect("legal events");
        assert_eq!(folded.state(), self.get(id).state());
        // Both GPUs can be had again.
        for name in ["again-1", "again-2"] {
            self.try_rent(name).unwrap();
        }
    }

    fn heard(&mut self) -> Vec<&'static str> {
        let mut names = Vec::new();
        while let Some(Ok(update)) = self.heard.next().now_or_never() {
            match update {
                Update::Event { entry, rental } => {
                    let rental = rental.expect("the store has it");
                    assert_eq!(rental.id(), entry.rental);
                    assert!(rental.last_seq() >= entry.recorded.seq, "the rental is told as it was then or later");
                    names.push(entry.recorded.event.name());
                }
                Update::Progress { .. } => names.push("progress"),
            }
        }
        names
    }
}

#[test]
fn a_rental_lives_its_paid_time_and_is_billed_for_it() {
    let mut world = World::new();
    let id = world.rent();
    assert_eq!(world.phase(id), Phase::Ready);
    let expires = world.get(id).expires_at().unwrap();
    world.advance(secs(3300));
    world.advance(secs(290));
    assert_eq!(world.phase(id), Phase::Ready);
    world.advance(secs(9));
    assert_eq!(world.phase(id), Phase::Ready, "never early");
    world.advance(secs(1));
    let rental = world.get(id);
    assert_eq!(world.reason(id), EndReason::Expired);
    assert_eq!(rental.exit().unwrap().finished_at, expires);
    assert_eq!(rental.bill(expires).total, MicroUnits::new(3_600_000));
    assert_eq!(
        world.heard(),
        [
            "claimed",
            "progress",
            "created",
            "started",
            "verified",
            "warned",
            "notified",
            "end_began",
            "stopped",
            "ended"
        ]
    );
    world.assert_nothing_left(id);
}

#[test]
fn the_renter_gets_the_credential_until_the_end() {
    let mut world = World::new();
    let id = world.rent();
    let rental = world.get(id);
    let access = world.pool.run_until(world.rentals.access(&rental)).unwrap().unwrap();
    let Some(Credential::Password(password)) = access.credential else { panic!("no password") };
    assert_eq!(password.expose(), "correct horse");
    world.cancel(id);
    let access = world.pool.run_until(world.rentals.access(&rental)).unwrap().unwrap();
    assert!(access.credential.is_none());
}

#[test]
fn a_cancel_ends_and_bills_to_the_second() {
    let mut world = World::new();
    let id = world.rent();
    world.advance(secs(100));
    world.cancel(id);
    assert_eq!(world.reason(id), EndReason::Cancelled);
    let now = world.outside.clock.clone();
    let bill = world.get(id).bill(gpurent_core::clock::Clock::now(&now).wall);
    assert_eq!((bill.used_micros, bill.total), (100_000_000, MicroUnits::new(100_000)));
    world.cancel(id);
    world.assert_nothing_left(id);
}

#[test]
fn a_cancel_during_a_stalled_pull_frees_the_gpu_at_once() {
    let mut world = World::new();
    world.outside.runtime.fail_next(RuntimeStep::Prepare, InjectedFault::Hang);
    let id = world.rent();
    assert_eq!(world.phase(id), Phase::Provisioning);
    world.cancel(id);
    world.assert_nothing_left(id);
}

#[test]
fn a_pull_that_never_ends_is_given_up_when_the_time_is_over() {
    let mut world = World::new();
    world.outside.runtime.fail_next(RuntimeStep::Prepare, InjectedFault::Hang);
    let id = world.rent();
    world.advance(SignedDuration::from_mins(119));
    assert_eq!(world.phase(id), Phase::Provisioning);
    world.advance(SignedDuration::from_mins(1));
    let EndReason::Failed(failure) = world.reason(id) else { panic!("not failed") };
    assert_eq!(failure.kind, FailureKind::DeadlineExceeded);
    world.assert_nothing_left(id);
}

#[test]
fn a_check_that_never_ends_does_not_keep_a_gpu() {
    let mut world = World::new();
    world.outside.runtime.fail_next(RuntimeStep::Verify, InjectedFault::Hang);
    let id = world.rent();
    world.tick(104);
    assert_eq!(world.phase(id), Phase::Running);
    world.tick(1);
    let EndReason::Failed(failure) = world.reason(id) else { panic!("not failed") };
    assert_eq!(failure.kind, FailureKind::AccessTimeout);
    world.assert_nothing_left(id);
}

#[test]
fn what_cannot_become_ready_fails_with_its_reason_and_costs_nothing() {
    type Fail = fn() -> RuntimeError;
    let faults: [(RuntimeStep, Fail, FailureKind); 5] = [
        (
            RuntimeStep::Prepare,
            || RuntimeError::ImageUnavailable {
                image: "ubuntu:22.04".parse().unwrap(),
                source: "manifest unknown".into(),
            },
            FailureKind::ImageUnavailable,
        ),
        (RuntimeStep::Create, || RuntimeError::Refused("bad option".into()), FailureKind::Refused),
        (RuntimeStep::Start, || RuntimeError::GpuRuntimeMissing("no driver".into()), FailureKind::GpuRuntimeMissing),
        (RuntimeStep::Verify, || RuntimeError::AccessTimeout(Duration::from_secs(90)), FailureKind::AccessTimeout),
        (RuntimeStep::Verify, || RuntimeError::Missing, FailureKind::Vanished),
    ];
    for (step, error, kind) in faults {
        let mut world = World::new();
        world.outside.runtime.fail_next(step, InjectedFault::Before(error()));
        let id = world.rent();
        let EndReason::Failed(failure) = world.reason(id) else { panic!("not failed") };
        assert_eq!(failure.kind, kind);
        let cause = std::error::Error::source(&error()).map(ToString::to_string).unwrap_or_default();
        assert!(failure.detail.contains(&cause), "{} does not tell of {cause}", failure.detail);
        let rental = world.get(id);
        assert_eq!(rental.bill(rental.created_at()).total, MicroUnits::ZERO);
        world.assert_nothing_left(id);
    }
}

/// Lets the next `n` starts find their port taken.
fn take_ports(world: &World, n: usize) {
    for _ in 0..n {
        let taken = RuntimeError::PortTaken { port: 22001.try_into().unwrap(), source: "in use".into() };
        world.outside.runtime.fail_next(RuntimeStep::Start, InjectedFault::Before(taken));
    }
}

#[test]
fn a_port_that_somebody_else_took_is_replaced() {
    let mut world = World::new();
    take_ports(&world, 2);
    let id = world.rent();
    assert_eq!(world.phase(id), Phase::Ready);
    assert_eq!(world.get(id).attempt().get(), 3);
    assert_eq!(world.outside.runtime.containers(), vec![world.get(id).launch()]);
    let mut world = World::new();
    take_ports(&world, 4);
    let id = world.rent();
    let EndReason::Failed(failure) = world.reason(id) else { panic!("not failed") };
    assert_eq!(failure.kind, FailureKind::PortTaken);
    world.assert_nothing_left(id);
}

#[test]
fn a_container_that_ends_by_itself_ends_the_rental() {
    let mut world = World::new();
    let id = world.rent();
    world.advance(secs(60));
    let launch = world.get(id).launch();
    world.outside.runtime.exit(launch, 137, true);
    world.advance(secs(5));
    assert_eq!(world.reason(id), EndReason::Exited { code: 137, out_of_memory: true });
    assert_eq!(world.get(id).bill(jiff::Timestamp::UNIX_EPOCH).used_micros, 60_000_000);
    world.assert_nothing_left(id);
}

#[test]
fn a_container_removed_by_hand_is_billed_to_when_it_was_last_seen() {
    let mut world = World::new();
    let id = world.rent();
    world.advance(secs(61));
    world.advance(secs(61));
    let launch = world.get(id).launch();
    world.outside.runtime.lose(launch);
    world.advance(secs(5));
    assert!(matches!(world.reason(id), EndReason::Lost { .. }));
    assert_eq!(world.get(id).bill(jiff::Timestamp::UNIX_EPOCH).used_micros, 122_000_000);
    world.assert_nothing_left(id);
}

#[test]
fn an_engine_that_does_not_answer_proves_nothing() {
    let mut world = World::new();
    let id = world.rent();
    world.outside.runtime.set_available(false);
    for _ in 0..60 {
        world.advance(secs(10));
    }
    assert_eq!(world.phase(id), Phase::Ready);
    world.outside.runtime.set_available(true);
    world.advance(secs(20));
    assert_eq!(world.phase(id), Phase::Ready);
}

#[test]
fn a_store_that_does_not_answer_ends_nothing_early_and_nothing_late() {
    let mut world = World::new();
    let id = world.rent();
    let launch = world.get(id).launch();
    let gpu = world.get(id).gpus()[0].uuid.clone();
    let expires = world.get(id).expires_at().unwrap();
    assert!(world.rentals.holds_lease());
    world.outside.store.set_available(false);
    assert!(matches!(world.try_rent("other"), Err(RentError::Unconfirmed { .. })));
    world.advance(secs(3599));
    assert!(!world.rentals.holds_lease(), "nobody has confirmed it for an hour");
    assert_eq!(world.outside.runtime.running_on(&gpu), vec![launch]);
    world.advance(secs(1));
    world.advance(secs(1));
    assert!(world.outside.runtime.running_on(&gpu).is_empty(), "the paid time is over");
    assert_eq!(world.outside.runtime.containers(), vec![launch], "nothing is removed without the store");
    world.advance(secs(600));
    world.outside.store.set_available(true);
    world.advance(secs(20));
    assert_eq!(world.reason(id), EndReason::Expired);
    let exit = world.get(id).exit().unwrap().finished_at;
    assert!(exit.duration_since(expires) <= secs(1), "the engine's own record counts");
    world.assert_nothing_left(id);
}

#[test]
fn a_store_that_hangs_does_not_keep_anybody_past_the_end() {
    let mut world = World::new();
    let id = world.rent();
    let launch = world.get(id).launch();
    let gpu = world.get(id).gpus()[0].uuid.clone();
    // Hangs before the warning: neither that nor the notice may stand in the way of the end.
    world.advance(secs(3000));
    world.outside.store.set_hanging(true);
    world.advance(secs(300));
    world.advance(secs(290));
    world.advance(secs(9));
    assert_eq!(world.outside.runtime.running_on(&gpu), vec![launch]);
    world.advance(secs(1));
    world.advance(SignedDuration::from_millis(250));
    assert!(world.outside.runtime.running_on(&gpu).is_empty(), "the paid time is over");
    world.advance(secs(60));
    world.outside.store.set_hanging(false);
    world.advance(secs(20));
    assert_eq!(world.reason(id), EndReason::Expired);
    world.assert_nothing_left(id);
}

#[test]
fn an_answer_that_the_store_lost_changes_nothing() {
    for lost in 1..=8 {
        let mut world = World::new();
        world.outside.store.lose_answers(lost);
        let id = world.rent();
        world.tick(30);
        assert_eq!(world.phase(id), Phase::Ready, "{lost} lost");
        world.cancel(id);
        world.tick(30);
        let told: Vec<_> = world.heard().into_iter().filter(|name| *name != "progress").collect();
        let all = ["claimed", "created", "started", "verified", "end_began", "stopped", "ended"];
        assert_eq!(told, all, "{lost} lost");
        world.assert_nothing_left(id);
    }
}

#[test]
fn another_engine_at_the_same_address_proves_nothing() {
    let mut world = World::new();
    let id = world.rent();
    world.outside.runtime.become_another_engine();
    world.advance(secs(30));
    assert_eq!(world.phase(id), Phase::Ready);
}

#[test]
fn a_panic_in_one_effect_is_contained() {
    let mut world = World::new();
    world.outside.runtime.fail_next(RuntimeStep::Create, InjectedFault::Panic);
    let (one, two) = (world.rent(), world.try_rent("two").unwrap());
    world.advance(secs(1));
    assert_eq!((world.phase(one), world.phase(two)), (Phase::Ready, Phase::Ready));
}

#[test]
fn an_effect_whose_answer_was_lost_is_found_done() {
    for step in [RuntimeStep::Create, RuntimeStep::Start, RuntimeStep::Stop, RuntimeStep::Remove] {
        let mut world = World::new();
        let lost = || InjectedFault::After(RuntimeError::Unavailable("connection reset".into()));
        world.outside.runtime.fail_next(step, lost());
        let id = world.rent();
        world.advance(secs(1));
        assert_eq!(world.phase(id), Phase::Ready, "{step:?}");
        world.cancel(id);
        world.advance(secs(1));
        world.assert_nothing_left(id);
    }
}

#[test]
fn a_new_process_goes_on_where_the_old_one_died() {
    let mut world = World::new();
    let id = world.rent();
    let container = world.get(id).container().cloned();
    let outside = world.outside.clone();
    drop(world);
    outside.clock.advance(secs(100));
    let mut world = World::around(outside.clone());
    assert_eq!(world.phase(id), Phase::Ready);
    assert_eq!(world.get(id).container().cloned(), container, "the same container goes on");
    drop(world);
    outside.clock.advance(secs(9000));
    let mut world = World::around(outside);
    assert_eq!(world.reason(id), EndReason::Expired);
    assert_eq!(world.get(id).bill(jiff::Timestamp::UNIX_EPOCH).used_micros, 3_600_000_000);
    world.assert_nothing_left(id);
}

#[test]
fn the_second_of_two_processes_acts_alone() {
    let mut first = World::new();
    let id = first.rent();
    let mut second = World::around(first.outside.clone());
    first.advance(secs(10));
    second.settle();
    assert!(matches!(first.outcome.lock().unwrap().take(), Some(Err(ReconcileError::TakenOver))));
    assert_eq!(second.phase(id), Phase::Ready);
    assert!(matches!(first.try_rent("late"), Err(RentError::NotReconciled)));
}

#[test]
fn containers_whose_rental_is_unknown_are_left_alone() {
    let mut world = World::new();
    let id = world.rent();
    let launch = world.get(id).launch();
    // A restored backup: the containers are newer than the store.
    let outside = Outside { store: Arc::default(), ..world.outside.clone() };
    drop(world);
    let mut world = World::around(outside);
    world.advance(secs(600));
    assert_eq!(world.outside.runtime.containers(), vec![launch]);
}

#[test]
fn without_a_reconciler_a_request_is_refused_not_forgotten() {
    let outside = Outside::new();
    let (rentals, reconciler) = HostBuilder::new(
        host(),
        outside.store,
        Arc::new(outside.runtime),
        outside.key,
        Vec::new(),
        PortPools::new("1-2".parse().unwrap(), "3-4".parse().unwrap()).unwrap(),
    )
    .build();
    drop(reconciler);
    let gpu = GpuRequest::one("H200".parse().unwrap());
    let spec = RentalSpec::new("me".parse().unwrap(), gpu, "a".parse().unwrap(), "1h".parse().unwrap());
    let request = RentalRequest::new(spec, CredentialRequest::Generate);
    let refused = futures_executor::block_on(rentals.rent(request));
    assert!(matches!(refused, Err(RentError::NotReconciled)));
}

#[test]
fn at_the_fixpoint_nothing_is_written() {
    let mut world = World::new();
    let id = world.rent();
    let revision = world.get(id).revision();
    for _ in 0..100 {
        world.advance(secs(10));
    }
    assert_eq!(world.get(id).revision(), revision);
    world.heard();
    world.advance(secs(10));
    assert!(world.heard().is_empty());
}

#[test]
fn a_shutdown_leaves_tenants_running() {
    let outside = Outside::new();
    let mut world = World::around(outside.clone());
    let id = world.rent();
    let gpu = world.get(id).gpus()[0].uuid.clone();
    drop(world);
    assert_eq!(outside.runtime.running_on(&gpu).len(), 1);
}
