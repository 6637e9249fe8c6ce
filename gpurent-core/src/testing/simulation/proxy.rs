//! The store, the engine and the book as a process sees them: behind a line on which everything takes time
//! and anything can go wrong. A request that was sent arrives, whether or not its sender still waits.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::allocation::{Holds, Placement, RenterHas, Written};
use crate::id::{ContainerId, EngineId, HostId, LaunchId, MachineId, Position, RentalId, RenterId, Seq};
use crate::memory::{MemoryDeadlines, MemoryRuntime, MemoryStore};
use crate::model::{
    Exit, JournalEntry, Phase, PortBinding, RecordedEvent, RegistryLogin, Rental, RentalEvent, Retained, Sealed,
    Secrets, Service,
};
use crate::runtime::{
    ContainerRuntime, ContainerStatus, Created, InspectedContainer, Isolation, LaunchSpec, Observation, Prepared,
    Progress, PullProgress, RuntimeError,
};
use crate::store::{
    Change, ClaimError, ClaimOutcome, Deadline, DeadlineBook, DeadlineError, Filter, HostOwnership, HostStore,
    NewRental, RecoveredRental, Store, StoreError,
};
use crate::testing::simulation::environment::{About, Environment, HostNo, ProcessId, at_once};
use crate::testing::simulation::fault_point::{FaultPoint, SimFault};
use crate::testing::simulation::oracle::Oracle;

/// One process's line to what is outside.
#[derive(Clone)]
pub(super) struct FaultProxy {
    pub(super) environment: Environment,
    pub(super) oracle: Arc<Mutex<Oracle>>,
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

impl FaultProxy {
    pub(super) fn oracle(&self) -> std::sync::MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner)
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
        let what = if self.environment.is_traced() {
            format!("{} {}", self.oracle().name(rental), what())
        } else {
            String::new()
        };
        About {
            process: self.process,
            host: self.host,
            phases: found.iter().map(|rental| rental.state().phase()).collect(),
            what,
        }
    }

    async fn call<T: Send + 'static>(
        &self,
        point: FaultPoint,
        about: About,
        mut effect: impl FnMut() -> T + Send + 'static,
        trouble: impl Fn(&'static str) -> T + Send + 'static,
        refused: impl FnOnce() -> T,
    ) -> T {
        let (call, fault) = self.environment.fault(point, &about);
        if fault.is_some() && point.is_book() {
            // What was seen may not have been written down, or not be read: then it is paid for its start.
            self.oracle().hosts[self.host].unattended += 1_000_000_000;
        }
        if let (FaultPoint::Observe, Some(SimFault::Hang(lasts) | SimFault::HangAfter(lasts) | SimFault::Slow(lasts))) =
            (point, fault)
        {
            self.oracle().hosts[self.host].unattended += lasts;
        }
        let fault = self.oracle().outage(&self.environment, point, self.host).or(fault);
        let (there, back) = self.environment.latency(call);
        let answer = Answer::new();
        let (environment, oracle) = (self.environment.clone(), Arc::clone(&self.oracle));
        let now = environment.now();
        // What arrives is seen by everybody at once.
        let mut arrive = move || {
            let value = effect();
            oracle.lock().unwrap_or_else(PoisonError::into_inner).changed = true;
            value
        };
        let tell = |at: i64, value: T| {
            let answer = answer.clone();
            environment.at(at, move || answer.give(value));
        };
        match fault {
            None | Some(SimFault::Slow(_)) => {
                let there = if let Some(SimFault::Slow(micros)) = fault { micros } else { there };
                let (answer, environment2) = (answer.clone(), environment.clone());
                environment.at(now + there, move || {
                    let value = arrive();
                    environment2.clone().at(environment2.now() + back, move || answer.give(value));
                });
            }
            Some(SimFault::Before) => tell(now + there, trouble("nothing happened")),
            Some(SimFault::After) => {
                let (answer, environment2) = (answer.clone(), environment.clone());
                environment.at(now + there, move || {
                    drop(arrive());
                    environment2
                        .clone()
                        .at(environment2.now() + back, move || answer.give(trouble("the answer was lost")));
                });
            }
            Some(SimFault::Late(late)) => {
                tell(now + there, trouble("it did not answer in time"));
                environment.at(now + there + late, move || drop(arrive()));
            }
            Some(SimFault::Hang(micros)) => tell(now + micros, trouble("nobody answered")),
            Some(SimFault::HangAfter(micros)) => {
                environment.at(now + there, move || drop(arrive()));
                tell(now + there + micros, trouble("nobody answered"));
            }
            Some(SimFault::Twice(later)) => {
                let (answer, environment2) = (answer.clone(), environment.clone());
                environment.at(now + there, move || {
                    let value = arrive();
                    environment2.clone().at(environment2.now() + back, move || answer.give(value));
                    let again = environment2.now() + later;
                    environment2.at(again, move || drop(arrive()));
                });
            }
            Some(SimFault::Refused) => tell(now + there, refused()),
            // Not by `panic!`, which would be printed thousands of times.
            Some(SimFault::Panic) => std::panic::resume_unwind(Box::new("a scripted panic")),
            Some(SimFault::CrashBefore) => self.environment.kill(self.process),
            Some(SimFault::CrashDone) => {
                let (environment2, process) = (environment.clone(), self.process);
                environment.at(now + there, move || {
                    drop(arrive());
                    environment2.kill(process);
                });
            }
            Some(SimFault::CrashAfter) => {
                let (answer, environment2, process) = (answer.clone(), environment.clone(), self.process);
                environment.at(now + there, move || {
                    let value = arrive();
                    let heard = environment2.now() + back;
                    let environment3 = environment2.clone();
                    environment2.at(heard, move || {
                        answer.give(value);
                        // Just after the answer was taken in.
                        environment3.clone().at(heard, move || environment3.kill(process));
                    });
                });
            }
        }
        answer.wait().await
    }
}

/// The store behind a line.
pub(super) struct FaultyStore(pub(super) FaultProxy);

fn away(what: &'static str) -> StoreError {
    StoreError::Unavailable(what.into())
}

impl FaultyStore {
    async fn ask<T: Send + 'static>(
        &self,
        point: FaultPoint,
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
    async fn claim(&self, new: &NewRental, placement: &Placement) -> Result<ClaimOutcome, ClaimError> {
        let about = About { phases: Vec::new(), ..self.0.about(new.id, || new.name.to_string()) };
        let (new, placement, store) = (new.clone(), placement.clone(), Arc::clone(&self.0.store));
        let effect = move || at_once(store.claim(&new, &placement));
        self.0
            .call(FaultPoint::Claim, about, effect, |what| Err(away(what).into()), || Err(away("refused").into()))
            .await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let events = || change.events().iter().map(|event| event.event.name()).collect::<Vec<_>>().join("+");
        let about = self.0.about(change.rental().id(), events);
        let (change, oracle, id) = (change.clone(), Arc::clone(&self.0.oracle), change.rental().id());
        for recorded in change.events() {
            match recorded.event {
                RentalEvent::Verified { .. } => {
                    self.0.oracle().readies(self.0.environment.now(), change.rental().launch());
                }
                RentalEvent::Extended { .. } => self.0.oracle().extends(id),
                _ => {}
            }
        }
        let committed = self.ask(FaultPoint::Commit, about, move |store| {
            let current = store.epoch_of(change.rental().host());
            let committed = at_once(store.commit(&change));
            let fenced = change.fence().is_some_and(|fence| Some(fence) != current);
            if committed.is_ok() && fenced {
                oracle.lock().unwrap_or_else(PoisonError::into_inner).report_violation(format!(
                    "I9: an observation of epoch {:?} was accepted in epoch {current:?}",
                    change.fence()
                ));
            }
            committed
        });
        committed.await?;
        self.0.oracle().knows(id);
        Ok(())
    }

    async fn get(&self, id: RentalId) -> Result<Option<Rental>, StoreError> {
        self.ask(FaultPoint::Get, self.0.about(id, String::new), move |store| at_once(store.get(id))).await
    }

    async fn of_container(&self, host: &HostId, container: &ContainerId) -> Result<Option<RentalId>, StoreError> {
        self.0.store.of_container(host, container).await
    }

    async fn live(&self, host: &HostId) -> Result<Vec<Rental>, StoreError> {
        let host = host.clone();
        self.ask(FaultPoint::Live, self.0.about_host(), move |store| at_once(store.live(&host))).await
    }

    async fn active(&self, host: &HostId) -> Result<Vec<Rental>, StoreError> {
        let host = host.clone();
        self.ask(FaultPoint::Live, self.0.about_host(), move |store| at_once(store.active(&host))).await
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

    async fn held(&self, host: &HostId) -> Result<Holds, StoreError> {
        let host = host.clone();
        self.ask(FaultPoint::Live, self.0.about_host(), move |store| at_once(store.held(&host))).await
    }

    async fn renter_has(&self, host: &HostId, renter: &RenterId, since: Timestamp) -> Result<RenterHas, StoreError> {
        let (host, renter) = (host.clone(), renter.clone());
        let effect = move |store: &MemoryStore| at_once(store.renter_has(&host, &renter, since));
        self.ask(FaultPoint::Live, self.0.about_host(), effect).await
    }

    async fn log_tail(&self, id: RentalId, now: Timestamp) -> Result<Option<Vec<String>>, StoreError> {
        at_once(self.0.store.log_tail(id, now))
    }

    async fn sealed(&self, id: RentalId) -> Result<Option<Sealed>, StoreError> {
        self.ask(FaultPoint::Sealed, self.0.about(id, String::new), move |store| at_once(store.sealed(id))).await
    }

    async fn events(&self, id: RentalId, after: Seq, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        at_once(self.0.store.events(id, after, limit))
    }

    async fn journal(&self, host: &HostId, after: Position, limit: usize) -> Result<Vec<JournalEntry>, StoreError> {
        let host = host.clone();
        self.ask(FaultPoint::Journal, self.0.about_host(), move |store| at_once(store.journal(&host, after, limit)))
            .await
    }
}

#[async_trait]
impl HostStore for FaultyStore {
    async fn acquire_host(
        &self,
        host: &HostId,
        engine: &EngineId,
        machine: Option<&MachineId>,
    ) -> Result<HostOwnership, StoreError> {
        let (host, engine, machine) = (host.clone(), engine.clone(), machine.cloned());
        let (oracle, process, number) = (Arc::clone(&self.0.oracle), self.0.process, self.0.host);
        let taken = self
            .ask(FaultPoint::TakeOver, self.0.about_host(), move |store| {
                at_once(store.acquire_host(&host, &engine, machine.as_ref()))
            })
            .await?;
        oracle.lock().unwrap_or_else(PoisonError::into_inner).took_over(process, number, taken.epoch);
        Ok(taken)
    }

    async fn confirm(&self, host: &HostId, owner: HostOwnership) -> Result<(), StoreError> {
        let host = host.clone();
        self.ask(FaultPoint::Confirm, self.0.about_host(), move |store| at_once(store.confirm(&host, owner))).await
    }

    async fn adopt(&self, found: &RecoveredRental, owner: HostOwnership) -> Result<(), StoreError> {
        let about = About { phases: Vec::new(), ..self.0.about(found.rental.id(), String::new) };
        let found = found.clone();
        self.ask(FaultPoint::Adopt, about, move |store| at_once(store.adopt(&found, owner))).await
    }

    async fn publish(
        &self,
        host: &HostId,
        owner: HostOwnership,
        limit: usize,
    ) -> Result<Vec<JournalEntry>, StoreError> {
        let host = host.clone();
        self.ask(FaultPoint::Publish, self.0.about_host(), move |store| at_once(store.publish(&host, owner, limit)))
            .await
    }
}

/// The engine behind a line.
pub(super) struct FaultyRuntime {
    pub(super) proxy: FaultProxy,
    pub(super) engine: MemoryRuntime,
}

struct Silent;

impl PullProgress for Silent {
    fn update(&self, _progress: Progress) {}
}

/// The observation of an engine that answers for running containers alone.
fn half_blind(mut observation: Observation) -> Observation {
    for seen in &mut observation.containers {
        if seen.status != ContainerStatus::Running {
            seen.status = ContainerStatus::Unknown;
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
        point: FaultPoint,
        about: About,
        effect: impl FnMut(&MemoryRuntime) -> Result<T, RuntimeError> + Send + 'static,
        refused: impl FnOnce() -> RuntimeError,
    ) -> Result<T, RuntimeError> {
        let (engine, mut effect) = (self.engine.clone(), effect);
        let (oracle, host) = (Arc::clone(&self.proxy.oracle), self.proxy.host);
        let reboots = move || oracle.lock().unwrap_or_else(PoisonError::into_inner).hosts[host].reboots;
        let before = reboots();
        // What was under way when the machine went down is gone with it.
        let effect = move || if reboots() == before { effect(&engine) } else { Err(gone("the machine went down")) };
        self.proxy.call(point, about, effect, |what| Err(gone(what)), || Err(refused())).await
    }

    /// Something is about to be changed on the engine.
    fn acts(&self, point: FaultPoint, launch: LaunchId) -> About {
        self.proxy.oracle().acts(self.proxy.process, self.proxy.host, point, launch);
        self.proxy.about(launch.rental, || format!("attempt {}", launch.attempt))
    }
}

#[async_trait]
impl ContainerRuntime for FaultyRuntime {
    async fn engine(&self) -> Result<EngineId, RuntimeError> {
        let about = self.proxy.about_host();
        self.ask(FaultPoint::Engine, about, |engine| at_once(engine.engine()), || gone("refused")).await
    }

    async fn prepare(
        &self,
        launch: &LaunchSpec,
        _registry: Option<&RegistryLogin>,
        _progress: &dyn PullProgress,
    ) -> Result<Prepared, RuntimeError> {
        let about = self.proxy.about(launch.id.rental, String::new);
        let image = launch.image.clone();
        let launch = launch.clone();
        let effect = move |engine: &MemoryRuntime| at_once(engine.prepare(&launch, None, &Silent));
        self.ask(FaultPoint::Prepare, about, effect, || RuntimeError::ImageUnavailable { image, source: "no".into() })
            .await
    }

    async fn create(&self, launch: &LaunchSpec, secrets: &Secrets) -> Result<Created, RuntimeError> {
        let about = self.acts(FaultPoint::Create, launch.id);
        let (launch, secrets) = (launch.clone(), secrets.clone());
        let effect = move |engine: &MemoryRuntime| at_once(engine.create(&launch, &secrets));
        self.ask(FaultPoint::Create, about, effect, || RuntimeError::Refused("no".into())).await
    }

    async fn start(&self, launch: &LaunchSpec) -> Result<Timestamp, RuntimeError> {
        let about = self.acts(FaultPoint::Start, launch.id);
        let port = launch.ports[0].host;
        let launch = launch.clone();
        let effect = move |engine: &MemoryRuntime| at_once(engine.start(&launch));
        self.ask(FaultPoint::Start, about, effect, || RuntimeError::PortTaken { port, source: "no".into() }).await
    }

    async fn verify(&self, launch: &LaunchSpec, within: Duration) -> Result<(), RuntimeError> {
        let about = self.proxy.about(launch.id.rental, String::new);
        let launch = launch.clone();
        let effect = move |engine: &MemoryRuntime| at_once(engine.verify(&launch, within));
        self.ask(FaultPoint::Verify, about, effect, || RuntimeError::AccessTimeout(within)).await
    }

    async fn replace_access(&self, launch: &LaunchSpec, secrets: &Secrets) -> Result<(), RuntimeError> {
        let about = self.acts(FaultPoint::ReplaceAccess, launch.id);
        let (launch, secrets) = (launch.clone(), secrets.clone());
        let effect = move |engine: &MemoryRuntime| at_once(engine.replace_access(&launch, &secrets));
        self.ask(FaultPoint::ReplaceAccess, about, effect, || gone("refused")).await
    }

    async fn message_user(&self, launch: LaunchId, message: &str) -> Result<(), RuntimeError> {
        let about = self.acts(FaultPoint::Announce, launch);
        let message = message.to_owned();
        let effect = move |engine: &MemoryRuntime| at_once(engine.message_user(launch, &message));
        self.ask(FaultPoint::Announce, about, effect, || gone("refused")).await
    }

    async fn signal_stop(&self, launch: LaunchId) -> Result<(), RuntimeError> {
        let about = self.acts(FaultPoint::Notify, launch);
        self.ask(FaultPoint::Notify, about, move |engine| at_once(engine.signal_stop(launch)), || gone("refused")).await
    }

    async fn stop(&self, launch: LaunchId, grace: Duration) -> Result<Option<Exit>, RuntimeError> {
        let about = self.acts(FaultPoint::Stop, launch);
        let (oracle, environment, host) =
            (Arc::clone(&self.proxy.oracle), self.proxy.environment.clone(), self.proxy.host);
        let effect = move |engine: &MemoryRuntime| {
            oracle.lock().unwrap_or_else(PoisonError::into_inner).stops(&environment, host, launch);
            at_once(engine.stop(launch, grace))
        };
        self.ask(FaultPoint::Stop, about, effect, || gone("refused")).await
    }

    async fn retain(&self, launch: LaunchId) -> Result<Option<Retained>, RuntimeError> {
        let about = self.acts(FaultPoint::Retain, launch);
        let (oracle, environment, host) =
            (Arc::clone(&self.proxy.oracle), self.proxy.environment.clone(), self.proxy.host);
        let effect = move |engine: &MemoryRuntime| {
            oracle.lock().unwrap_or_else(PoisonError::into_inner).retains(environment.now(), host, launch);
            at_once(engine.retain(launch))
        };
        self.ask(FaultPoint::Retain, about, effect, || gone("refused")).await
    }

    async fn remove(&self, launch: LaunchId) -> Result<(), RuntimeError> {
        let about = self.acts(FaultPoint::Remove, launch);
        let (oracle, environment, host) =
            (Arc::clone(&self.proxy.oracle), self.proxy.environment.clone(), self.proxy.host);
        let effect = move |engine: &MemoryRuntime| {
            oracle.lock().unwrap_or_else(PoisonError::into_inner).removes(environment.now(), host, launch);
            at_once(engine.remove(launch))
        };
        self.ask(FaultPoint::Remove, about, effect, || gone("refused")).await
    }

    async fn inspect(&self, launch: LaunchId) -> Result<Option<InspectedContainer>, RuntimeError> {
        let about = About { phases: Vec::new(), ..self.proxy.about(launch.rental, String::new) };
        self.ask(FaultPoint::Examine, about, move |engine| at_once(engine.inspect(launch)), || gone("refused")).await
    }

    async fn observe(&self, host: &HostId) -> Result<Observation, RuntimeError> {
        let about = self.proxy.about_host();
        let (engine, host) = (self.engine.clone(), host.clone());
        let observe = move || at_once(engine.observe(&host));
        let half_blind = {
            let observe = observe.clone();
            move || observe().map(half_blind)
        };
        self.proxy.call(FaultPoint::Observe, about, observe, |what| Err(gone(what)), half_blind).await
    }

    async fn disk_use(&self, launch: &LaunchSpec, most: Written) -> Result<Written, RuntimeError> {
        let about = self.proxy.about(launch.id.rental, String::new);
        let launch = launch.clone();
        let effect = move |engine: &MemoryRuntime| at_once(engine.disk_use(&launch, most));
        self.ask(FaultPoint::DiskUse, about, effect, || gone("refused")).await
    }

    async fn services(&self, launch: LaunchId, ports: &[PortBinding]) -> Result<Vec<Service>, RuntimeError> {
        let about = self.proxy.about(launch.rental, String::new);
        let ports = ports.to_vec();
        let effect = move |engine: &MemoryRuntime| at_once(engine.services(launch, &ports));
        self.ask(FaultPoint::Services, about, effect, || gone("refused")).await
    }

    fn publishes_udp(&self) -> bool {
        self.engine.publishes_udp()
    }

    fn isolation(&self) -> Isolation {
        self.engine.isolation()
    }

    async fn logs(&self, launch: LaunchId, lines: usize) -> Result<Vec<String>, RuntimeError> {
        let about = self.proxy.about(launch.rental, String::new);
        self.ask(FaultPoint::Logs, about, move |engine| at_once(engine.logs(launch, lines)), || gone("refused")).await
    }
}

/// The host's book on a disk that may be full.
pub(super) struct FaultyBook {
    pub(super) proxy: FaultProxy,
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
        let (book, about) = (self.book.clone(), self.proxy.about_host());
        let effect = move || at_once(book.read());
        self.proxy.call(FaultPoint::ReadBook, about, effect, |what| Err(full(what)), || Err(full("refused"))).await
    }

    async fn write(&self, deadlines: &[Deadline]) -> Result<(), DeadlineError> {
        let (book, about, deadlines) = (self.book.clone(), self.proxy.about_host(), deadlines.to_vec());
        let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let (written, environment, process) =
            (Arc::clone(&self.written), self.proxy.environment.clone(), self.proxy.process);
        let effect = move || {
            // A disk that hangs keeps a killed process, and with it the machine's lock, until the write is through.
            if written.fetch_max(number, Ordering::Relaxed) > number || environment.is_dead(process) {
                return Ok(());
            }
            at_once(book.write(&deadlines))
        };
        self.proxy.call(FaultPoint::WriteBook, about, effect, |what| Err(full(what)), || Err(full("refused"))).await
    }
}
