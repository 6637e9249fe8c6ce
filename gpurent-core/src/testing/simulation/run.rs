//! Lives one history through: processes, the order in which they go on, and what befalls them.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use jiff::SignedDuration;
use uuid::Uuid;

use super::chance::{Chance, Purpose};
use super::faulty::{FaultyBook, FaultyRuntime, FaultyStore, Line, at_once};
use super::history::{Happening, LATEST, What};
use super::point::Coverage;
use super::truth::Truth;
use super::world::{Faults, HostNo, MachineClock, ProcessId, World};
use super::{Simulation, Verdict};
use crate::access::{CredentialRequest, Password};
use crate::builder::HostBuilder;
use crate::follow::Followed;
use crate::gpu::{Gpu, GpuRequest};
use crate::id::{HostId, LaunchId, Position, RentalId};
use crate::memory::{MemoryDeadlines, MemoryRuntime, MemoryStore, SimulatedGpus, StoreSnapshot};
use crate::money::{HourlyRate, MicroUnits, RateCard};
use crate::port::PortPools;
use crate::reconcile::Pace;
use crate::rentals::{Extension, RentError, Rentals};
use crate::runtime::Presence;
use crate::seal::SealKey;
use crate::spec::{RentalRequest, RentalSpec, Term};

const SECOND: i64 = 1_000_000;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Running {
    process: ProcessId,
    is_agent: bool,
    woken: Arc<Woken>,
    task: Task,
}

struct Process {
    host: HostNo,
    alive: bool,
    /// SIGSTOP, until then.
    paused_until: i64,
    /// Started again when it ends by itself.
    supervised: bool,
    rentals: Rentals,
    shutdown: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

struct Host {
    id: HostId,
    gpus: Vec<Gpu>,
    book: MemoryDeadlines,
    /// No agent is to be started before then.
    down_until: i64,
    down_since: Option<i64>,
}

/// One history under way.
pub(super) struct Run {
    world: World,
    truth: Arc<Mutex<Truth>>,
    store: Arc<MemoryStore>,
    hosts: Vec<Host>,
    processes: Vec<Process>,
    tasks: Vec<Running>,
    turns: u32,
    ids: Arc<AtomicU64>,
    number: u64,
    policy: Simulation,
    backup: Option<StoreSnapshot>,
    /// Changes of rentals are not asked for before then: one that is made between a restoration and its
    /// being noticed can be lost with it.
    deaf_until: i64,
    sealer: Arc<SealKey>,
}

fn valid<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("the simulation's own data is valid: {error:?}"))
}

impl Run {
    pub(super) fn new(number: u64, policy: &Simulation, faults: Faults, traced: bool) -> Self {
        let world = World::new(number, policy.hosts, faults, traced);
        let store = Arc::new(MemoryStore::default());
        let hosts: Vec<_> = (0..policy.hosts)
            .map(|n| {
                let id: HostId = valid(format!("host-{n}").parse());
                let gpus = SimulatedGpus::new(&id, policy.gpus, valid("RTX 5090".parse())).gpus().to_vec();
                Host { id, gpus, book: MemoryDeadlines::default(), down_until: 0, down_since: Some(0) }
            })
            .collect();
        let engines = hosts
            .iter()
            .enumerate()
            .map(|(n, host)| (host.id.clone(), MemoryRuntime::with_clock(Arc::new(world.clock(n)))));
        let provisioning = i64::try_from(policy.timing.provisioning.as_micros()).unwrap_or(i64::MAX);
        let truth = Arc::new(Mutex::new(Truth::new(Arc::clone(&store), engines.collect(), provisioning)));
        Self {
            world,
            truth,
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

    fn truth(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts an agent of a host. A rival runs on a machine, and with a book, of its own.
    fn start(&mut self, host: HostNo, supervised: bool, handover: bool) -> ProcessId {
        let process = self.processes.len();
        let here = &mut self.hosts[host];
        if let Some(since) = here.down_since.take() {
            let unattended = self.world.now() - since;
            self.truth.lock().unwrap_or_else(PoisonError::into_inner).hosts[host].unattended += unattended;
        }
        let line = Line {
            world: self.world.clone(),
            truth: Arc::clone(&self.truth),
            store: Arc::clone(&self.store),
            process,
            host,
            host_id: here.id.clone(),
        };
        let engine = self.truth().hosts[host].engine.clone();
        let here = &self.hosts[host];
        let clock: MachineClock = self.world.clock(host);
        let (ids, number) = (Arc::clone(&self.ids), self.number);
        let pace = self.policy.pace.clone();
        let pace = Pace { handover: if handover { pace.lease } else { Duration::ZERO }, ..pace };
        let rate = valid(HourlyRate::new(MicroUnits::new(3_600_000)));
        let (rentals, reconciler) = HostBuilder::new(
            here.id.clone(),
            Arc::new(FaultyStore(line.clone())),
            Arc::new(FaultyRuntime { line: line.clone(), engine }),
            Arc::clone(&self.sealer) as _,
            here.gpus.clone(),
            valid(PortPools::new(valid("22000-22019".parse()), valid("8000-8019".parse()))),
        )
        .clock(Arc::new(clock))
        .allocator(Arc::clone(&self.policy.allocator))
        .timing(self.policy.timing.clone())
        .pace(pace)
        .prices(RateCard::new(valid("USD".to_owned().try_into())).with(valid("RTX 5090".parse()), rate))
        .deadlines(Arc::new(FaultyBook { line, book: here.book.clone() }))
        .ids(Arc::new(move || {
            let n = ids.fetch_add(1, Ordering::Relaxed);
            let mut draw = Chance::of(number).draw(Purpose::Happening, u32::try_from(n + 1).unwrap_or(1));
            let bits = u128::from(draw.below(u64::MAX)) << 64 | u128::from(draw.below(u64::MAX));
            RentalId::from(Uuid::from_u128(bits))
        }))
        .build();
        let (shutdown, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (until, says_ended, world) = (Arc::clone(&shutdown), Arc::clone(&ended), self.world.clone());
        let sleeper = self.world.clone();
        let name = here.id.clone();
        let task = async move {
            let waits = poll_fn(move |_| if until.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending });
            let result = reconciler.run(move |time| sleeper.sleep(time), waits).await;
            world.tell(|| format!("process {process} of {name} ends: {result:?}"));
            says_ended.store(true, Ordering::Relaxed);
        };
        self.world.tell(|| format!("process {process} starts for host {host}"));
        let process_now = Process { host, alive: true, paused_until: 0, supervised, rentals, shutdown, ended };
        self.processes.push(process_now);
        self.world.trouble(host);
        self.spawn(process, task);
        if let Some(agent) = self.tasks.last_mut() {
            agent.is_agent = true;
        }
        self.follow(process);
        process
    }

    /// A subscriber: it hears every entry of the journal once, in order.
    fn follow(&mut self, process: ProcessId) {
        let (rentals, world) = (self.processes[process].rentals.clone(), self.world.clone());
        let truth = Arc::clone(&self.truth);
        self.spawn(process, async move {
            let mut at = Position::ZERO;
            let mut follower = rentals.follow(at);
            loop {
                match follower.next().await {
                    Ok(Followed::Entry(entry)) => {
                        let restored = truth.lock().unwrap_or_else(PoisonError::into_inner).restored;
                        if entry.position != at.next() && !restored {
                            world.broken(format!("a subscriber at {at} hears {} next", entry.position));
                        }
                        at = entry.position;
                    }
                    Ok(Followed::Progress { .. }) => {}
                    Err(_store) => world.sleep(Duration::from_secs(1)).await,
                }
            }
        });
    }

    fn spawn(&mut self, process: ProcessId, task: impl Future<Output = ()> + Send + 'static) {
        let is_agent = false;
        self.tasks.push(Running {
            process,
            is_agent,
            woken: Arc::new(Woken(AtomicBool::new(true))),
            task: Box::pin(task),
        });
    }

    fn kill(&mut self, process: ProcessId, down: i64) {
        let now = self.world.now();
        if !std::mem::replace(&mut self.processes[process].alive, false) {
            return;
        }
        self.world.tell(|| format!("process {process} is dead"));
        self.tasks.retain(|task| task.process != process);
        let host = self.processes[process].host;
        self.world.trouble(host);
        if !self.is_attended(host) {
            self.hosts[host].down_since = Some(now);
            self.hosts[host].down_until = self.hosts[host].down_until.max(now + down);
            self.world.trouble_until(host, now + down);
            // Something happens when it is to be started again.
            self.world.at(self.hosts[host].down_until, || {});
        }
    }

    fn is_attended(&self, host: HostNo) -> bool {
        self.processes.iter().any(|process| process.alive && process.host == host)
    }

    /// The agent that is there, and is not stopped.
    fn agent(&self, host: HostNo) -> Option<ProcessId> {
        let now = self.world.now();
        self.processes.iter().rposition(|process| process.alive && process.host == host && process.paused_until <= now)
    }

    /// Lives until `until`, or until something breaks.
    fn live_until(&mut self, until: i64) {
        loop {
            self.poll_all();
            self.bury();
            if self.world.what_broke().is_some() {
                return;
            }
            let now = self.world.now();
            for host in 0..self.hosts.len() {
                if !self.is_attended(host) && self.hosts[host].down_until <= now {
                    self.start(host, true, false);
                }
            }
            if self.tasks.iter().any(|task| task.woken.0.load(Ordering::Relaxed) && self.may_run(task.process)) {
                continue;
            }
            if !self.world.go_on(until) && self.world.now() >= until {
                return;
            }
            let truth = Arc::clone(&self.truth);
            let mut truth = truth.lock().unwrap_or_else(PoisonError::into_inner);
            truth.check(&self.world);
            truth.check_lateness(&self.world, |host| self.agent(host).is_some());
        }
    }

    fn may_run(&self, process: ProcessId) -> bool {
        self.processes[process].paused_until <= self.world.now()
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
            let choice = self.world.draw(Purpose::Turn, self.turns & 0x7fff_ffff).below(ready.len() as u64);
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
            let dying = self.world.take_dying();
            for process in dying {
                self.kill(process, SECOND / 2);
            }
        }
    }

    /// Processes that died, or that ended by themselves.
    fn bury(&mut self) {
        for process in self.world.take_dying() {
            self.kill(process, SECOND / 2);
        }
        for process in 0..self.processes.len() {
            if self.processes[process].alive && self.processes[process].ended.load(Ordering::Relaxed) {
                self.kill(process, SECOND);
            }
        }
    }

    fn launch(&self, nth: u64) -> Option<(HostNo, LaunchId)> {
        let launches: Vec<_> = {
            let truth = self.truth();
            let each = truth.hosts.iter().enumerate();
            each.flat_map(|(n, host)| {
                let running = host.engine.glance().into_iter().filter(|seen| seen.presence == Presence::Running);
                running.map(move |seen| (n, seen.launch)).collect::<Vec<_>>()
            })
            .collect()
        };
        launches.get(usize::try_from(nth).ok()?.checked_rem(launches.len())?).copied()
    }

    fn rental(&self, nth: u64) -> Option<(HostNo, RentalId)> {
        let live: Vec<_> = self.store.all().into_iter().filter(crate::rental::Rental::is_live).collect();
        let rental = match nth {
            LATEST => live.iter().max_by_key(|rental| rental.created_at())?,
            nth => live.get(usize::try_from(nth).ok()?.checked_rem(live.len())?)?,
        };
        let host = self.hosts.iter().position(|host| host.id == *rental.host())?;
        Some((host, rental.id()))
    }

    fn befall(&mut self, what: &What) {
        let now = self.world.now();
        self.world.tell(|| format!("-- {what:?}"));
        match *what {
            What::Rent { host, gpus, term_secs, key, times } => {
                for _ in 0..times {
                    self.rent(host, gpus, term_secs, key);
                }
            }
            What::Cancel { nth } => {
                self.ask(nth, |rentals, id, _| async move { drop(rentals.cancel(id).await) }.boxed());
            }
            What::Extend { nth, secs } => self.ask(nth, move |rentals, id, truth| {
                async move {
                    let by = Extension::By(valid(Term::fixed(SignedDuration::from_secs(secs))));
                    if let Ok(Some(rental)) = rentals.extend(id, by).await {
                        let term = rental.spec().term;
                        truth.lock().unwrap_or_else(PoisonError::into_inner).promises_term(id, term);
                    }
                }
                .boxed()
            }),
            What::ChangeAccess { nth } => self.ask(nth, |rentals, id, _| {
                let password = valid(Password::new("another-password".to_owned()));
                async move { drop(rentals.change_access(id, CredentialRequest::Password(password)).await) }.boxed()
            }),
            What::Exit { nth, out_of_memory } => {
                if let Some((host, launch)) = self.launch(nth) {
                    self.truth().hosts[host].engine.exit(launch, 137, out_of_memory);
                    self.truth().changed = true;
                }
            }
            What::Lose { nth } => {
                if let Some((host, launch)) = self.launch(nth) {
                    self.truth().hosts[host].engine.lose(launch);
                    self.truth().changed = true;
                }
            }
            What::SetWallClock { host, secs } => self.world.set_wall(host, SignedDuration::from_secs(secs)),
            What::Reboot { host, down } => self.reboot(host, down),
            What::EngineAway { host, lasts } => {
                self.truth().engine_is_away(host, now, lasts);
                self.world.trouble_until(host, now + lasts);
            }
            What::EngineRestart { host, lasts } => {
                self.truth().engine_is_away(host, now, lasts);
                self.world.trouble_until(host, now + lasts);
                self.end_containers(host);
            }
            What::StoreAway { lasts } => self.truth().store_is_away(now, lasts),
            What::StoreHangs { lasts } => self.truth().store_hangs(now, lasts),
            What::DiskFull { host, lasts } => {
                self.truth().disk_is_full(host, now + lasts);
                // What was not written down is not known when the store is away: not before the next life.
                self.world.trouble_until(host, i64::MAX / 2);
            }
            What::Kill { host, down } => {
                if let Some(process) = self.agent(host) {
                    self.kill(process, down);
                }
            }
            What::Terminate { host, down } => {
                if let Some(process) = self.agent(host) {
                    self.world.trouble_until(host, now + 20 * SECOND);
                    self.hosts[host].down_until = now + down;
                    self.processes[process].shutdown.store(true, Ordering::Relaxed);
                    for task in self.tasks.iter().filter(|task| task.process == process) {
                        task.woken.0.store(true, Ordering::Relaxed);
                    }
                }
            }
            What::Pause { host, lasts } => {
                if let Some(process) = self.agent(host) {
                    self.pause(process, now + lasts);
                }
            }
            What::Rival { host, wakes } => {
                let Some(former) = self.agent(host) else { return };
                self.pause(former, now + wakes);
                self.processes[former].supervised = false;
                self.start(host, false, true);
                self.world.trouble_until(host, now + wakes + 20 * SECOND);
            }
            What::Backup => self.backup = Some(self.store.snapshot()),
            What::Restore => {
                let Some(backup) = self.backup.clone() else { return };
                self.store.restore(backup);
                // It takes a while, in which nobody gets an answer; and two seconds later it is noticed.
                self.truth().store_is_away(now, 3 * SECOND);
                self.deaf_until = now + 7 * SECOND;
                self.truth().set_back(now);
            }
        }
    }

    fn pause(&mut self, process: ProcessId, until: i64) {
        let until = until.min(self.policy.chaos);
        let host = self.processes[process].host;
        self.processes[process].paused_until = until;
        let lasts = until - self.world.now();
        self.truth().hosts[host].unattended += lasts;
        self.world.trouble_until(host, until);
        // Something happens when it goes on.
        self.world.at(until, || {});
    }

    fn end_containers(&self, host: HostNo) {
        let mut truth = self.truth();
        for seen in truth.hosts[host].engine.glance().into_iter().filter(|seen| seen.presence == Presence::Running) {
            truth.hosts[host].engine.exit(seen.launch, 255, false);
        }
        truth.changed = true;
    }

    /// The engine comes back with the machine, and makes up an end for containers of which it has none.
    fn reboot(&mut self, host: HostNo, down: i64) {
        let now = self.world.now();
        let processes: Vec<_> = (0..self.processes.len()).filter(|n| self.processes[*n].host == host).collect();
        for process in processes {
            self.kill(process, down);
        }
        let up = now + down;
        self.hosts[host].down_until = self.hosts[host].down_until.max(up);
        let mut truth = self.truth();
        truth.engine_is_away(host, now, down);
        truth.hosts[host].rebooted = true;
        truth.machine_dies(&self.world, host);
        drop(truth);
        self.world.trouble_until(host, up);
        let (world, truth) = (self.world.clone(), Arc::clone(&self.truth));
        self.world.at(up, move || {
            world.reboot(host);
            let mut truth = truth.lock().unwrap_or_else(PoisonError::into_inner);
            for seen in truth.hosts[host].engine.glance().into_iter().filter(|seen| seen.presence == Presence::Running)
            {
                truth.hosts[host].engine.exit(seen.launch, 255, false);
            }
            truth.changed = true;
        });
    }

    /// A request for one of the live rentals, handled by the host's agent.
    fn ask(
        &mut self,
        nth: u64,
        how: impl FnOnce(Rentals, RentalId, Arc<Mutex<Truth>>) -> futures_util::future::BoxFuture<'static, ()>,
    ) {
        let Some((host, id)) = self.rental(nth).filter(|_| self.world.now() >= self.deaf_until) else { return };
        let Some(process) = self.agent(host) else { return };
        let rentals = self.processes[process].rentals.clone();
        let asked = how(rentals, id, Arc::clone(&self.truth));
        self.spawn(process, asked);
    }

    fn rent(&mut self, host: HostNo, gpus: u8, term_secs: i64, key: Option<u8>) {
        let Some(process) = self.agent(host) else { return };
        let rentals = self.processes[process].rentals.clone();
        let truth = Arc::clone(&self.truth);
        let gpu = valid(GpuRequest::new(valid("RTX 5090".parse()), gpus));
        // The same key is always the same request.
        let secs = key.map_or(term_secs, |key| 20 + i64::from(key));
        let term = valid(Term::fixed(SignedDuration::from_secs(secs)));
        let gpu = if key.is_some() { GpuRequest::one(valid("RTX 5090".parse())) } else { gpu };
        let mut spec = RentalSpec::new(valid("renter".parse()), gpu, valid("image:1".parse()), term);
        spec.pin_image = secs % 3 == 0;
        let name = key.map(|key| format!("keyed-{host}-{key}"));
        spec.name = name.as_deref().map(|name| valid(name.parse()));
        let password = CredentialRequest::Password(valid(Password::new("first-password".to_owned())));
        let request = RentalRequest::new(spec, password);
        self.spawn(process, async move {
            let claimed = match name {
                Some(name) => rentals.rent_once(valid(name.parse()), request).await,
                None => rentals.rent(request).await,
            };
            let mut truth = truth.lock().unwrap_or_else(PoisonError::into_inner);
            match claimed {
                Ok(claimed) => {
                    let key = key.map(|key| key * 8 + u8::try_from(host).unwrap_or(0));
                    truth.promises(claimed.rental().id(), key);
                }
                Err(RentError::KeyReused) if !truth.restored => {
                    truth.accuse("I8: one request is taken for two".to_owned());
                }
                Err(_refused) => {}
            }
        });
    }

    /// Lives through everything, lets calm come, and ends what is left.
    pub(super) fn live(mut self, happenings: &[Happening]) -> Verdict {
        for happening in happenings {
            self.live_until(happening.at);
            if self.world.what_broke().is_some() {
                return self.verdict();
            }
            self.befall(&happening.what);
            // Before time goes on: when it happened is a part of what happened.
            self.truth().check(&self.world);
        }
        self.live_until(self.policy.chaos);
        self.world.be_calm();
        self.world.tell(|| "-- calm".to_owned());
        // What was sent before may still arrive, and what hangs, hang on.
        let last_fault = self.policy.chaos + self.policy.echoes;
        self.live_until(last_fault.max(self.hosts.iter().map(|host| host.down_until).max().unwrap_or(0)));
        self.live_within(60 * SECOND, |truth| truth.disorder().is_none());
        if self.world.what_broke().is_none() {
            self.truth().check_calm(&self.world);
        }
        for rental in self.store.all().into_iter().filter(crate::rental::Rental::is_live) {
            let Some(host) = self.hosts.iter().position(|host| host.id == *rental.host()) else { continue };
            let Some(process) = self.agent(host) else { continue };
            let rentals = self.processes[process].rentals.clone();
            self.spawn(process, async move { drop(rentals.cancel(rental.id()).await) });
        }
        self.live_within(60 * SECOND, Truth::is_over);
        // Till the last event is published.
        self.live_until(self.world.now() + 3 * SECOND);
        if self.world.what_broke().is_none() {
            self.truth().check_end(&self.world);
        }
        self.check_fixpoint();
        self.verdict()
    }

    /// Lives on until it is so, for at most so long.
    fn live_within(&mut self, most: i64, is_so: impl Fn(&mut Truth) -> bool) {
        let until = self.world.now() + most;
        while self.world.now() < until && self.world.what_broke().is_none() && !is_so(&mut self.truth()) {
            self.live_until((self.world.now() + 3 * SECOND).min(until));
        }
    }

    /// Nothing is left to do, and so nothing is written.
    fn check_fixpoint(&mut self) {
        let before = self.store.writes();
        self.live_until(self.world.now() + 16 * SECOND);
        if self.store.writes() != before {
            self.world.broken("at the fixpoint something is written".to_owned());
        }
        for host in &self.hosts {
            if !at_once(crate::deadline::DeadlineBook::read(&host.book)).unwrap_or_default().is_empty() {
                self.world.broken("a deadline is never struck out".to_owned());
            }
        }
    }

    fn verdict(self) -> Verdict {
        let (calls, effects, injected) = self.world.counts();
        let broken = self.world.what_broke();
        let drawn: BTreeSet<u32> = self.world.drawn().into_iter().collect();
        let coverage: Coverage = self.world.coverage();
        let trace = self.world.take_trace();
        Verdict { broken, calls, effects, faults: injected, drawn, coverage, trace }
    }
}
