//! Measures things against each other: interleaved rounds in one run, so that whatever else the machine
//! does hits all of them alike, and the peer twice, so that the noise shows as a ratio too (A/A).

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

/// One of the things that are compared: runs it once, and gives the times that count.
pub type Subject<'a> = (&'a str, Box<dyn FnMut() -> BoxFuture<'a, Vec<Duration>> + 'a>);

/// One of the things that are compared by [`compare_plain`].
pub type PlainSubject<'a> = (&'a str, Box<dyn FnMut() + 'a>);

/// As [`compare`], for subjects that bring their own executor or need none.
pub fn compare_plain(question: &str, rounds: usize, mut subjects: Vec<PlainSubject<'_>>) {
    let count = subjects.len();
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); count];
    for round in 0..rounds {
        for turn in 0..count {
            let which = (round + turn) % count;
            let begun = Instant::now();
            (subjects[which].1)();
            times[which].push(begun.elapsed());
        }
    }
    let names: Vec<&str> = subjects.iter().map(|(name, _)| *name).collect();
    tell(question, &names, &times);
}

/// Runs every subject once a round, each round beginning with another one, and prints what came of it.
/// The last two subjects have to be the same peer: all ratios are to the first of them.
pub async fn compare(question: &str, rounds: usize, mut subjects: Vec<Subject<'_>>) {
    let count = subjects.len();
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); count];
    for round in 0..rounds {
        for turn in 0..count {
            let which = (round + turn) % count;
            times[which].extend((subjects[which].1)().await);
        }
    }
    let names: Vec<&str> = subjects.iter().map(|(name, _)| *name).collect();
    tell(question, &names, &times);
}

/// Prints medians, 90th percentiles, and the ratios of the medians with their 95 % intervals.
pub fn tell(question: &str, names: &[&str], times: &[Vec<Duration>]) {
    println!("\n{question}");
    let peer = &times[times.len() - 2];
    for (name, times) in names.iter().zip(times) {
        let (ratio, low, high) = ratio(times, peer);
        println!(
            "  {name:<44} n {:>5}  median {:>10.1?}  p90 {:>10.1?}  ratio {ratio:.3} [{low:.3}, {high:.3}]",
            times.len(),
            quantile(times, 0.5),
            quantile(times, 0.9),
        );
    }
}

/// A quantile of some times.
#[must_use]
pub fn quantile(times: &[Duration], q: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index below the length"
    )]
    let index = ((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}

/// The ratio of the medians, and its bootstrap interval.
fn ratio(ours: &[Duration], theirs: &[Duration]) -> (f64, f64, f64) {
    const RESAMPLES: usize = 1000;
    let of = |ours: &[Duration], theirs: &[Duration]| {
        quantile(ours, 0.5).as_secs_f64() / quantile(theirs, 0.5).as_secs_f64().max(1e-12)
    };
    // A fixed seed: the same times always have the same interval (splitmix64).
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % below as u64).unwrap_or(0)
    };
    let mut resample =
        |times: &[Duration]| -> Vec<Duration> { times.iter().map(|_| times[next(times.len())]).collect() };
    let mut ratios: Vec<f64> = (0..RESAMPLES).map(|_| of(&resample(ours), &resample(theirs))).collect();
    ratios.sort_by(f64::total_cmp);
    (of(ours, theirs), ratios[RESAMPLES / 40], ratios[RESAMPLES - 1 - RESAMPLES / 40])
}

/// How many rounds: `GPURENT_ROUNDS`, or what the bench takes by itself.
#[must_use]
pub fn rounds(usual: usize) -> usize {
    std::env::var("GPURENT_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// The value that the tests' services tell a bench.
///
/// # Panics
/// Where it is not set: `scripts/services up`, then `eval "$(scripts/services env)"`.
#[must_use]
pub fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/bench"))
}
