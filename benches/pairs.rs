//! Measures one thing against its peer: interleaved pairs in one run, so that whatever else the machine
//! does hits both.

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::time::{Duration, Instant};

/// How many pairs are measured.
pub const PAIRS: usize = 400;

/// Runs both in turn and prints medians, 90th percentiles, and the ratio of the medians.
pub fn measure(name: &str, mut subject: impl FnMut(), peer_name: &str, mut peer: impl FnMut()) {
    let (mut ours, mut theirs) = (Vec::with_capacity(PAIRS), Vec::with_capacity(PAIRS));
    for _ in 0..PAIRS {
        ours.push(time(&mut subject));
        theirs.push(time(&mut peer));
    }
    let (ours, theirs) = (Spread::of(ours), Spread::of(theirs));
    println!("{name:<40} median {:>10.1?}  p90 {:>10.1?}", ours.median, ours.p90);
    println!("{peer_name:<40} median {:>10.1?}  p90 {:>10.1?}", theirs.median, theirs.p90);
    println!("ratio of the medians: {:.2}", ours.median.as_secs_f64() / theirs.median.as_secs_f64());
}

fn time(run: &mut impl FnMut()) -> Duration {
    let begun = Instant::now();
    run();
    begun.elapsed()
}

struct Spread {
    median: Duration,
    p90: Duration,
}

impl Spread {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self { median: times[times.len() / 2], p90: times[times.len() * 9 / 10] }
    }
}
