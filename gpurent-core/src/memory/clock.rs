//! A clock that stands still until it is told to go on.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::clock::{BootId, BootTime, Clock, Moment, SleepFuture};

/// A clock for tests. Its copies are the same clock.
#[derive(Clone)]
pub struct ManualClock {
    time: Arc<Mutex<Time>>,
}

struct Time {
    wall_micros: i64,
    boot_micros: i64,
    boot: u32,
    sleepers: BTreeMap<(i64, u64), Waker>,
    next_sleeper: u64,
}

impl ManualClock {
    /// A clock that shows some fixed time.
    #[must_use]
    pub fn new() -> Self {
        let time = Time {
            wall_micros: 1_800_000_000_000_000,
            boot_micros: 1_000_000,
            boot: 1,
            sleepers: BTreeMap::new(),
            next_sleeper: 0,
        };
        Self { time: Arc::new(Mutex::new(time)) }
    }

    fn time(&self) -> MutexGuard<'_, Time> {
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets time pass, and wakes who slept until then.
    pub fn advance(&self, by: SignedDuration) {
        let mut time = self.time();
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        time.wall_micros += micros;
        time.boot_micros += micros;
        let now = time.boot_micros;
        let still_asleep = time.sleepers.split_off(&(now + 1, 0));
        let awake = std::mem::replace(&mut time.sleepers, still_asleep);
        drop(time);
        awake.into_values().for_each(Waker::wake);
    }

    /// Sets the wall clock ahead or back, as an operator or NTP may; the boot clock stays.
    pub fn jump_wall(&self, by: SignedDuration) {
        self.time().wall_micros += i64::try_from(by.as_micros()).unwrap_or(0);
    }

    /// Begins another boot: readings of the boot clock can no longer be compared with earlier ones.
    pub fn reboot(&self) {
        let mut time = self.time();
        time.boot += 1;
    }

    /// Sleeps until this clock has gone on by `duration`.
    #[must_use]
    pub fn sleep(&self, duration: Duration) -> SleepFuture {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        let deadline = self.time().boot_micros.saturating_add(micros);
        Box::pin(Sleeper { clock: self.clone(), deadline, key: None })
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        let time = self.time();
        Moment {
            wall: Timestamp::from_microsecond(time.wall_micros).unwrap_or(Timestamp::UNIX_EPOCH),
            boot: BootTime { boot: BootId(format!("manual-{}", time.boot)), micros: time.boot_micros },
        }
    }
}

struct Sleeper {
    clock: ManualClock,
    deadline: i64,
    key: Option<(i64, u64)>,
}

impl Future for Sleeper {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let clock = self.clock.clone();
        let mut time = clock.time();
        if let Some(key) = self.key.take() {
            time.sleepers.remove(&key);
        }
        if time.boot_micros >= self.deadline {
            return Poll::Ready(());
        }
        let key = (self.deadline, time.next_sleeper);
        time.next_sleeper += 1;
        time.sleepers.insert(key, context.waker().clone());
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.clock.time().sleepers.remove(&key);
        }
    }
}
