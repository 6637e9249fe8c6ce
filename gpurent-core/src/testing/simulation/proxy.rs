//! The store, the engine and the book as a process sees them: behind a line on which everything takes time
//! and anything can go wrong. A request that was sent arrives, whether or not its sender still waits.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::allocation::{Held, Placement, RenterHas, Written};
use crate::id::{ContainerId, EngineId, Epoch, HostId, LaunchId, MachineId, Position, RentalId, RenterId, Seq};
use crate::memory::{MemoryDeadlines, MemoryRuntime, MemoryStore};
use crate::model::{
    Event, Exit, JournalEntry, Phase, PortBinding, Recorded, RegistryLogin, Rental, Retained, Sealed, Secrets, Service,
};
use crate::runtime::{
    ContainerRuntime, Created, Examined, Isolation, LaunchSpec, Observation, Prepared, Presence, Progress,
    PullProgress, RuntimeError,
};
use crate::store::{
    Change, ClaimError, Claimed, Deadline, DeadlineBook, DeadlineError, Filter, Foundling, NewRental, Store,
    StoreError, Tenure,
};
use crate::testing::simulation::environment::{About, HostNo, ProcessId, World, at_once};
use crate::testing::simulation::fault_point::{Fault, Point};
use crate::testing::simulation::oracle::Truth;

/// One process's line to what is outside.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) world: World,
    pub(super) truth: Arc<Mutex<Truth>>,
    pub(super) store: Arc<MemoryStore>,
    pub(super) process: ProcessId,
    pub(super) host: HostNo,
    pub(super) host_id: HostId,
}

/// Where an answer arrives.
struct Answer<T>(Arc<Mutex<(Option<T>, Option<Waker>)>>);

impl<T> Clone for Answer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Send + 'static> Answer<T> {
    fn new() -> Self {
        Self(Arc::new(Mutex::new((None, None))))
    }

    fn give(&self, value: T) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The first one counts; a request that was sent twice is answered once.
        slot.0.get_or_insert(value);
        if let Some(waker) = slot.1.take() {
            waker.wake();
        }
    }

    async fn wait(&self) -> T {
        poll_fn(|context| {
            let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match slot.0.take() {
                Some(value) => Poll::Ready(value),
                None => {
                    slot.1 = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl Line {
    pub(super) fn truth(&self) -> std::sync::MutexGuard<'_, Truth> {
        self.truth.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn about_host(&self) -> About {
        let live = at_once(self.store.live(&self.host_id)).unwrap_or_default();
        let mut phases: Vec<Phase> = live.iter().map(|rental| rental.state().phase()).collect();
        phases.sort_unstable();
        phases.dedup();
        About { process: self.process, host: self.host, phases, what: String::new() }
    }

    fn about(&self, rental: RentalId, what: impl FnOnce() -> String) -> About {
        let found = at_once(self.store.get(rental)).unwrap_or_default();
        let what =
            if self.world.is_traced() { format!("{} {}", self.truth().name(rental), what()) } else { String::new() };
        About {
            process: self.process,
            host: self.host,
            phases: found.iter().map(|rental| rental.state().phase()).collect(),
            what,
        }
    }

    async fn call<T: Send + 'static>(
        &self,
        point: Point,
        about: About,
        mut effect: impl FnMut() -> T + Send + 'static,
        trouble: impl Fn(&'static str) -> T + Send + 'static,
        refused: impl FnOnce() -> T,
    ) -> T {
        let (call, fault) = self.world.fault(point, &about);
        if fault.is_some() && point.is_book() {
            // What was seen may not have been written down, or not be read: then it is paid for its start.
            self.truth().hosts[self.host].unattended += 1_000_000_000;
        }
        if let (Point::Observe, Some(Fault::Hang(lasts) | Fault::HangAfter(lasts) | Fault::Slow(lasts))) =
            (point, fault)
        {
            self.truth().hosts[self.host].unattended += lasts;
        }
        let fault = self.truth().outage(&self.world, point, self.host).or(fault);
        let (there, back) = self.world.latency(call);
        let answer = Answer::new();
        let (world, truth) = (self.world.clone(), Arc::clone(&self.truth));
        let now = world.now();
        // What arrives is seen by everybody at once.
        let mut arrive = move || {
            let value = effect();
            truth.lock().unwrap_or_else(PoisonError::into_inner).changed = true;
            value
        };
        let tell = |at: i64, value: T| {
            let answer = answer.clone();
            world.at(at, move || answer.give(value));
        };
        match fault {
            None | Some(Fault::Slow(_)) => {
                let there = if let Some(Fault::Slow(micros)) = fault { micros } else { there };
                let (answer, world2) = (answer.clone(), world.clone());
                world.at(now + there, move || {
                    let value = arrive();
                    world2.clone().at(world2.now() + back, move || answer.give(value));
                });
            }
            Some(Fault::Before) => tell(now + there, trouble("nothing happened")),
            Some(Fault::After) => {
                let (answer, world2) = (answer.clone(), world.clone());
                world.at(now + there, move || {
                    drop(arrive());
                    world2.clone().at(world2.now() + back, move || answer.give(trouble("the answer was lost")));
                });
            }
            Some(Fault::Late(late)) => {
                tell(now + there, trouble("it did not answer in time"));
                world.at(now + there + late, move || drop(arrive()));
            }
            Some(Fault::Hang(micros)) => tell(now + micros, trouble("nobody answered")),
            Some(Fault::HangAfter(micros)) => {
                world.at(now + there, move || drop(arrive()));
                tell(now + there + micros, trouble("nobody answered"));
            }
            Some(Fault::Twice(later)) => {
                let (answer, world2) = (answer.clone(), world.clone());
                world.at(now + there, move || {
                    let value = arrive();
                    world2.clone().at(world2.now() + back, move || answer.give(value));
                    let again = world2.now() + later;
                    world2.at(again, move || drop(arrive()));
                });
            }
            Some(Fault::Refused) => tell(now + there, refused()),
            // Not by `panic!`, which would be printed thousands of times.
            Some(Fault::Panic) => std::panic::resume_unwind(Box::new("a scripted panic")),
            Some(Fault::CrashBefore) => self.world.kill(self.process),
            Some(Fault::CrashDone) => {
                let (world2, process) = (world.clone(), self.process);
                world.at(now + there, move || {
                    drop(arrive());
                    world2.kill(process);
                });
            }
            Some(Fault::CrashAfter) => {
                let (answer, world2, process) = (answer.clone(), world.clone(), self.process);
                world.at(now + there, move || {
                    let value = arrive();
                    let heard = world2.now() + back;
                    let world3 = world2.clone();
                    world2.at(heard, move || {
                        answer.give(value);
                        // Just after the answer was taken in.
                        world3.clone().at(heard, move || world3.kill(process));
                    });
                });
            }
        }
        answer.wait().await
    }
}

/// The store behind a line.
pub(super) struct FaultyStore(pub(super) Line);

fn away(what: &'static str) -> StoreError {
    StoreError::Unavailable(what.into())
}

impl FaultyStore {
    async fn ask<T: Send + 'static>(
        &self,
        point: Point,
        about: About,
        effect: impl FnMut(&MemoryStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (store, mut effect) = (Arc::clone(&self.0.store), effect);
        let effect = move || effect(&store);
        self.0.call(point, about, effect, |what| Err(away(what)), || Err(away("refused"))).await
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn take_over(
        &self,
        host: &HostId,
        engine: &EngineId,
        machine: Option<&MachineId>,
    ) -> Result<Tenure, StoreError> {
        let (host, engine, machine) = (host.clone(), engine.clone(), machine.cloned());
        let (truth, process, number) = (Arc::clone(&self.0.truth), self.0.process, self.0.host);
        let taken = self
            .ask(Point::TakeOver, self.0.about_host(), move |store| {
                at_once(store.take_over(&host, &engine, machine.as_ref()))
            })
            .await?;
        truth.lock().unwrap_or_else(PoisonError::into_inner).took_over(process, number, taken.epoch);
        Ok(taken)
    }

    async fn confirm(&self, host: &HostId, epoch: Epoch) -> Result<(), StoreError> {
        let host = host.clone();
        self.ask(Point::Confirm, self.0.about_host(), move |store| at_once(store.confirm(&host, epoch))).await
    }

    async fn claim(&self, new: &NewRental, placement: &Placement) -> Result<Claimed, ClaimError> {
        let about = About { phases: Vec::new(), ..self.0.about(new.id, || new.name.to_string()) };
        let (new, placement, store) = (new.clone(), placement.clone(), Arc::clone(&self.0.store));
        let effect = move || at_once(store.claim(&new, &placement));
        self.0.call(Point::Claim, about, effect, |what| Err(away(what).into()), || Err(away("refused").into())).await
    }

    async fn adopt(&self, found: &Foundling, epoch: Epoch) -> Result<(), StoreError> {
        let about = About { phases: Vec::new(), ..self.0.about(found.rental.id(), String::new) };
        let found = found.clone();
        self.ask(Point::Adopt, about, move |store| at_once(store.adopt(&found, epoch))).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let events = || change.events().iter().map(|event| event.event.name()).collect::<Vec<_>>().join("+");
        let about = self.0.about(change.rental().id(), events);
        let (change, truth, id) = (change.clone(), Arc::clone(&self.0.truth), change.rental().id());
        for recorded in change.events() {
            match recorded.event {
                Event::Verified { .. } => self.0.truth().readies(self.0.world.now(), change.rental().launch()),
                Event::Extended { .. } => self.0.truth().extends(id),
                _ => {}
            }
        }
        let committed = self.ask(Point::Commit, about, move |store| {
            let current = store.epoch_of(change.rental().host());
            let committed = at_once(store.commit(&change));
            let fenced = change.fence().is_some_and(|fence| Some(fence) != current);
            if committed.is_ok() && fenced {
                truth.lock().unwrap_or_else(PoisonError::into_inner).accuse(format!(
                    "I9: an observation of epoch {:?} was accepted in epoch {current:?}",
                    change.fence()
                ));
            }
            committed
        });
        committed.await?;
        self.0.truth().knows(id);
        Ok(())
    }

    async fn get(&self, id: RentalId) -> Result<Option<Rental>, StoreError> {
        self.ask(Point::Get, self.0.about(id, String::new), move |store| at_once(store.get(id))).await
    }

    async fn of_container(&self, host: &HostId, container: &ContainerId) -> Result<Option<RentalId>, StoreError> {
        self.0.store.of_container(host, container).await
    }

    async fn live(&self, host: &HostId) -> Result<Vec<Rental>, StoreError> {
        let host = host.clone();
        self.ask(Point::Live, self.0.about_host(), move |store| at_once(store.live(&host))).await
    }

    async fn active(&self, host: &HostId) -> Result<Vec<Rental>, StoreError> {
        let host = host.clone();
        self.ask(Point::Live, self.0.about_host(), move |store| at_once(store.active(&host))).await
    }

    async fn list(
        &self,
        host: &HostId,
        filter: &Filter,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError> {
        at_once(self.0.store.list(host, filter, after, limit))
    }

    async fn ended_before(
        &self,
        host: &HostId,
        before: Timestamp,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError> {
        at_once(self.0.store.ended_before(host, before, after, limit))
    }

    async fn forget(&self, host: &HostId, rentals: &[RentalId]) -> Result<usize, StoreError> {
        at_once(self.0.store.forget(host, rentals))
    }

    async fn held(&self, host: &HostId) -> Result<Held, StoreError> {
        let host = host.clone();
        self.ask(Point::Live, self.0.about_host(), move |store| at_once(store.held(&host))).await
    }

    async fn renter_has(&self, host: &HostId, renter: &RenterId, since: Timestamp) -> Result<RenterHas, StoreError> {
        let (host, renter) = (host.clone(), renter.clone());
        let effect = move |store: &MemoryStore| at_once(store.renter_has(&host, &renter, since));
        self.ask(Point::Live, self.0.about_host(), effect).await
    }

    async fn log_tail(&self, id: RentalId, now: Timestamp) -> Result<Option<Vec<String>>, StoreError> {
        at_once(self.0.store.log_tail(id, now))
    }

    async fn sealed(&self, id: RentalId) -> Result<Option<Sealed>, StoreError> {
        self.ask(Point::Sealed, self.0.about(id, String::new), move |store| at_once(store.sealed(id))).await
    }

    async fn events(&self, id: RentalId, after: Seq, limit: usize) -> Result<Vec<Recorded>, StoreError> {
        at_once(self.0.store.events(id, after, limit))
    }

    async fn publish(&self, host: &HostId, epoch: Epoch, limit: usize) -> Result<Vec<JournalEntry>, StoreError> {
        let host = host.clone();
        self.ask(Point::Publish, self.0.about_host(), move |store| at_once(store.publish(&host, epoch, limit))).await
    }

    async fn journal(&self, host: &HostId, after: Position, limit: usize) -> Result<Vec<JournalEntry>, StoreError> {
        let host = host.clone();
        self.ask(Point::Journal, self.0.about_host(), move |store| at_once(store.journal(&host, after, limit))).await
    }
}

/// The engine behind a line.
pub(super) struct FaultyRuntime {
    pub(super) line: Line,
    pub(super) engine: MemoryRuntime,
}

struct Silent;

impl PullProgress for Silent {
    fn update(&self, _progress: Progress) {}
}

/// The observation of an engine that answers for running containers alone.
fn half_blind(mut observation: Observation) -> Observation {
    for seen in &mut observation.containers {
        if seen.presence != Presence::Running {
            seen.presence = Presence::Unknown;
        }
    }
    observation
}

fn gone(what: &'static str) -> RuntimeError {
    RuntimeError::Unavailable(what.into())
}

impl FaultyRuntime {
    async fn ask<T: Send + 'static>(
        &self,
        point: Point,
        about: About,
        effect: impl FnMut(&MemoryRuntime) -> Result<T, RuntimeError> + Send + 'static,
        refused: impl FnOnce() -> RuntimeError,
    ) -> Result<T, RuntimeError> {
        let (engine, mut effect) = (self.engine.clone(), effect);
        let (truth, host) = (Arc::clone(&self.line.truth), self.line.host);
        let reboots = move || truth.lock().unwrap_or_else(PoisonError::into_inner).hosts[host].reboots;
        let before = reboots();
        // What was under way when the machine went down is gone with it.
        let effect = move || if reboots() == before { effect(&engine) } else { Err(gone("the machine went down")) };
        self.line.call(point, about, effect, |what| Err(gone(what)), || Err(refused())).await
    }

    /// Something is about to be changed on the engine.
    fn acts(&self, point: Point, launch: LaunchId) -> About {
        self.line.truth().acts(self.line.process, self.line.host, point, launch);
        self.line.about(launch.rental, || format!("attempt {}", launch.attempt))
    }
}

#[async_trait]
impl ContainerRuntime for FaultyRuntime {
    async fn engine(&self) -> Result<EngineId, RuntimeError> {
        let about = self.line.about_host();
        self.ask(Point::Engine, about, |engine| at_once(engine.engine()), || gone("refused")).await
    }

    async fn prepare(
        &self,
        launch: &LaunchSpec,
        _registry: Option<&RegistryLogin>,
        _progress: &dyn PullProgress,
    ) -> Result<Prepared, RuntimeError> {
        let about = self.line.about(launch.id.rental, String::new);
        let image = launch.image.clone();
        let launch = launch.clone();
        let effect = move |engine: &MemoryRuntime| at_once(engine.prepare(&launch, None, &Silent));
        self.ask(Point::Prepare, about, effect, || RuntimeError::ImageUnavailable { image, source: "no".into() }).await
    }

    async fn create(&self, launch: &LaunchSpec, secrets: &Secrets) -> Result<Created, RuntimeError> {
        let about = self.acts(Point::Create, launch.id);
        let (launch, secrets) = (launch.clone(), secrets.clone());
        let effect = move |engine: &MemoryRuntime| at_once(engine.create(&launch, &secrets));
        self.ask(Point::Create, about, effect, || RuntimeError::Refused("no".into())).await
    }

    async fn start(&self, launch: &LaunchSpec) -> Result<Timestamp, RuntimeError> {
        let about = self.acts(Point::Start, launch.id);
        let port = launch.ports[0].host;
        let launch = launch.clone();
        let effect = move |engine: &MemoryRuntime| at_once(engine.start(&launch));
        self.ask(Point::Start, about, effect, || RuntimeError::PortTaken { port, source: "no".into() }).await
    }

    async fn verify(&self, launch: &LaunchSpec, within: Duration) -> Result<(), RuntimeError> {
        let about = self.line.about(launch.id.rental, String::new);
        let launch = launch.clone();
        let effect = move |engine: &MemoryRuntime| at_once(engine.verify(&launch, within));
        self.ask(Point::Verify, about, effect, || RuntimeError::AccessTimeout(within)).await
    }

    async fn replace_access(&self, launch: &LaunchSpec, secrets: &Secrets) -> Result<(), RuntimeError> {
        let about = self.acts(Point::ReplaceAccess, launch.id);
        let (launch, secrets) = (launch.clone(), secrets.clone());
        let effect = move |engine: &MemoryRuntime| at_once(engine.replace_access(&launch, &secrets));
        self.ask(Point::ReplaceAccess, about, effect, || gone("refused")).await
    }

    async fn announce(&self, launch: LaunchId, message: &str) -> Result<(), RuntimeError> {
        let about = self.acts(Point::Announce, launch);
        let message = message.to_owned();
        let effect = move |engine: &MemoryRuntime| at_once(engine.announce(launch, &message));
        self.ask(Point::Announce, about, effect, || gone("refused")).await
    }

    async fn notify(&self, launch: LaunchId) -> Result<(), RuntimeError> {
        let about = self.acts(Point::Notify, launch);
        self.ask(Point::Notify, about, move |engine| at_once(engine.notify(launch)), || gone("refused")).await
    }

    async fn stop(&self, launch: LaunchId, grace: Duration) -> Result<Option<Exit>, RuntimeError> {
        let about = self.acts(Point::Stop, launch);
        let (truth, world, host) = (Arc::clone(&self.line.truth), self.line.world.clone(), self.line.host);
        let effect = move |engine: &MemoryRuntime| {
            truth.lock().unwrap_or_else(PoisonError::into_inner).stops(&world, host, launch);
            at_once(engine.stop(launch, grace))
        };
        self.ask(Point::Stop, about, effect, || gone("refused")).await
    }

    async fn retain(&self, launch: LaunchId) -> Result<Option<Retained>, RuntimeError> {
        let about = self.acts(Point::Retain, launch);
        let (truth, world, host) = (Arc::clone(&self.line.truth), self.line.world.clone(), self.line.host);
        let effect = move |engine: &MemoryRuntime| {
            truth.lock().unwrap_or_else(PoisonError::into_inner).retains(world.now(), host, launch);
            at_once(engine.retain(launch))
        };
        self.ask(Point::Retain, about, effect, || gone("refused")).await
    }

    async fn remove(&self, launch: LaunchId) -> Result<(), RuntimeError> {
        let about = self.acts(Point::Remove, launch);
        let (truth, world, host) = (Arc::clone(&self.line.truth), self.line.world.clone(), self.line.host);
        let effect = move |engine: &MemoryRuntime| {
            truth.lock().unwrap_or_else(PoisonError::into_inner).removes(world.now(), host, launch);
            at_once(engine.remove(launch))
        };
        self.ask(Point::Remove, about, effect, || gone("refused")).await
    }

    async fn examine(&self, launch: LaunchId) -> Result<Option<Examined>, RuntimeError> {
        let about = About { phases: Vec::new(), ..self.line.about(launch.rental, String::new) };
        self.ask(Point::Examine, about, move |engine| at_once(engine.examine(launch)), || gone("refused")).await
    }

    async fn observe(&self, host: &HostId) -> Result<Observation, RuntimeError> {
        let about = self.line.about_host();
        let (engine, host) = (self.engine.clone(), host.clone());
        let observe = move || at_once(engine.observe(&host));
        let half_blind = {
            let observe = observe.clone();
            move || observe().map(half_blind)
        };
        self.line.call(Point::Observe, about, observe, |what| Err(gone(what)), half_blind).await
    }

    async fn disk_use(&self, launch: &LaunchSpec, most: Written) -> Result<Written, RuntimeError> {
        let about = self.line.about(launch.id.rental, String::new);
        let launch = launch.clone();
        let effect = move |engine: &MemoryRuntime| at_once(engine.disk_use(&launch, most));
        self.ask(Point::DiskUse, about, effect, || gone("refused")).await
    }

    async fn services(&self, launch: LaunchId, ports: &[PortBinding]) -> Result<Vec<Service>, RuntimeError> {
        let about = self.line.about(launch.rental, String::new);
        let ports = ports.to_vec();
        let effect = move |engine: &MemoryRuntime| at_once(engine.services(launch, &ports));
        self.ask(Point::Services, about, effect, || gone("refused")).await
    }

    fn publishes_udp(&self) -> bool {
        self.engine.publishes_udp()
    }

    fn isolation(&self) -> Isolation {
        self.engine.isolation()
    }

    async fn logs(&self, launch: LaunchId, lines: usize) -> Result<Vec<String>, RuntimeError> {
        let about = self.line.about(launch.rental, String::new);
        self.ask(Point::Logs, about, move |engine| at_once(engine.logs(launch, lines)), || gone("refused")).await
    }
}

/// The host's book on a disk that may be full.
pub(super) struct FaultyBook {
    pub(super) line: Line,
    pub(super) book: MemoryDeadlines,
    /// Writes that were asked for, and the last one that was carried out: a later one is never undone.
    pub(super) asked: AtomicU64,
    pub(super) written: Arc<AtomicU64>,
}

fn full(what: &'static str) -> DeadlineError {
    DeadlineError::Io(std::io::Error::other(what))
}

#[async_trait]
impl DeadlineBook for FaultyBook {
    async fn read(&self) -> Result<Vec<Deadline>, DeadlineError> {
        let (book, about) = (self.book.clone(), self.line.about_host());
        let effect = move || at_once(book.read());
        self.line.call(Point::ReadBook, about, effect, |what| Err(full(what)), || Err(full("refused"))).await
    }

    async fn write(&self, deadlines: &[Deadline]) -> Result<(), DeadlineError> {
        let (book, about, deadlines) = (self.book.clone(), self.line.about_host(), deadlines.to_vec());
        let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let (written, world, process) = (Arc::clone(&self.written), self.line.world.clone(), self.line.process);
        let effect = move || {
            // A disk that hangs keeps a killed process, and with it the machine's lock, until the write is through.
            if written.fetch_max(number, Ordering::Relaxed) > number || world.is_dead(process) {
                return Ok(());
            }
            at_once(book.write(&deadlines))
        };
        self.line.call(Point::WriteBook, about, effect, |what| Err(full(what)), || Err(full("refused"))).await
    }
}
