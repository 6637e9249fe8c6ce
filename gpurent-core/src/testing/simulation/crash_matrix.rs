//! The crash matrix: the process dies at every boundary between two effects, in every variant, and once
//! more at every boundary of the recovery. Enumerated, not sampled.

use std::collections::BTreeMap;
use std::fmt;

use crate::testing::simulation::environment::Faults;
use crate::testing::simulation::fault_point::{FaultPoint, SimFault};
use crate::testing::simulation::runner::Run;
use crate::testing::simulation::schedule::{Action, LATEST, ScheduledAction};
use crate::testing::simulation::{Broken, Simulation, Verdict};

const SECOND: i64 = 1_000_000;

/// Nothing has happened; it has happened and nobody knows; it is known, and what follows is on its way.
const VARIANTS: [SimFault; 3] = [SimFault::CrashBefore, SimFault::CrashDone, SimFault::CrashAfter];

/// A life that is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Life {
    /// A port is taken and others are found, the term is extended, the credential is changed, time runs out.
    Whole,
    /// The rental is cancelled.
    Cancelled,
    /// The rental's program ends.
    Exited,
    /// The rental's container is removed by hand.
    Lost,
    /// The store is set back to before it was made, and it is adopted.
    Adopted,
    /// The rental is suspended, resumed, and its time runs out.
    Suspended,
    /// The rental is suspended, another one gets its GPU, and it is resumed on another GPU: its files are copied.
    Moved,
    /// A rental fills the disk, is warned, and ends.
    Fills,
}

impl Life {
    /// Every life.
    pub const ALL: [Self; 8] = [
        Self::Whole,
        Self::Cancelled,
        Self::Exited,
        Self::Lost,
        Self::Adopted,
        Self::Suspended,
        Self::Moved,
        Self::Fills,
    ];

    fn actions(self) -> Vec<ScheduledAction> {
        let rent = || Action::Rent { host: 0, gpus: 1, term_secs: 0, key: Some(0), times: 1 };
        // Whoever heard nothing asks again, with the same key.
        let mut life = vec![(SECOND, rent()), (4 * SECOND, rent())];
        match self {
            Self::Whole => life.extend([
                (6 * SECOND, Action::Extend { nth: LATEST, secs: 2 }),
                (7 * SECOND, Action::ChangeAccess { nth: LATEST }),
            ]),
            Self::Cancelled => life.push((7 * SECOND, Action::Cancel { nth: LATEST })),
            Self::Exited => life.push((7 * SECOND, Action::Exit { nth: 0, out_of_memory: true })),
            Self::Fills => life.push((6 * SECOND, Action::Fill { nth: 0 })),
            Self::Lost => life.push((7 * SECOND, Action::Lose { nth: 0 })),
            Self::Adopted => {
                life.insert(0, (SECOND / 2, Action::Backup));
                life.push((6 * SECOND, Action::Restore));
            }
            Self::Moved => life.extend([
                (6 * SECOND, Action::Suspend { nth: LATEST }),
                (7 * SECOND, Action::Suspend { nth: LATEST }),
                (8 * SECOND, Action::Rent { host: 0, gpus: 1, term_secs: 3, key: None, times: 1 }),
                (9 * SECOND, Action::Resume { nth: 0 }),
                (11 * SECOND, Action::Resume { nth: 0 }),
            ]),
            // Whoever heard nothing asks again.
            Self::Suspended => life.extend([
                (6 * SECOND, Action::Suspend { nth: LATEST }),
                (7 * SECOND, Action::Suspend { nth: LATEST }),
                (9 * SECOND, Action::Resume { nth: 0 }),
                (11 * SECOND, Action::Resume { nth: 0 }),
            ]),
        }
        life.into_iter().map(|(at, what)| ScheduledAction { at, what }).collect()
    }

    /// The fault besides the crashes.
    fn refusal(self) -> Option<(FaultPoint, SimFault)> {
        (self == Self::Whole).then_some((FaultPoint::Start, SimFault::Refused))
    }
}

/// The outcome of the matrix.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    /// How many boundaries the lives have, uninterrupted.
    pub boundaries: u64,
    /// How many lives were interrupted once.
    pub once: u64,
    /// How many were interrupted twice.
    pub twice: u64,
    /// The first life that broke something.
    pub broken: Option<Broken>,
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { boundaries, once, twice, .. } = self;
        write!(f, "{boundaries} boundaries: {once} lives with one crash, {twice} with two")
    }
}

/// Lives one life through with every crash, and every crash with every second one.
#[must_use]
pub fn crash_matrix(simulation: &Simulation, life: Life) -> Matrix {
    let simulation = Simulation { hosts: 1, chaos: 34 * SECOND, echoes: SECOND, ..simulation.clone() };
    let actions = life.actions();
    let live = |faults: &BTreeMap<u32, SimFault>, traced| {
        let faults = Faults::Exactly { at: faults.clone(), first: life.refusal() };
        Run::new(1, &simulation, faults, traced).live(&actions)
    };
    let mut matrix = Matrix::default();
    let broke = |matrix: &mut Matrix, faults: &BTreeMap<u32, SimFault>, verdict: &Verdict| {
        if verdict.broken.is_some() {
            let traced = live(faults, true);
            matrix.broken = Some(Broken {
                number: 1,
                what: format!("{life:?} with {faults:?}: {}", traced.broken.unwrap_or_default()),
                faults: traced.faults,
                actions: actions.len(),
                trace: traced.trace,
            });
        }
        verdict.broken.is_some()
    };
    let undisturbed = live(&BTreeMap::new(), false);
    if broke(&mut matrix, &BTreeMap::new(), &undisturbed) {
        return matrix;
    }
    matrix.boundaries = u64::from(undisturbed.effects);
    for first in 1..=undisturbed.effects {
        for variant in VARIANTS {
            let once = BTreeMap::from([(first, variant)]);
            let verdict = live(&once, false);
            matrix.once += 1;
            if broke(&mut matrix, &once, &verdict) {
                return matrix;
            }
            for second in first + 1..=verdict.effects {
                for variant in VARIANTS {
                    let mut twice = once.clone();
                    twice.insert(second, variant);
                    let verdict = live(&twice, false);
                    matrix.twice += 1;
                    if broke(&mut matrix, &twice, &verdict) {
                        return matrix;
                    }
                }
            }
        }
    }
    matrix
}
