//! Time: the wall clock that people pay by, and the boot clock that cannot be set.
//!
//! A wall clock jumps (NTP, an operator, a daylight bug); the time since boot does not. While a host
//! stays up, paid time is therefore measured on the boot clock, and only across a reboot on the wall's.

use std::pin::Pin;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// One boot of one machine, as its kernel names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub String);

/// A reading of the boot clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootTime {
    /// Readings of different boots cannot be compared.
    pub boot: BootId,
    /// Microseconds since that boot.
    pub micros: i64,
}

/// An instant on the boot clock, of one boot: what the reconciler plans by, which a clock that is set cannot move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootInstant(i64);

impl BootInstant {
    /// Before every other.
    pub const EARLIEST: Self = Self(i64::MIN);
    /// After every other: what never comes.
    pub const LATEST: Self = Self(i64::MAX);

    /// The instant so many microseconds after the boot.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the boot.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The instant that follows this one by `wait`.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; nothing where it is before.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Both clocks, read together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The wall clock, in whole microseconds (what the stores keep).
    pub wall: Timestamp,
    /// The boot clock.
    pub boot: BootTime,
}

impl Moment {
    /// The moment on the boot clock.
    #[must_use]
    pub fn instant(&self) -> BootInstant {
        BootInstant(self.boot.micros)
    }

    /// The same moment moved by `by` on both clocks.
    #[must_use]
    pub fn shifted(&self, by: SignedDuration) -> Self {
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        Self {
            wall: self.wall.saturating_add(by).unwrap_or(self.wall),
            boot: BootTime { boot: self.boot.boot.clone(), micros: self.boot.micros.saturating_add(micros) },
        }
    }

    /// How long after `earlier` this is: on the boot clock within one boot, else on the wall clock.
    #[must_use]
    pub fn since(&self, earlier: &Moment) -> SignedDuration {
        if self.boot.boot == earlier.boot.boot {
            SignedDuration::from_micros(self.boot.micros.saturating_sub(earlier.boot.micros))
        } else {
            self.wall.duration_since(earlier.wall)
        }
    }
}

/// Cuts a timestamp to whole microseconds, the precision every store keeps.
#[must_use]
pub fn to_micros(at: Timestamp) -> Timestamp {
    // The range of microseconds is that of timestamps, so the fallback is never taken.
    Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at)
}

/// Tells the time. Injected everywhere, so that tests decide what time it is.
pub trait Clock: Send + Sync + 'static {
    /// Both clocks now.
    fn now(&self) -> Moment;
}

/// A future that ends after some time, on whichever executor the embedder uses.
pub type SleepFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Waits. Implemented by every `Fn(Duration) -> SleepFuture`, such as
/// `|d| Box::pin(tokio::time::sleep(d)) as SleepFuture`.
pub trait Sleep: Send + Sync {
    /// Ends after `duration`, never before.
    fn sleep(&self, duration: Duration) -> SleepFuture;
}

impl<F: Fn(Duration) -> SleepFuture + Send + Sync> Sleep for F {
    fn sleep(&self, duration: Duration) -> SleepFuture {
        self(duration)
    }
}

/// The machine's clocks.
///
/// The boot clock is the kernel's uptime read once, carried on by the monotonic clock; where there is no
/// `/proc`, a boot is the life of this process.
#[derive(Clone, Debug)]
pub struct SystemClock {
    boot: BootId,
    uptime: Duration,
    read_at: Instant,
}

impl SystemClock {
    /// Reads the machine's boot id and uptime.
    #[must_use]
    pub fn new() -> Self {
        let read_at = Instant::now();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let uptime = std::fs::read_to_string("/proc/uptime")
            .ok()
            .and_then(|text| text.split_whitespace().next().and_then(|secs| secs.parse::<f64>().ok()))
            .and_then(|secs| Duration::try_from_secs_f64(secs).ok());
        match (boot, uptime) {
            (Ok(boot), Some(uptime)) => Self { boot: BootId(boot.trim().to_owned()), uptime, read_at },
            _ => Self { boot: process_boot_id(), uptime: Duration::ZERO, read_at },
        }
    }
}

/// The stand-in for a boot id where the kernel tells none.
fn process_boot_id() -> BootId {
    static ID: OnceLock<String> = OnceLock::new();
    BootId(ID.get_or_init(|| format!("process-{}", uuid::Uuid::new_v4())).clone())
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        let since_boot = self.uptime + self.read_at.elapsed();
        Moment {
            wall: to_micros(Timestamp::now()),
            boot: BootTime {
                boot: self.boot.clone(),
                micros: i64::try_from(since_boot.as_micros()).unwrap_or(i64::MAX),
            },
        }
    }
}
