//! The oracle: what really happened, and the invariants that it is held against.
//!
//! It sees every effect at the moment it lands, on the store and on the engines, and knows nothing of what
//! the reconciler believes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::id::{Epoch, HostId, LaunchId, RentalId, Seq};
use crate::memory::{ContainerSnapshot, MemoryRuntime, MemoryStore};
use crate::model::{
    BillLine, EndReason, Failure, FailureKind, GpuUuid, HostPort, RecordedEvent, Rental, RentalEvent, RentalState,
    SuspendCause, Term, WorkspaceFolder,
};
use crate::runtime::ContainerStatus;
use crate::store::Store;
use crate::testing::simulation::environment::{Environment, HostNo, ProcessId, at_once};
use crate::testing::simulation::fault_point::{FaultPoint, SimFault};

/// How long after the end of its paid time a container may still run: a second, and what our own calls take.
const LATE: i64 = 1_000_000 + 800_000;
/// How many bytes a rental may write, how many one writes in a second that fills the disk, and how long it may go on, in
/// microseconds: it is warned at one look, and ended at a later one.
pub(super) const DISK_LIMIT: u64 = 1000;
const FILLS_PER_SECOND: u64 = 200;
const FILLS_FOR: i64 = 30_000_000;
/// The longest extension that was asked for.
#[derive(Default)]
struct Hope {
    micros: i64,
    of_the_dead: bool,
    /// The extension was answered, as far as the agent that has to end the rental knows.
    is_answered: bool,
}

/// For how long after something went wrong on a host nobody is blamed for being late.
const RECOVERY: i64 = 45_000_000;

/// One host as it really is.
pub(super) struct OracleHost {
    pub(super) id: HostId,
    pub(super) engine: MemoryRuntime,
    engine_away_until: i64,
    disk_full_until: i64,
    /// The epochs that were given to somebody.
    given: BTreeSet<Epoch>,
    /// The highest epoch that has changed something on the engine.
    acted: Option<Epoch>,
    /// How long nobody could see what runs there, all in all.
    pub(super) unattended: i64,
    pub(super) reboots: u32,
}

struct Run {
    host: HostNo,
    started: i64,
    started_at: Timestamp,
    died: Option<i64>,
}

/// Whether a rental is said to have taken too long to start.
fn gave_up(row: &Rental) -> bool {
    let failure = |failure: &Failure| failure.kind == FailureKind::DeadlineExceeded;
    matches!(row.state().end_reason(), Some(EndReason::Failed(why)) if failure(why))
}

fn is_gone(why: &Failure) -> bool {
    matches!(why.kind, FailureKind::Vanished | FailureKind::ExitedEarly)
}

/// See the module.
pub(super) struct Oracle {
    pub(super) store: Arc<MemoryStore>,
    pub(super) hosts: Vec<OracleHost>,
    /// Something landed since the last check.
    pub(super) changed: bool,
    names: BTreeMap<RentalId, String>,
    epochs: BTreeMap<ProcessId, Epoch>,
    accusation: Option<String>,
    runs: BTreeMap<LaunchId, Run>,
    /// The rentals as they were last seen in the store.
    rows: BTreeMap<RentalId, Rental>,
    /// Since when the store knows that a rental is ready.
    ready_since: BTreeMap<LaunchId, i64>,
    /// When an agent last tried to record that a launch is ready.
    readied_at: BTreeMap<LaunchId, i64>,
    suspending_since: BTreeMap<LaunchId, i64>,
    ending_since: BTreeMap<RentalId, i64>,
    /// The launches whose end was recorded at some time for another reason than their time.
    ended_once: BTreeSet<LaunchId>,
    /// Since when the store knows of a rental.
    known_since: BTreeMap<RentalId, i64>,
    /// How long a rental may take to start.
    provisioning: i64,
    billed: BTreeSet<RentalId>,
    /// The containers that fill the disk, and since when.
    filling: BTreeMap<LaunchId, i64>,
    /// Rentals of which somebody removed a container by hand: its files are gone.
    robbed: BTreeSet<RentalId>,
    /// The folders that outlive containers: none is ever lost or made anew.
    workspaces: BTreeMap<(HostNo, WorkspaceFolder), Option<u64>>,
    /// The terms that renters were told, and may rely on.
    promised: BTreeMap<RentalId, Option<Term>>,
    /// The extensions of which the agents do not know whether they were recorded.
    hoped: BTreeMap<RentalId, Hope>,
    keys: BTreeMap<u8, RentalId>,
    store_away_until: i64,
    store_hangs_until: i64,
    /// The store has been set back: what it promised before is void.
    pub(super) restored: bool,
    /// The end of the time in which requests may land that were sent before the store was set back.
    echoes_until: i64,
}

impl Oracle {
    pub(super) fn new(store: Arc<MemoryStore>, hosts: Vec<(HostId, MemoryRuntime)>, provisioning: i64) -> Self {
        let host = |(id, engine)| OracleHost {
            id,
            engine,
            engine_away_until: 0,
            disk_full_until: 0,
            given: BTreeSet::new(),
            acted: None,
            unattended: 0,
            reboots: 0,
        };
        Self {
            store,
            hosts: hosts.into_iter().map(host).collect(),
            changed: false,
            names: BTreeMap::new(),
            epochs: BTreeMap::new(),
            accusation: None,
            runs: BTreeMap::new(),
            rows: BTreeMap::new(),
            ready_since: BTreeMap::new(),
            readied_at: BTreeMap::new(),
            suspending_since: BTreeMap::new(),
            ended_once: BTreeSet::new(),
            ending_since: BTreeMap::new(),
            known_since: BTreeMap::new(),
            provisioning,
            billed: BTreeSet::new(),
            filling: BTreeMap::new(),
            robbed: BTreeSet::new(),
            workspaces: BTreeMap::new(),
            promised: BTreeMap::new(),
            hoped: BTreeMap::new(),
            keys: BTreeMap::new(),
            store_away_until: 0,
            store_hangs_until: 0,
            restored: false,
            echoes_until: 0,
        }
    }

    pub(super) fn report_violation(&mut self, of: String) {
        self.accusation.get_or_insert(of);
    }

    /// R1, R2 and so on, in the order in which they were first heard of.
    pub(super) fn name(&mut self, rental: RentalId) -> String {
        let next = self.names.len() + 1;
        self.names.entry(rental).or_insert_with(|| format!("R{next}")).clone()
    }

    pub(super) fn store_is_away(&mut self, now: i64, lasts: i64) {
        self.store_away_until = now + lasts;
        self.nobody_looks(lasts);
    }

    pub(super) fn store_hangs(&mut self, now: i64, lasts: i64) {
        self.store_hangs_until = now + lasts;
        self.nobody_looks(lasts);
    }

    /// Without the store nobody acts for a host, nor looks at what runs there.
    fn nobody_looks(&mut self, lasts: i64) {
        for host in &mut self.hosts {
            // The lease is to be had again, too.
            host.unattended += lasts + 5_000_000;
        }
    }

    pub(super) fn engine_is_away(&mut self, host: HostNo, now: i64, lasts: i64) {
        self.hosts[host].engine_away_until = now + lasts;
        self.hosts[host].unattended += lasts;
    }

    pub(super) fn disk_is_full(&mut self, host: HostNo, now: i64, until: i64) {
        self.hosts[host].disk_full_until = until;
        // Nothing that is seen meanwhile is written down.
        self.hosts[host].unattended += until - now;
    }

    /// The outage in which nobody gets an answer at the moment.
    pub(super) fn outage(&self, environment: &Environment, point: FaultPoint, host: HostNo) -> Option<SimFault> {
        let now = environment.now();
        if environment.is_calm() {
            return None;
        }
        if point.is_store() {
            if now < self.store_hangs_until {
                // A driver gives up after five seconds; what was sent may still be carried out.
                let lasts = (self.store_hangs_until - now).min(5_000_000);
                return Some(if self.store_hangs_until % 2 == 0 {
                    SimFault::Hang(lasts)
                } else {
                    SimFault::HangAfter(lasts)
                });
            }
            return (now < self.store_away_until).then_some(SimFault::Before);
        }
        let host = &self.hosts[host];
        match point {
            FaultPoint::ReadBook => None,
            FaultPoint::WriteBook => (now < host.disk_full_until).then_some(SimFault::Before),
            _ => (now < host.engine_away_until).then_some(SimFault::Before),
        }
    }

    pub(super) fn took_over(&mut self, process: ProcessId, host: HostNo, epoch: Epoch) {
        let given = &mut self.hosts[host].given;
        if !given.insert(epoch) && !self.restored {
            self.report_violation(format!("I9: epoch {epoch} is given to process {process}, and was given before"));
        }
        self.epochs.insert(process, epoch);
        if self.restored {
            // A store that was set back counts epochs from where it was.
            for host in &mut self.hosts {
                host.acted = None;
            }
        }
    }

    /// A process sends something to an engine that will change it.
    pub(super) fn acts(&mut self, process: ProcessId, host: HostNo, point: FaultPoint, launch: LaunchId) {
        if point == FaultPoint::Stop {
            // Allowed without holding the host, to whoever's time is over: judged when it lands.
            return;
        }
        let name = self.name(launch.rental);
        let Some(epoch) = self.epochs.get(&process).copied() else {
            return self.report_violation(format!(
                "I9: process {process} does {point:?} to {name} and never took the host over"
            ));
        };
        let newest = self.hosts[host].acted.unwrap_or(epoch).max(epoch);
        self.hosts[host].acted = Some(newest);
        if epoch < newest {
            self.report_violation(format!(
                "I9: process {process} does {point:?} to {name} in epoch {epoch}, though epoch {newest} has acted"
            ));
        }
    }

    fn running(&self, host: HostNo, launch: LaunchId) -> bool {
        let seen = self.hosts[host].engine.snapshot();
        seen.iter().any(|seen| seen.launch == launch && seen.status == ContainerStatus::Running)
    }

    /// A stop lands.
    pub(super) fn stops(&mut self, environment: &Environment, host: HostNo, launch: LaunchId) {
        if environment.now() < self.echoes_until || !self.running(host, launch) {
            return;
        }
        let name = self.name(launch.rental);
        let stored = at_once(self.store.get(launch.rental)).unwrap_or_default();
        let Some(row) = stored.or_else(|| self.rows.get(&launch.rental).cloned()) else { return };
        if row.attempt() != launch.attempt || row.state().suspend_cause().is_some() {
            return;
        }
        if self.ended_once.contains(&launch) {
            // The end was recorded, and its agent carries it out although the store has forgotten it since.
            return;
        }
        let by_the_clock = matches!(row.state().end_reason(), None | Some(EndReason::Expired));
        let (Some(run), true) = (self.runs.get(&launch), by_the_clock) else { return };
        let promised = self.promised.get(&launch.rental).copied().flatten();
        let known = self.rows.get(&launch.rental).map(|known| known.spec().term);
        let terms = [Some(row.spec().term), promised, known].into_iter().flatten();
        // What earlier launches used is over.
        let used = self.rows.get(&launch.rental).map(Rental::used_before).max(Some(row.used_before()));
        let term = terms.filter_map(Term::duration).max().map(|term| term - used.unwrap_or_default());
        // A wall clock that was set between a start and its record leaves the time in between to be told by.
        let slack = if environment.clock_was_set(host) { 1_000_000 } else { 0 };
        let lived = environment.now() - run.started + slack;
        match (row.paid_from().or(self.rows.get(&launch.rental).and_then(Rental::paid_from)), term) {
            (Some(_), Some(term)) if i128::from(lived) >= term.as_micros() => {}
            (Some(_), Some(term)) => {
                self.report_violation(format!(
                    "I10: {name} is stopped after {lived} of {} microseconds",
                    term.as_micros()
                ));
            }
            // It is about to be recorded as ready.
            (None, Some(term)) if i128::from(lived) >= term.as_micros() => {}
            _ => self.report_violation(format!("{name} is stopped, and nothing says why: {:?}", row.state())),
        }
    }

    /// A removal lands.
    pub(super) fn removes(&mut self, now: i64, host: HostNo, launch: LaunchId) {
        if now < self.echoes_until || !self.hosts[host].engine.containers().contains(&launch) {
            return;
        }
        let name = self.name(launch.rental);
        match at_once(self.store.get(launch.rental)).unwrap_or_default() {
            None => {
                self.report_violation(format!(
                    "the container of {name} is removed, and the store knows no such rental"
                ));
            }
            Some(row) if row.attempt() == launch.attempt => match row.state() {
                RentalState::Ending { stopped: true, .. } | RentalState::Ended { .. } => {}
                state => self.report_violation(format!("the container of {name} is removed while it is {state:?}")),
            },
            // Whoever has ended it, by a store that was set back to before that launch, has ended all of it.
            Some(row) if row.attempt() < launch.attempt && row.is_live() => {
                self.report_violation(format!(
                    "I2: the container of a launch of {name} is removed that the store knows not yet"
                ));
            }
            Some(row) if row.may_need(launch.attempt) => {
                self.report_violation(format!(
                    "I3: the files of {name} are removed with a container of a former launch"
                ));
            }
            Some(_) => {}
        }
    }

    /// A container is put away.
    pub(super) fn retains(&mut self, now: i64, host: HostNo, launch: LaunchId) {
        if now < self.echoes_until || !self.running(host, launch) {
            return;
        }
        let name = self.name(launch.rental);
        self.report_violation(format!("a container of {name} is put away while it runs"));
    }

    /// A launch that takes over another's files has those of every launch that was ready before.
    fn check_files(&mut self) {
        if self.restored {
            return;
        }
        let there: Vec<ContainerSnapshot> = self.hosts.iter().flat_map(|host| host.engine.snapshot()).collect();
        for seen in there {
            // Of what has ended nothing is kept, whatever a request that is late makes of it; nor once it is to be removed.
            let is_needed = self.rows.get(&seen.launch.rental).is_some_and(|row| {
                row.may_need(seen.launch.attempt) && !matches!(row.state(), RentalState::Ending { stopped: true, .. })
            });
            if !is_needed || self.robbed.contains(&seen.launch.rental) {
                continue;
            }
            let earlier =
                |launch: &&LaunchId| launch.rental == seen.launch.rental && launch.attempt < seen.launch.attempt;
            let lost = self.ready_since.keys().filter(earlier).find(|launch| !seen.files_of.contains(launch)).copied();
            if let Some(lost) = lost {
                self.report_violation(format!("the files of {lost} are not in the container of {}", seen.launch));
            }
        }
    }

    /// Notes that a container is removed by hand.
    pub(super) fn loses(&mut self, host: HostNo, launch: LaunchId) {
        self.hosts[host].engine.lose(launch);
        self.robbed.insert(launch.rental);
        self.changed = true;
    }

    /// A container's program begins to fill the disk.
    pub(super) fn fills(&mut self, now: i64, host: HostNo, launch: LaunchId) {
        self.hosts[host].engine.fill(launch, FILLS_PER_SECOND);
        self.filling.entry(launch).or_insert(now);
    }

    /// The machine goes down, with every container on it.
    pub(super) fn machine_dies(&mut self, environment: &Environment, host: HostNo) {
        let now = environment.now();
        for run in self.runs.values_mut().filter(|run| run.host == host) {
            run.died.get_or_insert(now);
        }
    }

    /// Whether a container's machine is up.
    pub(super) fn lives(&self, launch: LaunchId) -> bool {
        self.runs.get(&launch).is_none_or(|run| run.died.is_none())
    }

    /// Notes that a renter was told that this rental is theirs.
    pub(super) fn promises(&mut self, rental: RentalId, key: Option<u8>) {
        self.promised.entry(rental).or_default();
        if let Some(key) = key {
            let first = *self.keys.entry(key).or_insert(rental);
            if first != rental && !self.restored {
                self.report_violation(format!("I8: key {key} made two rentals"));
            }
        }
    }

    /// An extension by so many seconds is asked for: the rental may last so long until its agent knows better.
    pub(super) fn hopes(&mut self, rental: RentalId, secs: i64) {
        let hope = self.hoped.entry(rental).or_default();
        hope.micros = if hope.is_answered { secs * 1_000_000 } else { hope.micros.max(secs * 1_000_000) };
        hope.is_answered = false;
    }

    /// An extension is about to be recorded: whatever was known before says nothing of it.
    pub(super) fn extends(&mut self, rental: RentalId) {
        if let Some(hope) = self.hoped.get_mut(&rental) {
            hope.is_answered = false;
        }
    }

    /// An agent is about to record that a launch is ready. Until it knows that it has, it may have to try again, and the paid
    /// time counts from then.
    pub(super) fn readies(&mut self, now: i64, launch: LaunchId) {
        self.readied_at.insert(launch, now);
    }

    /// An agent's knowledge that a rental was changed, and with it whether that was extended before.
    pub(super) fn knows(&mut self, rental: RentalId) {
        let row = at_once(self.store.get(rental)).unwrap_or_default();
        // What ends now may have been late for as long as nobody knew.
        if row.is_some_and(|row| row.state().end_reason().is_none())
            && let Some(hope) = self.hoped.get_mut(&rental).filter(|hope| !hope.of_the_dead)
        {
            hope.is_answered = true;
        }
    }

    /// An agent is gone, and with it the knowledge of which extension was never answered. The book has the longer term.
    pub(super) fn agent_dies(&mut self) {
        self.hoped.values_mut().filter(|hope| !hope.is_answered).for_each(|hope| hope.of_the_dead = true);
    }

    /// Notes that a renter was told that this rental lasts so long.
    pub(super) fn promises_term(&mut self, rental: RentalId, term: Term) {
        let promised = self.promised.entry(rental).or_default();
        if promised.is_none_or(|promised| promised.is_shorter_than(term)) {
            *promised = Some(term);
        }
    }

    /// The store was set back to an earlier state.
    pub(super) fn set_back(&mut self, now: i64) {
        self.restored = true;
        self.echoes_until = now + 10_000_000;
        self.changed = true;
        self.promised.clear();
        self.keys.clear();
        for host in &mut self.hosts {
            host.acted = None;
        }
    }

    /// Checks what has to hold at every moment.
    pub(super) fn check(&mut self, environment: &Environment) {
        if std::mem::take(&mut self.changed) {
            self.check_engines(environment);
            self.check_store(environment);
            self.check_files();
        }
        if let Some(of) = self.accusation.take() {
            environment.broken(of);
        }
    }

    fn check_engines(&mut self, environment: &Environment) {
        let now = environment.now();
        let mut accusations = Vec::new();
        for (number, host) in self.hosts.iter().enumerate() {
            let seen = host.engine.snapshot();
            let mut on: BTreeMap<GpuUuid, LaunchId> = BTreeMap::new();
            for seen in &seen {
                let Some(started_at) = seen.started_at else { continue };
                let run =
                    self.runs.entry(seen.launch).or_insert(Run { host: number, started: now, started_at, died: None });
                if seen.status != ContainerStatus::Running {
                    run.died.get_or_insert(now);
                    continue;
                }
                for gpu in &seen.gpus {
                    if let Some(other) = on.insert(gpu.clone(), seen.launch) {
                        accusations.push(format!("I4: {other} and {} run on one GPU", seen.launch));
                    }
                }
            }
            let workspaces = host.engine.workspaces();
            for folder in seen.iter().filter_map(|seen| seen.workspace.as_ref()) {
                let found = workspaces.get(folder).copied();
                let known = *self.workspaces.entry((number, folder.clone())).or_insert(found);
                if found.is_none() || found != known {
                    accusations.push(format!("the workspace {folder} is not what it was"));
                }
            }
            let there = |launch: &LaunchId| seen.iter().any(|seen| seen.launch == *launch);
            for (launch, run) in self.runs.iter_mut().filter(|(_, run)| run.host == number) {
                if !there(launch) {
                    run.died.get_or_insert(now);
                }
            }
        }
        for accusation in accusations {
            self.report_violation(accusation);
        }
    }

    fn check_store(&mut self, environment: &Environment) {
        let rows = self.store.all();
        self.check_holds(&rows);
        for row in rows {
            let id = row.id();
            let name = self.name(id);
            if self.rows.get(&id) == Some(&row) {
                continue;
            }
            self.check_row(&name, &row);
            if !matches!(row.state().end_reason(), None | Some(EndReason::Expired)) {
                self.ended_once.insert(row.launch());
            }
            let was_suspended =
                self.rows.get(&id).is_some_and(|before| matches!(before.state(), RentalState::Suspended { .. }));
            if !self.known_since.contains_key(&id) || (was_suspended && !row.gpus().is_empty()) {
                self.check_place(environment, &name, &row);
            }
            let since = *self.known_since.entry(id).or_insert(environment.now());
            let early = environment.now() - since < self.provisioning - 1_000_000;
            if early && gave_up(&row) && !self.restored && !self.hosts.iter().any(|host| host.reboots > 0) {
                self.report_violation(format!(
                    "{name} is given up as too slow after {} microseconds",
                    environment.now() - since
                ));
            }
            if !row.is_live() && self.billed.insert(id) {
                self.check_bill(environment, &name, &row);
                self.check_absence(&name, &row);
            }
            if row.state().suspend_cause().is_some() && !self.suspending_since.contains_key(&row.launch()) {
                self.suspending_since.insert(row.launch(), environment.now());
                self.check_reason(environment, &name, &row);
            }
            if matches!(row.state(), RentalState::Suspended { .. }) {
                self.check_retained(&name, &row);
            }
            if row.paid_from().is_some() {
                self.ready_since.entry(row.launch()).or_insert(environment.now());
            }
            if row.state().end_reason().is_some() && !self.ending_since.contains_key(&id) {
                self.ending_since.insert(id, environment.now());
                self.check_reason(environment, &name, &row);
            }
            self.rows.insert(id, row);
        }
    }

    fn check_holds(&mut self, rows: &[Rental]) {
        let mut gpus: BTreeMap<(&HostId, &GpuUuid), RentalId> = BTreeMap::new();
        let mut ports: BTreeMap<(&HostId, HostPort), RentalId> = BTreeMap::new();
        let mut twice = None;
        for row in rows.iter().filter(|row| row.is_live()) {
            for gpu in row.gpus() {
                twice = twice.or(gpus.insert((row.host(), &gpu.uuid), row.id()));
            }
            for binding in row.ports() {
                twice = twice.or(ports.insert((row.host(), binding.host), row.id()));
            }
        }
        if let Some(rental) = twice {
            let name = self.name(rental);
            self.report_violation(format!("I1: what {name} holds is held by another live rental"));
        }
    }

    fn check_row(&mut self, name: &str, row: &Rental) {
        let events = at_once(self.store.events(row.id(), Seq::ZERO, 500)).unwrap_or_default();
        match Rental::folded(&events) {
            None => self.report_violation(format!("I7: the events of {name} are not a legal history")),
            Some(folded) if !folded.is_same_but_for_writes(row) => {
                self.report_violation(format!("I7: the events of {name} do not fold to it"));
            }
            Some(_) => {}
        }
        let open = row.segments().iter().filter(|segment| segment.ended_at.is_none()).count();
        let billable = matches!(
            row.state(),
            RentalState::Ready
                | RentalState::Suspending { stopped: false, .. }
                | RentalState::Ending { stopped: false, .. }
        );
        if open > usize::from(billable) {
            self.report_violation(format!("I5: {name} has {open} open segments while it is {:?}", row.state()));
        }
        let overlap = row.segments().windows(2).any(|pair| pair[0].ended_at.is_none_or(|end| end > pair[1].started_at));
        if overlap {
            self.report_violation(format!("I5: segments of {name} overlap"));
        }
    }

    /// Checks that no rental is given a GPU on which another's container runs.
    fn check_place(&mut self, environment: &Environment, name: &str, row: &Rental) {
        if environment.now() < self.echoes_until {
            return;
        }
        let there = self.hosts.iter().flat_map(|host| host.engine.snapshot());
        let others = there.filter(|seen| seen.launch.rental != row.id() && seen.status == ContainerStatus::Running);
        let on_its_gpus = |seen: &ContainerSnapshot| row.gpus().iter().any(|gpu| seen.gpus.contains(&gpu.uuid));
        if let Some(other) = others.into_iter().find(on_its_gpus) {
            self.report_violation(format!("I4: {name} is given a GPU on which {} runs", other.launch));
        }
    }

    /// Checks that a suspended rental has a container that is put away, and none that runs.
    fn check_retained(&mut self, name: &str, row: &Rental) {
        let there = self.hosts.iter().flat_map(|host| host.engine.snapshot());
        let its: Vec<ContainerSnapshot> = there.filter(|seen| seen.launch.rental == row.id()).collect();
        if self.restored || self.robbed.contains(&row.id()) {
            return;
        }
        if its.iter().any(|seen| seen.status == ContainerStatus::Running) {
            self.report_violation(format!("I3: {name} is suspended, and its container runs"));
        }
        if row.retained().is_none() || !its.iter().any(|seen| seen.retained) {
            self.report_violation(format!("{name} is suspended, and nothing of it is kept"));
        }
    }

    /// Checks that an ended rental has no container that ran. (One that never did may be made late, by a request lost on
    /// its way; it is found and removed.)
    fn check_absence(&mut self, name: &str, row: &Rental) {
        let there = self.hosts.iter().flat_map(|host| host.engine.snapshot());
        let left = there.into_iter().any(|seen| seen.launch.rental == row.id() && seen.started_at.is_some());
        if left && !self.restored {
            self.report_violation(format!("I3: {name} is {:?}, and its container is there", row.state()));
        }
    }

    /// Checks that no container is said to be gone that runs, and that no failure takes what was ready once.
    fn check_reason(&mut self, environment: &Environment, name: &str, row: &Rental) {
        let gone = match row.state().end_reason() {
            Some(EndReason::Lost { .. } | EndReason::Exited { .. }) => true,
            Some(EndReason::Failed(why)) => is_gone(why),
            _ => matches!(row.state().suspend_cause(), Some(SuspendCause::Failed(why)) if is_gone(why)),
        };
        if let Some(EndReason::DiskFull { used, .. }) = row.state().end_reason() {
            // What an earlier container wrote may have been taken over.
            let of_the_rental = self.filling.iter().filter(|(launch, _)| launch.rental == row.id());
            let filled = of_the_rental.map(|(launch, since)| {
                let until = self.runs.get(launch).and_then(|run| run.died).unwrap_or(environment.now());
                u64::try_from(until - since).unwrap_or(0) / 1_000_000 * FILLS_PER_SECOND
            });
            let written: u64 = filled.sum();
            if used.bytes <= DISK_LIMIT || (used.bytes > written && !self.restored) {
                self.report_violation(format!("{name} ends for {} bytes, and wrote {written}", used.bytes));
            }
        }
        if let Some(EndReason::Failed(why)) = row.state().end_reason()
            && row.has_been_ready()
            && !self.restored
        {
            self.report_violation(format!(
                "{name} was ready once, and a launch that failed ends it with its files: {why:?}"
            ));
        }
        let runs = self.runs.get(&row.launch()).is_some_and(|run| run.died.is_none());
        if gone && runs && environment.now() >= self.echoes_until {
            self.report_violation(format!(
                "{name} ends as gone, and its container runs: {:?}",
                row.state().end_reason()
            ));
        }
    }

    fn check_bill(&mut self, environment: &Environment, name: &str, row: &Rental) {
        let bill = row.bill(Timestamp::MAX);
        if bill.total != bill.lines.iter().map(BillLine::amount).sum() {
            self.report_violation(format!("I6: the lines of {name} do not add up"));
        }
        // A store that was set back may have let a launch be made twice.
        if self.restored {
            return;
        }
        let paid: Vec<LaunchId> = self.ready_since.keys().filter(|l| l.rental == row.id()).copied().collect();
        let runs: Vec<&Run> = paid.iter().filter_map(|launch| self.runs.get(launch)).collect();
        if runs.len() != row.segments().len() {
            let (billed, ran) = (row.segments().len(), runs.len());
            return self
                .report_violation(format!("I5: {name} is billed for {billed} containers, and {ran} of it were ready"));
        }
        for (segment, run) in row.segments().iter().zip(&runs) {
            let (billed, started) = (segment.started_at, run.started_at);
            // Of two containers the second one is not billed from before the first one's end.
            if billed != started && !(environment.clock_was_set(run.host) && billed > started) {
                return self.report_violation(format!("I5: {name} is billed from {billed}, started {started}"));
            }
        }
        let Some(run) = runs.last() else { return };
        let lived: i64 = runs.iter().map(|run| run.died.unwrap_or(environment.now()) - run.started).sum();
        let term = row.spec().term.duration().map_or(i64::MAX, |term| i64::try_from(term.as_micros()).unwrap_or(0));
        let due = lived.min(term);
        let used = bill.used_micros;
        let host = &self.hosts[run.host];
        let plain = !environment.clock_was_set(run.host) && host.reboots == 0;
        let events = at_once(self.store.events(row.id(), Seq::ZERO, 500)).unwrap_or_default();
        let untold = |recorded: &RecordedEvent| matches!(recorded.event, RentalEvent::Stopped { exit: None, .. });
        let (least, most) = match (plain, row.exit().filter(|_| !events.iter().any(untold))) {
            // The engine has the record of it.
            (true, Some(_)) => (due, due),
            // What was seen of it, and nothing more.
            (true, None) => (due - 40_000_000 - host.unattended, due),
            // A clock that is set while the machine is down leaves nothing to measure by.
            (false, _) if host.reboots > 0 && environment.clock_was_set(run.host) => (0, term),
            // As near as it can be told.
            // An end that was made up after one reboot looks real after the next.
            (false, _) if environment.clock_was_set(run.host) || host.reboots > 1 => {
                (due - 60_000_000 - host.unattended, (due + 5_000_000 + host.unattended).min(term))
            }
            // After a reboot nobody pays for more than what was seen.
            (false, _) => (due - 60_000_000 - host.unattended, due + 100_000),
        };
        if used < least || used > most {
            let exit = row.exit();
            self.report_violation(format!(
                "I5: {name} ran {lived} of {term}, and is billed {used} microseconds (plain: {plain}, exit {exit:?})"
            ));
        }
    }

    /// Checks that nobody runs past the end of the paid time, as long as somebody is there to end it.
    pub(super) fn check_lateness(&mut self, environment: &Environment, attended: impl Fn(HostNo) -> bool) {
        let now = environment.now();
        for (launch, run) in self.runs.iter().filter(|(_, run)| run.died.is_none()) {
            let Some(row) = self.rows.get(&launch.rental) else { continue };
            let (Some(_), Some(term)) = (row.paid_from(), row.spec().term.duration()) else { continue };
            let left = term - row.used_before();
            let hoped = self.hoped.get(&launch.rental).filter(|hope| !hope.is_answered).map_or(0, |hope| hope.micros);
            let from = self.readied_at.get(launch).copied().unwrap_or(run.started).max(run.started);
            let end = from + i64::try_from(left.as_micros()).unwrap_or(0) + hoped;
            let late = now - self.ready_since.get(launch).map_or(end, |since| end.max(*since));
            let blameless = environment.last_trouble(run.host).is_some_and(|trouble| now < trouble + RECOVERY);
            if late > LATE && row.attempt() == launch.attempt && !blameless && !self.restored && attended(run.host) {
                environment.broken(format!("I10: {launch} runs {late} microseconds past its end"));
                return;
            }
        }
    }

    /// The first thing that is not in order, if any.
    pub(super) fn disorder(&mut self, now: i64) -> Option<String> {
        let rows = self.store.all();
        for row in &rows {
            let runs = self.hosts.iter().any(|host| {
                host.engine.snapshot().iter().any(|s| s.launch == row.launch() && s.status == ContainerStatus::Running)
            });
            let filling = self.filling.get(&row.launch()).is_some_and(|since| since + FILLS_FOR < now);
            match row.state() {
                RentalState::Ready if runs && row.silent_ports().next().is_some() => {
                    let name = self.name(row.id());
                    return Some(format!("liveness: {name} offers a service of which nobody was told"));
                }
                RentalState::Ready if runs && !filling => {}
                RentalState::Suspended { .. } if !runs => {}
                RentalState::Ended { .. } => {}
                RentalState::Suspending { .. }
                    if self.suspending_since.get(&row.launch()).is_some_and(|since| since + 20_000_000 > now) => {}
                // It just began to.
                RentalState::Ending { .. }
                    if self.ending_since.get(&row.id()).is_some_and(|since| since + 20_000_000 > now) => {}
                state => {
                    let name = self.name(row.id());
                    return Some(format!("liveness: {name} is {state:?} (runs: {runs}) a minute after the last fault"));
                }
            }
        }
        for seen in self.hosts.iter().flat_map(|host| host.engine.snapshot()) {
            let needs = |row: &&Rental| row.id() == seen.launch.rental && row.may_need(seen.launch.attempt);
            if !rows.iter().any(|row| needs(&row)) {
                return Some(format!("I2, I3: container {} has no live rental", seen.launch));
            }
        }
        None
    }

    /// Whether everything has ended.
    pub(super) fn is_over(&mut self) -> bool {
        let containers = self.hosts.iter().any(|host| !host.engine.containers().is_empty());
        !containers && !self.store.all().iter().any(Rental::is_live)
    }

    /// A minute after the last fault.
    pub(super) fn check_calm(&mut self, environment: &Environment) {
        if let Some(disorder) = self.disorder(environment.now()) {
            environment.broken(disorder);
        }
        let rows = self.store.all();
        if self.restored {
            return;
        }
        for (id, term) in &self.promised {
            match rows.iter().find(|row| row.id() == *id) {
                None => environment.broken("a rental that was promised is not there".to_owned()),
                Some(row) if term.is_some_and(|term| row.spec().term.is_shorter_than(term)) => {
                    environment.broken("an extension that was promised is not there".to_owned());
                }
                Some(_) => {}
            }
        }
    }

    /// When everything was ended.
    pub(super) fn check_end(&mut self, environment: &Environment) {
        for row in self.store.all() {
            if row.is_live() {
                let name = self.name(row.id());
                environment.broken(format!("liveness: {name} does not end: {:?}", row.state()));
            }
        }
        for host in &self.hosts {
            if let Some(launch) = host.engine.containers().first() {
                environment.broken(format!("I3: the container {launch} is left"));
            }
            let held = at_once(self.store.held(&host.id)).unwrap_or_default();
            if !held.gpus.is_empty() || !held.ports.is_empty() {
                environment.broken("I4: something is held and nobody lives".to_owned());
            }
            self.check_journal(environment, &host.id);
        }
    }

    /// The journal has every event of every rental, in the rental's order.
    fn check_journal(&self, environment: &Environment, host: &HostId) {
        let mut next: BTreeMap<RentalId, Seq> = BTreeMap::new();
        let mut at = crate::id::Position::ZERO;
        loop {
            let page = at_once(self.store.journal(host, at, 500)).unwrap_or_default();
            let Some(last) = page.last() else { break };
            for entry in &page {
                let seq = next.entry(entry.rental).or_insert(Seq::ZERO);
                if entry.position != at.next() || entry.recorded.seq != seq.next() {
                    return environment.broken("I7: the journal has a gap, or something twice".to_owned());
                }
                (at, *seq) = (entry.position, entry.recorded.seq);
            }
            debug_assert_eq!(at, last.position);
        }
        for row in self.store.all().into_iter().filter(|row| row.host() == host) {
            if next.get(&row.id()) != Some(&row.last_seq()) {
                environment.broken("I7: an event is not in the journal".to_owned());
            }
        }
    }
}
