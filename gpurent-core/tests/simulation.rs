//! Histories of hosts on which everything goes wrong.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]
#![allow(clippy::print_stdout, reason = "what the run came to is a part of the result")]

use std::io::Write as _;
use std::time::Instant;

use gpurent_core::testing::simulation::{Life, Simulation, Summary, crash_matrix};

/// Every boundary, every variant, and every second crash.
#[test]
fn crashes() {
    let simulation = Simulation::default();
    let lives = std::thread::scope(|scope| {
        let each = Life::ALL.map(|life| {
            scope.spawn({
                let simulation = &simulation;
                move || (life, crash_matrix(simulation, life))
            })
        });
        each.map(|thread| thread.join().unwrap())
    });
    for (life, matrix) in lives {
        println!("{life:?}: {matrix}");
        if let Some(broken) = matrix.broken {
            panic!("{broken}");
        }
    }
}

/// The number of histories in a run that no run had before.
const NEW: u64 = 250;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn histories() {
    let (from, count) = (number("GPURENT_FIRST_HISTORY", 0), number("GPURENT_HISTORIES", 20_000));
    let summary = live_through(from, count);
    if count >= 20_000 {
        assert_eq!(summary.coverage.missed(), [], "every pair of state and fault point is hit");
    }
}

/// Numbered by when they are lived through, so that each run has others. One that breaks is lived through again by
/// `GPURENT_FIRST_HISTORY=N GPURENT_HISTORIES=1`.
#[test]
fn histories_that_nobody_has_seen() {
    let second = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    // Past the capture of what passes, so that every run's log has it.
    writeln!(std::io::stderr(), "{NEW} new histories, from {} on", second * NEW).unwrap();
    live_through(second * NEW, NEW);
}

/// Histories in a row, on one thread for each core; the first broken one ends it.
fn live_through(from: u64, count: u64) -> Summary {
    let begun = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64).min(count);
    let share = count.div_ceil(threads);
    let part = |n: u64| from + (n * share).min(count)..from + ((n + 1) * share).min(count);
    let summary = std::thread::scope(|scope| {
        let each: Vec<_> = (0..threads).map(|n| scope.spawn(move || Simulation::default().explore(part(n)))).collect();
        each.into_iter().map(|thread| thread.join().unwrap()).reduce(Summary::and).unwrap()
    });
    let took = begun.elapsed().as_secs_f64();
    println!(
        "{} histories from {from} on, {} calls, {} faults in {took:.1} s: {:.0} histories a second; {}",
        summary.histories,
        summary.calls,
        summary.faults,
        summary.histories as f64 / took,
        summary.coverage
    );
    if let Some(broken) = &summary.broken {
        panic!("{broken}");
    }
    summary
}
