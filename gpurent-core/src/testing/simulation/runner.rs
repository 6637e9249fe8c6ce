//! Lives one history through: the processes, and the order in which they go on. What happens to them is in `actions`.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use uuid::Uuid;

use crate::allocation::{DiskLimit, PortPools};
use crate::host::{Followed, HostBuilder, ReconcileConfig, Rentals};
use crate::id::{HostId, Position, RentalId};
use crate::memory::{MemoryDeadlines, MemoryRuntime, MemoryStore, SimulatedGpus, StoreSnapshot};
use crate::model::{DiskUse, Gpu, HostKeys, HourlyRate, MicroUnits, RateCard, SealKey};
use crate::testing::simulation::environment::{Environment, Faults, HostNo, MachineClock, ProcessId, at_once};
use crate::testing::simulation::fault_point::Coverage;
use crate::testing::simulation::oracle::Oracle;
use crate::testing::simulation::proxy::{FaultProxy, FaultyBook, FaultyRuntime, FaultyStore};
use crate::testing::simulation::rng::{Purpose, Rng};
use crate::testing::simulation::schedule::ScheduledAction;
use crate::testing::simulation::{Simulation, Verdict};

pub(super) const SECOND: i64 = 1_000_000;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct Woken(pub(super) AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(super) struct Running {
    pub(super) process: ProcessId,
    pub(super) is_agent: bool,
    pub(super) woken: Arc<Woken>,
    pub(super) task: Task,
}

pub(super) struct Process {
    pub(super) host: HostNo,
    pub(super) alive: bool,
    /// SIGSTOP, until then.
    pub(super) paused_until: i64,
    /// Started again when it ends by itself.
    pub(super) supervised: bool,
    pub(super) rentals: Rentals,
    pub(super) shutdown: Arc<AtomicBool>,
    pub(super) ended: Arc<AtomicBool>,
}

pub(super) struct Host {
    pub(super) id: HostId,
    pub(super) gpus: Vec<Gpu>,
    pub(super) book: MemoryDeadlines,
    /// No agent is to be started before then.
    pub(super) down_until: i64,
    pub(super) down_since: Option<i64>,
    pub(super) had_rivals: bool,
}

/// One history under way.
pub(super) struct Run {
    pub(super) environment: Environment,
    pub(super) oracle: Arc<Mutex<Oracle>>,
    pub(super) store: Arc<MemoryStore>,
    pub(super) hosts: Vec<Host>,
    pub(super) processes: Vec<Process>,
    pub(super) tasks: Vec<Running>,
    pub(super) turns: u32,
    pub(super) ids: Arc<AtomicU64>,
    pub(super) number: u64,
    pub(super) policy: Simulation,
    pub(super) backup: Option<StoreSnapshot>,
    /// Changes of rentals are not asked for before then: one that is made between a restoration and its
    /// being noticed can be lost with it.
    pub(super) deaf_until: i64,
    pub(super) sealer: Arc<SealKey>,
}

pub(super) use crate::testing::valid;

impl Run {
    pub(super) fn new(number: u64, policy: &Simulation, faults: Faults, traced: bool) -> Self {
        let environment = Environment::new(number, policy.hosts, faults, traced);
        let store = Arc::new(MemoryStore::default());
        let hosts: Vec<_> = (0..policy.hosts)
            .map(|n| {
                let id: HostId = valid(format!("host-{n}").parse());
                let gpus = SimulatedGpus::new(&id, policy.gpus, valid("RTX 5090".parse())).gpus().to_vec();
                Host {
                    id,
                    gpus,
                    book: MemoryDeadlines::default(),
                    down_until: 0,
                    down_since: Some(0),
                    had_rivals: false,
                }
            })
            .collect();
        let engines = hosts.iter().enumerate().map(|(n, host)| {
            let engine = MemoryRuntime::with_clock(Arc::new(environment.clock(n)));
            engine.serve(true);
            (host.id.clone(), engine)
        });
        let provisioning = i64::try_from(policy.timing.provisioning.as_micros()).unwrap_or(i64::MAX);
        let oracle = Arc::new(Mutex::new(Oracle::new(Arc::clone(&store), engines.collect(), provisioning)));
        Self {
            environment,
            oracle,
            store,
            hosts,
            processes: Vec::new(),
            tasks: Vec::new(),
            turns: 0,
            ids: Arc::default(),
            number,
            policy: policy.clone(),
            backup: None,
            deaf_until: 0,
            sealer: Arc::new(valid(SealKey::from_hex(&"5".repeat(64)))),
        }
    }

    pub(super) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts an agent of a host. All agents of one host have its machine's clock and its book, as those on one
    /// machine with one data directory have.
    pub(super) fn start(&mut self, host: HostNo, supervised: bool, handover: bool) -> ProcessId {
        let process = self.processes.len();
        if handover {
            // Until the former holder's lease is surely over it looks at nothing.
            let waits = i64::try_from(self.policy.config.lease.as_micros()).unwrap_or(i64::MAX);
            self.oracle().hosts[host].unattended += waits;
        }
        let here = &mut self.hosts[host];
        if let Some(since) = here.down_since.take() {
            let unattended = self.environment.now() - since;
            self.oracle.lock().unwrap_or_else(PoisonError::into_inner).hosts[host].unattended += unattended;
        }
        let proxy = FaultProxy {
            environment: self.environment.clone(),
            oracle: Arc::clone(&self.oracle),
            store: Arc::clone(&self.store),
            process,
            host,
            host_id: here.id.clone(),
        };
        let engine = self.oracle().hosts[host].engine.clone();
        let here = &self.hosts[host];
        let clock: MachineClock = self.environment.clock(host);
        let (ids, number) = (Arc::clone(&self.ids), self.number);
        let config = self.policy.config.clone();
        let config = ReconcileConfig { handover: if handover { config.lease } else { Duration::ZERO }, ..config };
        let rate = valid(HourlyRate::new(MicroUnits::new(3_600_000)));
        let (rentals, reconciler) = HostBuilder::new(
            here.id.clone(),
            Arc::new(FaultyStore(proxy.clone())),
            Arc::new(FaultyRuntime { proxy: proxy.clone(), engine }),
            Arc::clone(&self.sealer) as _,
            here.gpus.clone(),
            valid(PortPools::new(valid("22000-22019".parse()), valid("8000-8019".parse()))),
        )
        .clock(Arc::new(clock))
        .allocator(Arc::clone(&self.policy.allocator))
        .timing(self.policy.timing.clone())
        .reconcile_config(config)
        .prices(RateCard::new(valid("USD".to_owned().try_into())).with(valid("RTX 5090".parse()), rate))
        .offer_workspaces()
        .limit_disk(DiskLimit::PerGpu(DiskUse {
            bytes: crate::testing::simulation::oracle::DISK_LIMIT,
            files: u64::MAX,
        }))
        .host_keys(Arc::new(HostKeys::default))
        .deadlines(Arc::new(FaultyBook {
            proxy,
            book: here.book.clone(),
            asked: AtomicU64::new(0),
            written: Arc::default(),
        }))
        .ids(Arc::new(move || {
            let n = ids.fetch_add(1, Ordering::Relaxed);
            let mut draw = Rng::of(number).draw(Purpose::Happening, u32::try_from(n + 1).unwrap_or(1));
            let bits = u128::from(draw.below(u64::MAX)) << 64 | u128::from(draw.below(u64::MAX));
            RentalId::from(Uuid::from_u128(bits))
        }))
        .build();
        let (shutdown, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (until, says_ended, environment) = (Arc::clone(&shutdown), Arc::clone(&ended), self.environment.clone());
        let sleeper = self.environment.clone();
        let name = here.id.clone();
        let task = async move {
            let waits = poll_fn(move |_| if until.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending });
            let result = reconciler.run(move |time| sleeper.sleep(time), waits).await;
            environment.trace(|| format!("process {process} of {name} ends: {result:?}"));
            says_ended.store(true, Ordering::Relaxed);
        };
        self.environment.trace(|| format!("process {process} starts for host {host}"));
        let process_now = Process { host, alive: true, paused_until: 0, supervised, rentals, shutdown, ended };
        self.processes.push(process_now);
        self.environment.trouble(host);
        self.spawn(process, task);
        if let Some(agent) = self.tasks.last_mut() {
            agent.is_agent = true;
        }
        self.follow(process);
        process
    }

    /// A subscriber: it hears every entry of the journal once, in order.
    fn follow(&mut self, process: ProcessId) {
        let (rentals, environment) = (self.processes[process].rentals.clone(), self.environment.clone());
        let oracle = Arc::clone(&self.oracle);
        self.spawn(process, async move {
            let mut at = Position::ZERO;
            let mut follower = rentals.follow(at);
            loop {
                match follower.next().await {
                    Ok(Followed::Entry(entry)) => {
                        let restored = oracle.lock().unwrap_or_else(PoisonError::into_inner).restored;
                        if entry.position != at.next() && !restored {
                            environment.broken(format!("a subscriber at {at} hears {} next", entry.position));
                        }
                        at = entry.position;
                    }
                    Ok(Followed::Progress { .. }) => {}
                    Err(_store) => environment.sleep(Duration::from_secs(1)).await,
                }
            }
        });
    }

    pub(super) fn spawn(&mut self, process: ProcessId, task: impl Future<Output = ()> + Send + 'static) {
        let is_agent = false;
        self.tasks.push(Running {
            process,
            is_agent,
            woken: Arc::new(Woken(AtomicBool::new(true))),
            task: Box::pin(task),
        });
    }

    pub(super) fn kill(&mut self, process: ProcessId, down: i64) {
        let now = self.environment.now();
        if !std::mem::replace(&mut self.processes[process].alive, false) {
            return;
        }
        self.environment.trace(|| format!("process {process} is dead"));
        self.environment.buried(process);
        self.oracle().agent_dies();
        self.tasks.retain(|task| task.process != process);
        let host = self.processes[process].host;
        self.environment.trouble(host);
        if !self.is_attended(host) {
            self.hosts[host].down_since = Some(now);
            self.hosts[host].down_until = self.hosts[host].down_until.max(now + down);
            self.environment.trouble_until(host, now + down);
            // Something happens when it is to be started again.
            self.environment.at(self.hosts[host].down_until, || {});
        }
    }

    fn is_attended(&self, host: HostNo) -> bool {
        self.processes.iter().any(|process| process.alive && process.host == host)
    }

    /// The agent that is there, and is not stopped.
    pub(super) fn agent(&self, host: HostNo) -> Option<ProcessId> {
        let now = self.environment.now();
        self.processes.iter().rposition(|process| process.alive && process.host == host && process.paused_until <= now)
    }

    /// Lives until `until`, or until something breaks.
    fn live_until(&mut self, until: i64) {
        loop {
            self.poll_all();
            self.reap();
            if self.environment.what_broke().is_some() {
                return;
            }
            let now = self.environment.now();
            for host in 0..self.hosts.len() {
                if !self.is_attended(host) && self.hosts[host].down_until <= now {
                    self.start(host, true, false);
                }
            }
            if self.tasks.iter().any(|task| task.woken.0.load(Ordering::Relaxed) && self.may_run(task.process)) {
                continue;
            }
            if !self.environment.go_on(until) && self.environment.now() >= until {
                return;
            }
            let oracle = Arc::clone(&self.oracle);
            let mut oracle = oracle.lock().unwrap_or_else(PoisonError::into_inner);
            oracle.check(&self.environment);
            oracle.check_lateness(&self.environment, |host| self.agent(host).is_some());
        }
    }

    fn may_run(&self, process: ProcessId) -> bool {
        self.processes[process].paused_until <= self.environment.now()
    }

    /// Lets everybody go on who was woken, in an order that chance chooses.
    fn poll_all(&mut self) {
        loop {
            let ready: Vec<usize> = (0..self.tasks.len())
                .filter(|n| self.tasks[*n].woken.0.load(Ordering::Relaxed) && self.may_run(self.tasks[*n].process))
                .collect();
            if ready.is_empty() {
                return;
            }
            self.turns += 1;
            let choice = self.environment.draw(Purpose::Turn, self.turns & 0x7fff_ffff).below(ready.len() as u64);
            let n = ready[usize::try_from(choice).unwrap_or(0)];
            let running = &mut self.tasks[n];
            running.woken.0.store(false, Ordering::Relaxed);
            let waker = Waker::from(Arc::clone(&running.woken));
            let process = running.process;
            let poll = AssertUnwindSafe(|| running.task.as_mut().poll(&mut Context::from_waker(&waker)));
            match catch_unwind(poll) {
                Ok(Poll::Pending) => {}
                Ok(Poll::Ready(())) => drop(self.tasks.swap_remove(n)),
                // Out of the agent itself, which is its end; out of a request, which is the request's.
                Err(_panic) => {
                    let running = self.tasks.swap_remove(n);
                    if running.is_agent {
                        self.kill(process, SECOND / 2);
                    }
                }
            }
            let dying = self.environment.take_dying();
            for process in dying {
                self.kill(process, SECOND / 2);
            }
        }
    }

    /// Processes that died, or that ended by themselves.
    fn reap(&mut self) {
        for process in self.environment.take_dying() {
            self.kill(process, SECOND / 2);
        }
        for process in 0..self.processes.len() {
            if self.processes[process].alive && self.processes[process].ended.load(Ordering::Relaxed) {
                self.kill(process, SECOND);
            }
        }
    }

    /// Lives through everything, lets calm come, and ends what is left.
    pub(super) fn live(mut self, actions: &[ScheduledAction]) -> Verdict {
        for scheduled in actions {
            self.live_until(scheduled.at);
            if self.environment.what_broke().is_some() {
                return self.verdict();
            }
            self.apply(&scheduled.what);
            // Before time goes on: when it happened is a part of what happened.
            self.oracle().check(&self.environment);
        }
        self.live_until(self.policy.chaos);
        self.environment.be_calm();
        self.environment.trace(|| "-- calm".to_owned());
        // What was sent before may still arrive, and what hangs, hang on.
        let last_fault = self.policy.chaos + self.policy.echoes;
        self.live_until(last_fault.max(self.hosts.iter().map(|host| host.down_until).max().unwrap_or(0)));
        self.live_within(60 * SECOND, |oracle, now| oracle.disorder(now).is_none());
        if self.environment.what_broke().is_none() {
            self.oracle().check_calm(&self.environment);
        }
        for rental in self.store.all().into_iter().filter(crate::model::Rental::is_live) {
            let Some(host) = self.hosts.iter().position(|host| host.id == *rental.host()) else { continue };
            let Some(process) = self.agent(host) else { continue };
            let rentals = self.processes[process].rentals.clone();
            self.spawn(process, async move { drop(rentals.cancel(rental.id()).await) });
        }
        self.live_within(60 * SECOND, |oracle, _| oracle.is_over());
        // Till the last event is published.
        self.live_until(self.environment.now() + 3 * SECOND);
        if self.environment.what_broke().is_none() {
            self.oracle().check_end(&self.environment);
        }
        self.check_fixpoint();
        self.verdict()
    }

    /// Lives on until it is so, for at most so long.
    fn live_within(&mut self, most: i64, is_so: impl Fn(&mut Oracle, i64) -> bool) {
        let until = self.environment.now() + most;
        while self.environment.now() < until
            && self.environment.what_broke().is_none()
            && !is_so(&mut self.oracle(), self.environment.now())
        {
            self.live_until((self.environment.now() + 3 * SECOND).min(until));
        }
    }

    /// Nothing is left to do, and so nothing is written.
    fn check_fixpoint(&mut self) {
        let before = self.store.writes();
        self.live_until(self.environment.now() + 16 * SECOND);
        if self.store.writes() != before {
            self.environment.broken("at the fixpoint something is written".to_owned());
        }
        // Where two agents wrote one book, which the engine's lock keeps them from, the next start strikes out what is left.
        for host in self.hosts.iter().filter(|host| !host.had_rivals) {
            if !at_once(crate::store::DeadlineBook::read(&host.book)).unwrap_or_default().is_empty() {
                self.environment.broken("a deadline is never struck out".to_owned());
            }
        }
    }

    fn verdict(self) -> Verdict {
        let (calls, effects, injected) = self.environment.counts();
        let broken = self.environment.what_broke();
        let drawn: BTreeSet<u32> = self.environment.drawn().into_iter().collect();
        let coverage: Coverage = self.environment.coverage();
        let trace = self.environment.take_trace();
        Verdict { broken, calls, effects, faults: injected, drawn, coverage, trace }
    }
}
