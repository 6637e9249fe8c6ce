//! Deterministic simulation: the real [`Rentals`](crate::host::Rentals) and
//! [`Reconciler`](crate::host::Reconciler) in a world in which everything goes wrong.
//!
//! A history is a number. From it follow what renters ask for, which machines reboot, which calls fail
//! before or after they did their work, hang, arrive twice or late, which process dies beside which
//! effect, and who of those that are ready goes on next. After every effect the invariants are checked
//! against what really happened; a minute after the last fault everything has to be in order. A history
//! that fails, fails again, and is first made as small as it gets:
//!
//! ```
//! use gpurent_core::testing::simulation::Simulation;
//!
//! let summary = Simulation::default().explore(0..20);
//! assert!(summary.broken.is_none(), "{}", summary.broken.unwrap());
//! println!("{}", summary.coverage);
//! ```
//!
//! A policy of one's own ([`Simulation::allocator`], [`Simulation::timing`], [`Simulation::reconcile_config`]) is put
//! to the same test.

mod actions;
mod crash_matrix;
mod environment;
mod fault_point;
mod oracle;
mod proxy;
mod rng;
mod runner;
mod schedule;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

pub use crash_matrix::{Life, Matrix, crash_matrix};
pub use fault_point::{Coverage, FaultPoint, SimFault};
use jiff::SignedDuration;

use crate::allocation::{Allocator, BestFit};
use crate::host::ReconcileConfig;
use crate::model::RentalTiming;
use crate::testing::simulation::environment::Faults;
use crate::testing::simulation::rng::Rng;
use crate::testing::simulation::runner::Run;

/// The world that is simulated: how many hosts there are, and by which rules they act.
#[derive(Clone)]
pub struct Simulation {
    pub(self) hosts: usize,
    pub(self) gpus: u8,
    pub(self) fault_rate: u64,
    pub(self) pauses: bool,
    pub(self) allocator: Arc<dyn Allocator>,
    pub(self) timing: RentalTiming,
    pub(self) config: ReconcileConfig,
    /// Until when something happens and goes wrong, in microseconds.
    pub(self) chaos: i64,
    /// For how long afterwards something may still land.
    pub(self) echoes: i64,
}

impl Default for Simulation {
    fn default() -> Self {
        Self {
            hosts: 2,
            gpus: 2,
            fault_rate: 12,
            pauses: true,
            allocator: Arc::new(BestFit),
            timing: RentalTiming {
                provisioning: SignedDuration::from_secs(40),
                access: SignedDuration::from_secs(15),
                ..RentalTiming::default()
            },
            // A suspended rental that the store has lost is found by a sweep.
            config: ReconcileConfig {
                measure: Duration::from_secs(5),
                sweep: Duration::from_secs(40),
                ..ReconcileConfig::default()
            },
            chaos: schedule::CHAOS,
            echoes: 26_000_000,
        }
    }
}

impl Simulation {
    /// Another allocator.
    #[must_use]
    pub fn allocator(self, allocator: Arc<dyn Allocator>) -> Self {
        Self { allocator, ..self }
    }

    /// Other times. A minute after the last fault every rental has to be ready or ended, so both the time
    /// to start and the time for access must be shorter than that.
    #[must_use]
    pub fn timing(self, timing: RentalTiming) -> Self {
        Self { timing, ..self }
    }

    /// Other intervals and limits of the reconciler.
    #[must_use]
    pub fn reconcile_config(self, config: ReconcileConfig) -> Self {
        Self { config, ..self }
    }

    /// How many calls in a thousand go wrong; 12 by default.
    #[must_use]
    pub fn faults_per_mille(self, fault_rate: u64) -> Self {
        Self { fault_rate, ..self }
    }

    /// Histories in which nobody suspends a rental.
    #[must_use]
    pub fn without_pauses(self) -> Self {
        Self { pauses: false, ..self }
    }

    /// Lives through one history.
    #[must_use]
    pub fn history(&self, number: u64) -> Verdict {
        self.with_out(number, &Without::default(), false)
    }

    fn with_out(&self, number: u64, without: &Without, traced: bool) -> Verdict {
        // Some histories are quiet, so that what they check is checked strictly.
        let per_mille =
            [0, self.fault_rate / 4, self.fault_rate, self.fault_rate * 3][usize::try_from(number % 4).unwrap_or(0)];
        let faults = Faults::Drawn { per_mille, left_out: without.faults.clone() };
        let actions = schedule::generate(Rng::of(number), self.hosts, self.pauses, &without.actions);
        Run::new(number, self, faults, traced).live(&actions)
    }

    /// Lives through many histories, up to the first that breaks something.
    #[must_use]
    pub fn explore(&self, numbers: Range<u64>) -> Summary {
        let mut summary = Summary::default();
        for number in numbers {
            let verdict = self.history(number);
            summary.histories += 1;
            summary.calls += u64::from(verdict.calls);
            summary.faults += u64::from(verdict.faults);
            summary.coverage.add(&verdict.coverage);
            if verdict.broken.is_some() {
                summary.broken = Some(self.smallest(number, &verdict));
                break;
            }
        }
        summary
    }

    /// Leaves out of a broken history whatever it breaks without, and traces the rest.
    fn smallest(&self, number: u64, verdict: &Verdict) -> Broken {
        let invariant = |verdict: &Verdict| {
            verdict.broken.as_ref().map(|broken| broken.split(':').next().unwrap_or_default().to_owned())
        };
        let broken = invariant(verdict);
        let mut without = Without::default();
        let mut last = verdict.drawn.clone();
        let leave_out = |without: &mut Without, last: &mut BTreeSet<u32>, add: &dyn Fn(&mut Without) -> bool| {
            let mut fewer = without.clone();
            add(&mut fewer);
            let verdict = self.with_out(number, &fewer, false);
            if invariant(&verdict) == broken {
                *without = fewer;
                *last = verdict.drawn;
            }
        };
        // One left out shifts the calls after it, so from the back.
        for _ in 0..2 {
            for n in (0..40).rev() {
                leave_out(&mut without, &mut last, &|without| without.actions.insert(n));
            }
            for fault in last.clone().into_iter().rev() {
                leave_out(&mut without, &mut last, &|without| without.faults.insert(fault));
            }
        }
        let verdict = self.with_out(number, &without, true);
        let actions = schedule::generate(Rng::of(number), self.hosts, self.pauses, &without.actions).len();
        Broken {
            number,
            what: verdict.broken.unwrap_or_default(),
            faults: verdict.faults,
            actions,
            trace: verdict.trace,
        }
    }
}

/// The parts of a history that are left out to make it smaller.
#[derive(Clone, Debug, Default)]
struct Without {
    actions: BTreeSet<u32>,
    faults: BTreeSet<u32>,
}

/// How one history went.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The invariant that was broken, if one was.
    pub broken: Option<String>,
    /// How many calls went over the line.
    pub calls: u32,
    /// How many of them could change something.
    pub effects: u32,
    /// How many went wrong.
    pub faults: u32,
    /// The pairs of state and fault point that were hit.
    pub coverage: Coverage,
    drawn: BTreeSet<u32>,
    trace: Vec<String>,
}

/// How many histories went.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many.
    pub histories: u64,
    /// The histories' calls.
    pub calls: u64,
    /// The histories' faults.
    pub faults: u64,
    /// The pairs that they hit together.
    pub coverage: Coverage,
    /// The first one that broke something.
    pub broken: Option<Broken>,
}

impl Summary {
    /// Both together; of two that broke something, the first.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.histories += other.histories;
        self.calls += other.calls;
        self.faults += other.faults;
        self.coverage.add(&other.coverage);
        self.broken = self.broken.or(other.broken);
        self
    }
}

/// A history that broke something, as small as it gets.
#[derive(Clone, Debug)]
pub struct Broken {
    /// The history's number: [`Simulation::history`] lives through it again.
    pub number: u64,
    /// The invariant, and how it was broken.
    pub what: String,
    faults: u32,
    actions: usize,
    trace: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "history {} breaks: {}", self.number, self.what)?;
        writeln!(f, "with {} faults and {} actions left:", self.faults, self.actions)?;
        self.trace.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
