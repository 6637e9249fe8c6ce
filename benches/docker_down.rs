//! How late are 64 rentals stopped that expire in the same second, against 64 containers that are killed
//! by hand at once? And how long does a restarted agent take with 64 containers, one of which died
//! meanwhile, until that one is ended and removed?

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream;
use futures_util::stream::StreamExt;
use gpurent_benches::host::{BenchHost, valid};
use gpurent_benches::raw::Raw;
use gpurent_benches::{quantile, rounds, tell};
use gpurent_core::host::TermExtension;
use gpurent_core::id::RentalId;
use gpurent_core::model::{Rental, Term};
use jiff::{SignedDuration, Timestamp};

const MANY: usize = 64;
const RESTARTS: usize = 8;

/// How many are brought up side by side.
const SIDE_BY_SIDE: usize = 8;

fn late(finished: Timestamp, due: Timestamp) -> Duration {
    finished.duration_since(due).max(SignedDuration::ZERO).unsigned_abs()
}

/// Brings up 64 rentals.
async fn many(host: &BenchHost, duration: &str) -> Vec<RentalId> {
    stream::iter(0..MANY).map(|_| async { host.up(duration).await.id }).buffer_unordered(SIDE_BY_SIDE).collect().await
}

/// 64 rentals whose ends are moved into the same moment.
async fn ours(host: &BenchHost) -> Vec<Duration> {
    let ids = many(host, "90s").await;
    let mut rentals = Vec::new();
    for id in &ids {
        rentals.extend(valid(host.rentals.get(*id).await));
    }
    let latest = rentals.iter().filter_map(Rental::expires_at).max().unwrap_or_else(Timestamp::now);
    let due = latest + SignedDuration::from_secs(3);
    for rental in &rentals {
        let from = rental.segments()[0].started_at;
        let extension = TermExtension::To(valid(Term::fixed(due.duration_since(from))));
        valid(host.rentals.extend(rental.id(), extension).await);
    }
    let ended = join_all(ids.iter().map(|id| host.ended(*id))).await;
    ended.iter().map(|rental| late(rental.exit().map_or(due, |exit| exit.finished_at), due)).collect()
}

async fn theirs(raw: &Raw) -> Vec<Duration> {
    let ups: Vec<_> = stream::iter(0..MANY).map(|_| raw.up()).buffer_unordered(SIDE_BY_SIDE).collect().await;
    let due = Timestamp::now();
    join_all(ups.iter().map(|(_, name)| raw.kill(name))).await;
    let finished = join_all(ups.iter().map(|(_, name)| raw.finished_at(name))).await;
    join_all(ups.iter().map(|(_, name)| raw.down(name))).await;
    finished.into_iter().map(|finished| late(finished, due)).collect()
}

/// From the start of a new reconciler until the one container that died meanwhile is ended and removed,
/// and so all 64 are known again.
async fn restart(host: &mut BenchHost, raw: &Raw) -> Vec<Duration> {
    let ids = many(host, "1h").await;
    let mut times = Vec::new();
    for id in &ids[..RESTARTS] {
        host.stop().await;
        let launch = valid(host.rentals.get(*id).await).map(|rental| rental.launch().container_name());
        raw.kill(&launch.unwrap_or_default()).await;
        let begun = Instant::now();
        host.restart();
        host.ended(*id).await;
        times.push(begun.elapsed());
    }
    join_all(ids.iter().map(|id| host.down(*id))).await;
    times
}

#[tokio::main]
async fn main() {
    let mut host = BenchHost::start("down", 64, true, "30000-30999").await;
    let raw = Raw::connect();
    let mut times = vec![Vec::new(); 3];
    for _ in 0..rounds(3) {
        times[0].extend(ours(&host).await);
        times[1].extend(theirs(&raw).await);
        times[2].extend(theirs(&raw).await);
    }
    let names = ["64 rentals that expire", "64 raw kills at once", "64 raw kills at once (A/A)"];
    tell("lateness of the end, by the engine's own record", &names, &times);
    let times = restart(&mut host, &raw).await;
    println!(
        "\nrestart with 64 containers to fixpoint\n  n {}  median {:.1?}  worst {:.1?}",
        times.len(),
        quantile(&times, 0.5),
        times.iter().max().copied().unwrap_or_default(),
    );
    host.stop().await;
}
