//! Time, and everything that is still to happen: answers under way, sleepers, effects that nobody waits for
//! any more.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use jiff::{SignedDuration, Timestamp};

use crate::clock::{BootId, BootTime, Clock, Moment, SleepFuture};
use crate::model::Phase;
use crate::testing::simulation::fault_point::{Coverage, FaultPoint, SimFault};
use crate::testing::simulation::rng::{Draw, Purpose, Rng};

/// The fakes never wait by themselves.
pub(super) fn at_once<F: Future>(future: F) -> F::Output {
    future.now_or_never().unwrap_or_else(|| unreachable!("what is in memory answers at once"))
}

/// Where the wall clocks of all machines begin.
const WALL_ORIGIN: i64 = 1_800_000_000_000_000;

/// A process that acts for a host, or did.
pub(super) type ProcessId = usize;
/// A host; its machine and its engine have the same number.
pub(super) type HostNo = usize;

/// A history's faults.
#[derive(Clone, Debug)]
pub(super) enum Faults {
    /// Drawn, so many in a thousand calls; those of these ordinals are left out.
    Drawn { per_mille: u64, left_out: BTreeSet<u32> },
    /// Exactly these, by the ordinal of the effect, and one at the first call of a kind.
    Exactly { at: BTreeMap<u32, SimFault>, first: Option<(FaultPoint, SimFault)> },
}

enum Pending {
    Wake(Waker),
    Do(Box<dyn FnOnce() + Send>),
}

struct Machine {
    boot: u32,
    booted_at: i64,
    wall_offset: i64,
    clock_was_set: bool,
}

/// The one environment of a history. Its copies are the same environment.
#[derive(Clone)]
pub(super) struct Environment(Arc<Mutex<State>>);

struct State {
    rng: Rng,
    faults: Faults,
    now: i64,
    pending: BTreeMap<(i64, u64), Pending>,
    numbered: u64,
    machines: Vec<Machine>,
    calls: u32,
    effects: u32,
    /// From here on nothing goes wrong any more.
    calm: bool,
    dying: BTreeSet<ProcessId>,
    dead: BTreeSet<ProcessId>,
    /// When something last went wrong on a host that may delay an end: its engine, its agent, its disk.
    trouble: BTreeMap<HostNo, i64>,
    coverage: Coverage,
    injected: u32,
    trace: Option<Vec<String>>,
    /// The ordinals of the faults that were drawn.
    drawn: Vec<u32>,
    broken: Option<String>,
}

/// The subject of a call, for the trace and for coverage.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) process: ProcessId,
    pub(super) host: HostNo,
    /// The states of the rentals that the call is about.
    pub(super) phases: Vec<Phase>,
    pub(super) what: String,
}

impl Environment {
    pub(super) fn new(number: u64, hosts: usize, faults: Faults, traced: bool) -> Self {
        let machine = || Machine { boot: 1, booted_at: -1_000_000_000, wall_offset: 0, clock_was_set: false };
        Self(Arc::new(Mutex::new(State {
            rng: Rng::of(number),
            faults,
            now: 0,
            pending: BTreeMap::new(),
            numbered: 0,
            machines: (0..hosts).map(|_| machine()).collect(),
            calls: 0,
            effects: 0,
            calm: false,
            dying: BTreeSet::new(),
            dead: BTreeSet::new(),
            trouble: BTreeMap::new(),
            coverage: Coverage::default(),
            injected: 0,
            trace: traced.then(Vec::new),
            drawn: Vec::new(),
            broken: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> i64 {
        self.state().now
    }

    pub(super) fn draw(&self, purpose: Purpose, ordinal: u32) -> Draw {
        self.state().rng.draw(purpose, ordinal)
    }

    /// Lets time go on to whatever happens next, and lets one such thing happen; false where nothing is left
    /// before `until`, and time has come there.
    pub(super) fn go_on(&self, until: i64) -> bool {
        let pending = {
            let mut state = self.state();
            match state.pending.first_key_value().map(|(key, _)| *key) {
                Some(key) if key.0 <= until => {
                    state.now = state.now.max(key.0);
                    state.pending.remove(&key)
                }
                _ => {
                    state.now = state.now.max(until);
                    return false;
                }
            }
        };
        match pending {
            Some(Pending::Wake(waker)) => waker.wake(),
            Some(Pending::Do(work)) => work(),
            None => {}
        }
        true
    }

    fn put(state: &mut State, at: i64, pending: Pending) -> (i64, u64) {
        state.numbered += 1;
        // Things of the same instant happen in an order of their own.
        let salt = state.rng.draw(Purpose::Turn, 1 << 31 | u32::try_from(state.numbered).unwrap_or(0)).below(1 << 20);
        let key = (at, salt << 40 | state.numbered);
        state.pending.insert(key, pending);
        key
    }

    /// Lets something happen at a time, whoever is there to see it.
    pub(super) fn at(&self, at: i64, work: impl FnOnce() + Send + 'static) {
        Self::put(&mut self.state(), at, Pending::Do(Box::new(work)));
    }

    pub(super) fn sleep(&self, duration: Duration) -> SleepFuture {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 2).min(i64::MAX / 4);
        Box::pin(Sleeper { environment: self.clone(), deadline: self.now() + micros, key: None })
    }

    pub(super) fn be_calm(&self) {
        self.state().calm = true;
    }

    pub(super) fn is_calm(&self) -> bool {
        self.state().calm
    }

    /// Notes a violation; the first one counts.
    pub(super) fn broken(&self, what: String) {
        self.trace(|| format!("BROKEN: {what}"));
        self.state().broken.get_or_insert(what);
    }

    pub(super) fn what_broke(&self) -> Option<String> {
        self.state().broken.clone()
    }

    pub(super) fn trace(&self, line: impl FnOnce() -> String) {
        let mut state = self.state();
        let now = state.now;
        if let Some(trace) = &mut state.trace {
            #[allow(clippy::cast_precision_loss, reason = "for people")]
            trace.push(format!("{:>11.6} {}", now as f64 / 1e6, line()));
        }
    }

    pub(super) fn is_traced(&self) -> bool {
        self.state().trace.is_some()
    }

    pub(super) fn take_trace(&self) -> Vec<String> {
        self.state().trace.take().unwrap_or_default()
    }

    pub(super) fn kill(&self, process: ProcessId) {
        self.state().dying.insert(process);
    }

    pub(super) fn take_dying(&self) -> BTreeSet<ProcessId> {
        std::mem::take(&mut self.state().dying)
    }

    /// From here on nothing of this process is left.
    pub(super) fn buried(&self, process: ProcessId) {
        self.state().dead.insert(process);
    }

    pub(super) fn is_dead(&self, process: ProcessId) -> bool {
        self.state().dead.contains(&process)
    }

    pub(super) fn trouble(&self, host: HostNo) {
        let mut state = self.state();
        let now = state.now;
        let last = state.trouble.entry(host).or_insert(now);
        *last = (*last).max(now);
    }

    /// Trouble that lasts until then.
    pub(super) fn trouble_until(&self, host: HostNo, until: i64) {
        let mut state = self.state();
        let last = state.trouble.entry(host).or_insert(until);
        *last = (*last).max(until);
    }

    pub(super) fn last_trouble(&self, host: HostNo) -> Option<i64> {
        self.state().trouble.get(&host).copied()
    }

    pub(super) fn coverage(&self) -> Coverage {
        self.state().coverage.clone()
    }

    /// How many calls there were, how many of them could change something, and how many faults.
    pub(super) fn counts(&self) -> (u32, u32, u32) {
        let state = self.state();
        (state.calls, state.effects, state.injected)
    }

    pub(super) fn drawn(&self) -> Vec<u32> {
        self.state().drawn.clone()
    }

    /// How long a call takes until its effect, and from there to its answer.
    pub(super) fn latency(&self, call: u32) -> (i64, i64) {
        let mut draw = self.draw(Purpose::Latency, call);
        let mut one = || match draw.below(100) {
            0..70 => draw.between(50, 3_000),
            70..97 => draw.between(3_000, 40_000),
            _ => draw.between(40_000, 150_000),
        };
        (one(), one())
    }

    /// Counts a call, and says what goes wrong with it.
    pub(super) fn fault(&self, point: FaultPoint, about: &About) -> (u32, Option<SimFault>) {
        let mut state = self.state();
        state.calls += 1;
        state.effects += u32::from(point.is_effect());
        let (call, effect) = (state.calls, state.effects);
        let mut draw = state.rng.draw(Purpose::Fault, call);
        let calm = state.calm;
        let fault = match &mut state.faults {
            Faults::Exactly { at, first } => {
                let planned = at.get(&effect).copied().filter(|_| point.is_effect());
                planned.or_else(|| first.take_if(|(kind, _)| *kind == point).map(|(_, fault)| fault))
            }
            Faults::Drawn { per_mille, left_out } => {
                // Adoptions are rare, as are the last words of what fails on its way up, and so is a fault just then.
                let rare =
                    if matches!(point, FaultPoint::Adopt | FaultPoint::Examine | FaultPoint::Logs) { 8 } else { 1 };
                let hits = !calm && draw.per_mille(*per_mille * rare) && !left_out.contains(&call);
                hits.then(|| drawn_fault(point, &mut draw))
            }
        };
        if let Some(fault) = fault {
            state.injected += 1;
            state.drawn.push(call);
            if about.phases.is_empty() {
                state.coverage.note(point, None);
            }
            for phase in &about.phases {
                state.coverage.note(point, Some(*phase));
            }
            let lasts = match fault {
                SimFault::Hang(micros) | SimFault::HangAfter(micros) | SimFault::Slow(micros) => micros,
                _ => 0,
            };
            let crashes =
                matches!(fault, SimFault::CrashBefore | SimFault::CrashDone | SimFault::CrashAfter | SimFault::Panic);
            if !point.is_store() || crashes {
                let until = state.now + lasts;
                let last = state.trouble.entry(about.host).or_insert(until);
                *last = (*last).max(until);
            }
        }
        drop(state);
        // What is asked over and over again, and goes well, tells nothing.
        let routine = matches!(
            point,
            FaultPoint::Live | FaultPoint::Observe | FaultPoint::Publish | FaultPoint::Confirm | FaultPoint::Journal
        );
        if self.is_traced() && (fault.is_some() || !routine) {
            let with = fault.map(|fault| format!("  !! {fault:?}")).unwrap_or_default();
            self.trace(|| format!("call {call:>4} process {} {point:?} {}{with}", about.process, about.what));
        }
        (call, fault)
    }

    pub(super) fn clock(&self, machine: HostNo) -> MachineClock {
        MachineClock { environment: self.clone(), machine }
    }

    pub(super) fn set_wall(&self, machine: HostNo, by: SignedDuration) {
        let mut state = self.state();
        state.machines[machine].wall_offset += i64::try_from(by.as_micros()).unwrap_or(0);
        state.machines[machine].clock_was_set = true;
    }

    pub(super) fn clock_was_set(&self, machine: HostNo) -> bool {
        self.state().machines[machine].clock_was_set
    }

    pub(super) fn reboot(&self, machine: HostNo) {
        let mut state = self.state();
        let now = state.now;
        state.machines[machine].boot += 1;
        state.machines[machine].booted_at = now;
    }
}

fn drawn_fault(point: FaultPoint, draw: &mut Draw) -> SimFault {
    let short = draw.between(10_000, 900_000);
    // A store's driver gives up after five seconds.
    let long = draw.between(1_000_000, if point.is_store() { 5_000_000 } else { 25_000_000 });
    let refuses = matches!(
        point,
        FaultPoint::Prepare | FaultPoint::Create | FaultPoint::Start | FaultPoint::Verify | FaultPoint::WriteBook
    );
    match draw.below(100) {
        0..18 => SimFault::Before,
        18..38 => SimFault::After,
        // The store's statements are bounded in time, and a disk is near; a request to an engine may arrive
        // whenever.
        38..46 if !point.is_store() && !point.is_book() => SimFault::Late(draw.between(100_000, 8_000_000)),
        38..46 => SimFault::Slow(short),
        46..52 => SimFault::Hang(long),
        52..58 => SimFault::HangAfter(long),
        58..64 if !point.is_book() => SimFault::Twice(short),
        58..70 => SimFault::Slow(short),
        70..76 if refuses => SimFault::Refused,
        70..79 => SimFault::Panic,
        79..86 => SimFault::CrashBefore,
        86..93 => SimFault::CrashDone,
        _ => SimFault::CrashAfter,
    }
}

/// A machine's clocks.
#[derive(Clone)]
pub(super) struct MachineClock {
    environment: Environment,
    machine: HostNo,
}

impl Clock for MachineClock {
    fn now(&self) -> Moment {
        let state = self.environment.state();
        let machine = &state.machines[self.machine];
        let wall = WALL_ORIGIN + state.now + machine.wall_offset;
        Moment {
            wall: Timestamp::from_microsecond(wall).unwrap_or(Timestamp::UNIX_EPOCH),
            boot: BootTime {
                boot: BootId(format!("machine-{}-boot-{}", self.machine, machine.boot)),
                micros: state.now - machine.booted_at,
            },
        }
    }
}

struct Sleeper {
    environment: Environment,
    deadline: i64,
    key: Option<(i64, u64)>,
}

impl Future for Sleeper {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let environment = self.environment.clone();
        let mut state = environment.state();
        if let Some(key) = self.key.take() {
            state.pending.remove(&key);
        }
        if state.now >= self.deadline {
            return Poll::Ready(());
        }
        self.key = Some(Environment::put(&mut state, self.deadline, Pending::Wake(context.waker().clone())));
        Poll::Pending
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.environment.state().pending.remove(&key);
        }
    }
}
