//! Histories of hosts on which everything goes wrong.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]
#![allow(clippy::print_stdout, reason = "what the run came to is a part of the result")]

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

#[test]
fn histories() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let (from, count) = (number("GPURENT_FIRST_HISTORY", 0), number("GPURENT_HISTORIES", 20_000));
    let begun = Instant::now();
    // One thread for each core; the first broken history ends it.
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let share = count.div_ceil(threads);
    let part = |n: u64| from + (n * share).min(count)..from + ((n + 1) * share).min(count);
    let summary = std::thread::scope(|scope| {
        let each: Vec<_> = (0..threads).map(|n| scope.spawn(move || Simulation::default().explore(part(n)))).collect();
        each.into_iter().map(|thread| thread.join().unwrap()).reduce(Summary::and).unwrap()
    });
    let took = begun.elapsed().as_secs_f64();
    println!(
        "{} histories, {} calls, {} faults in {took:.1} s: {:.0} histories a second; {}",
        summary.histories,
        summary.calls,
        summary.faults,
        summary.histories as f64 / took,
        summary.coverage
    );
    if let Some(broken) = summary.broken {
        panic!("{broken}");
    }
    if count >= 20_000 {
        assert_eq!(summary.coverage.missed(), [], "every pair of state and fault point is hit");
    }
}
