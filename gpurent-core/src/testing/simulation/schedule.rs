//! The actions of a history: what renters ask for, and what befalls the machines.

use std::collections::BTreeSet;

use crate::testing::simulation::environment::HostNo;
use crate::testing::simulation::rng::{Purpose, Rng};

/// Something that happens at a time, in microseconds.
#[derive(Clone, Debug)]
pub(super) struct ScheduledAction {
    pub(super) at: i64,
    pub(super) what: Action,
}

/// A scheduled action. `nth` means one of the rentals there are.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// A renter rents; with a key it may be asked several times, with or without waiting for an answer.
    Rent {
        host: HostNo,
        gpus: u8,
        term_secs: i64,
        key: Option<u8>,
        times: u8,
    },
    Cancel {
        nth: u64,
    },
    Extend {
        nth: u64,
        secs: i64,
    },
    ChangeAccess {
        nth: u64,
    },
    Suspend {
        nth: u64,
    },
    /// One of those that are suspended.
    Resume {
        nth: u64,
    },
    /// A container's program ends.
    Exit {
        nth: u64,
        out_of_memory: bool,
    },
    /// A container's program begins to fill the disk.
    Fill {
        nth: u64,
    },
    /// A container is removed by hand.
    Lose {
        nth: u64,
    },
    SetWallClock {
        host: HostNo,
        secs: i64,
    },
    /// The machine goes down with everything on it.
    Reboot {
        host: HostNo,
        down: i64,
    },
    /// The engine does not answer; its containers run on.
    EngineAway {
        host: HostNo,
        lasts: i64,
    },
    /// The engine is restarted without live-restore: its containers end.
    EngineRestart {
        host: HostNo,
        lasts: i64,
    },
    StoreAway {
        lasts: i64,
    },
    StoreHangs {
        lasts: i64,
    },
    DiskFull {
        host: HostNo,
        lasts: i64,
    },
    /// kill -9, and a supervisor that starts it again.
    Kill {
        host: HostNo,
        down: i64,
    },
    /// SIGTERM, and a new one.
    Terminate {
        host: HostNo,
        down: i64,
    },
    /// SIGSTOP, SIGCONT.
    Pause {
        host: HostNo,
        lasts: i64,
    },
    /// Another agent takes the host over, on another machine; the former one is stopped, and goes on later.
    Rival {
        host: HostNo,
        wakes: i64,
    },
    Backup,
    Restore,
}

/// The rental that was made last.
pub(super) const LATEST: u64 = u64::MAX;

const SECOND: i64 = 1_000_000;

/// Everything happens within so many seconds.
pub(super) const CHAOS: i64 = 75 * SECOND;

/// Draws a history.
pub(super) fn generate(rng: Rng, hosts: usize, pauses: bool, left_out: &BTreeSet<u32>) -> Vec<ScheduledAction> {
    let mut draw = rng.draw(Purpose::Happening, 0);
    let hosts = hosts as u64;
    let rents = 2 + draw.below(5);
    let others = draw.below(12);
    // Some kinds of trouble are rare, and get in the way of checking others.
    let sets_clocks = draw.per_mille(250);
    let restores = draw.per_mille(120);
    let has_rivals = draw.per_mille(150);
    let mut actions = Vec::new();
    for n in 0..rents + others {
        let at = if n < 2 { draw.between(0, 3 * SECOND) } else { draw.between(0, CHAOS - 10 * SECOND) };
        let host = usize::try_from(draw.below(hosts)).unwrap_or(0);
        let nth = draw.below(64);
        let lasts = match draw.below(4) {
            0 => draw.between(100_000, 2 * SECOND),
            1 | 2 => draw.between(2 * SECOND, 12 * SECOND),
            _ => draw.between(12 * SECOND, 50 * SECOND),
        };
        let what = if n < rents {
            let keyed = draw.per_mille(400);
            Action::Rent {
                host,
                gpus: if draw.per_mille(200) { 2 } else { 1 },
                term_secs: draw.between(5, 100),
                key: keyed.then(|| u8::try_from(draw.below(3)).unwrap_or(0)),
                times: if keyed { u8::try_from(1 + draw.below(3)).unwrap_or(1) } else { 1 },
            }
        } else {
            match draw.below(100) {
                0..14 => Action::Cancel { nth },
                14..26 => Action::Extend { nth, secs: draw.between(1, 60) },
                26..34 => Action::ChangeAccess { nth },
                34..39 => Action::Exit { nth, out_of_memory: draw.per_mille(300) },
                39..43 => Action::Lose { nth },
                43..50 if sets_clocks => {
                    let day = 24 * 3600;
                    let secs = [-day, day, -30, 30, 5, -5][usize::try_from(draw.below(6)).unwrap_or(0)];
                    Action::SetWallClock { host, secs }
                }
                43..50 => Action::Kill { host, down: lasts / 8 },
                50..54 => Action::Reboot { host, down: lasts / 3 },
                54..59 => Action::EngineAway { host, lasts },
                59..62 => Action::EngineRestart { host, lasts: lasts / 4 },
                62..70 => Action::StoreAway { lasts },
                70..75 => Action::StoreHangs { lasts },
                75..78 => Action::DiskFull { host, lasts },
                78..85 => Action::Kill { host, down: lasts },
                85..88 => Action::Terminate { host, down: lasts / 4 },
                88..92 => Action::Pause { host, lasts },
                92..96 if has_rivals => Action::Rival { host, wakes: lasts },
                92..96 => Action::Pause { host, lasts },
                _ if restores => Action::Restore,
                _ => Action::Kill { host, down: lasts / 16 },
            }
        };
        if matches!(what, Action::Rent { .. }) && draw.per_mille(250) {
            // While its container is being made and entered for the first time.
            let soon = at + draw.between(20_000, 400_000);
            actions.push(ScheduledAction { at: soon, what: Action::ChangeAccess { nth: LATEST } });
        }
        actions.push(ScheduledAction { at, what });
    }
    if restores {
        actions.push(ScheduledAction { at: draw.between(0, CHAOS / 2), what: Action::Backup });
    }
    if pauses {
        actions.extend(drawn_pauses(rng));
    }
    actions.extend(drawn_fill(rng));
    let kept = actions.into_iter().zip(0u32..).filter(|(_, n)| !left_out.contains(n)).map(|(scheduled, _)| scheduled);
    let mut kept: Vec<_> = kept.collect();
    kept.sort_by_key(|scheduled| scheduled.at);
    kept
}

/// A container that fills the disk: in every fourth history, drawn apart.
fn drawn_fill(rng: Rng) -> Option<ScheduledAction> {
    let mut draw = rng.draw(Purpose::Fill, 0);
    let fills = draw.per_mille(250);
    let at = draw.between(SECOND, CHAOS - 10 * SECOND);
    fills.then(|| ScheduledAction { at, what: Action::Fill { nth: draw.below(64) } })
}

/// The suspensions and resumptions: in every other history, drawn apart, so that the rest is the same without them.
fn drawn_pauses(rng: Rng) -> Vec<ScheduledAction> {
    let mut draw = rng.draw(Purpose::Pause, 0);
    let mut actions = Vec::new();
    let pauses = if draw.per_mille(500) { 1 + draw.below(4) } else { 0 };
    for _ in 0..pauses {
        let at = draw.between(SECOND / 2, CHAOS - 12 * SECOND);
        actions.push(ScheduledAction { at, what: Action::Suspend { nth: draw.below(64) } });
        for _ in 0..draw.below(3) {
            let later = at + draw.between(SECOND / 10, 12 * SECOND);
            actions.push(ScheduledAction { at: later, what: Action::Resume { nth: draw.below(64) } });
        }
    }
    actions
}
