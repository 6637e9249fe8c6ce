//! The oracle: what really happened, and the invariants that it is held against.
//!
//! It sees every effect at the moment it lands, on the store and on the engines, and knows nothing of what
//! the reconciler believes.

mod bill;
mod effects;
mod engine;
mod outages;
mod promises;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::id::{Epoch, HostId, LaunchId, RentalId};
use crate::memory::{MemoryRuntime, MemoryStore};
use crate::model::{EndReason, Failure, FailureKind, Rental, RentalState, Term, WorkspaceFolder};
use crate::runtime::ContainerStatus;
use crate::store::Store;
use crate::testing::simulation::environment::{Environment, HostNo, ProcessId, at_once};

/// How long after the end of its paid time a container may still run: a second, and what our own calls take.
const LATE: i64 = 1_000_000 + 800_000;
/// How many bytes a rental may write, how many one writes in a second that fills the disk, and how long it may go on, in
/// microseconds: it is warned at one look, and ended at a later one.
pub(in crate::testing::simulation) const DISK_LIMIT: u64 = 1000;
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
pub(in crate::testing::simulation) struct OracleHost {
    pub(in crate::testing::simulation) id: HostId,
    pub(in crate::testing::simulation) engine: MemoryRuntime,
    engine_away_until: i64,
    disk_full_until: i64,
    /// The epochs that were given to somebody.
    given: BTreeSet<Epoch>,
    /// The highest epoch that has changed something on the engine.
    acted: Option<Epoch>,
    /// How long nobody could see what runs there, all in all.
    pub(in crate::testing::simulation) unattended: i64,
    pub(in crate::testing::simulation) reboots: u32,
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
pub(in crate::testing::simulation) struct Oracle {
    pub(in crate::testing::simulation) store: Arc<MemoryStore>,
    pub(in crate::testing::simulation) hosts: Vec<OracleHost>,
    /// Something landed since the last check.
    pub(in crate::testing::simulation) changed: bool,
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
    pub(in crate::testing::simulation) restored: bool,
    /// The end of the time in which requests may land that were sent before the store was set back.
    echoes_until: i64,
}

impl Oracle {
    pub(in crate::testing::simulation) fn new(
        store: Arc<MemoryStore>,
        hosts: Vec<(HostId, MemoryRuntime)>,
        provisioning: i64,
    ) -> Self {
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

    pub(in crate::testing::simulation) fn report_violation(&mut self, of: String) {
        self.accusation.get_or_insert(of);
    }

    /// R1, R2 and so on, in the order in which they were first heard of.
    pub(in crate::testing::simulation) fn name(&mut self, rental: RentalId) -> String {
        let next = self.names.len() + 1;
        self.names.entry(rental).or_insert_with(|| format!("R{next}")).clone()
    }

    /// Checks what has to hold at every moment.
    pub(in crate::testing::simulation) fn check(&mut self, environment: &Environment) {
        if std::mem::take(&mut self.changed) {
            self.check_engines(environment);
            self.check_store(environment);
            self.check_files();
        }
        if let Some(of) = self.accusation.take() {
            environment.broken(of);
        }
    }

    /// The first thing that is not in order, if any.
    pub(in crate::testing::simulation) fn disorder(&mut self, now: i64) -> Option<String> {
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
    pub(in crate::testing::simulation) fn is_over(&mut self) -> bool {
        let containers = self.hosts.iter().any(|host| !host.engine.containers().is_empty());
        !containers && !self.store.all().iter().any(Rental::is_live)
    }

    /// A minute after the last fault.
    pub(in crate::testing::simulation) fn check_calm(&mut self, environment: &Environment) {
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
    pub(in crate::testing::simulation) fn check_end(&mut self, environment: &Environment) {
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
}
