//! The engine's stamps on our clocks: it knows wall time only, and bills are made on the boot clock.

use jiff::{SignedDuration, Timestamp};

use crate::clock::Moment;
use crate::model::{Exit, Rental};

/// An instant of the engine's wall clock on both of ours. It lies as far back on the boot clock as on the
/// wall's, but not before `not_before`: then the wall clock was set since. One from the future (another
/// machine's clock) counts as now.
pub(super) fn on_both_clocks(stamp: Timestamp, now: &Moment, not_before: &Moment) -> Moment {
    let mut ago = now.wall.duration_since(stamp).max(SignedDuration::ZERO);
    if not_before.boot.boot == now.boot.boot {
        ago = ago.min(now.since(not_before)).max(SignedDuration::ZERO);
    }
    Moment { wall: stamp, ..now.shifted(-ago) }
}

/// Whether the machine went down under a container: it was started in an earlier boot, and the end that the
/// engine tells of lies in this one. An engine that was killed with the machine has no record, and makes
/// one up when it is back.
pub(super) fn ended_with_the_machine(rental: &Rental, exit: &Exit, last_seen: Option<&Moment>, now: &Moment) -> bool {
    // It lives on another machine than the agent, which alone was started anew.
    if last_seen.is_some_and(|seen| seen.boot.boot == now.boot.boot) {
        return false;
    }
    let booted_at = now.wall.saturating_sub(SignedDuration::from_micros(now.boot.micros)).unwrap_or(now.wall);
    let from = rental.paid_from().or(rental.started());
    from.is_some_and(|from| from.boot.boot != now.boot.boot) && exit.finished_at >= booted_at
}

/// From when a rental is paid for that is found to be ready now: since its container's start.
pub(super) fn paid_from(rental: &Rental, now: &Moment) -> Moment {
    let started_at = rental.started_at().unwrap_or(now.wall);
    match rental.started() {
        Some(started) => Moment { wall: started_at, boot: started.boot.clone() },
        None => on_both_clocks(started_at, now, rental.not_started_before()),
    }
}
