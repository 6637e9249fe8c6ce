//! How much longer does a rental take to run, and to be ready, than a container that is created and
//! started by hand? One at a time, and sixteen at once; credentials over the access folder, and uploaded.

use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use gpurent_benches::host::BenchHost;
use gpurent_benches::raw::Raw;
use gpurent_benches::{rounds, tell};

/// Rents so many at once, takes them down again, and gives the times to running and to ready.
async fn ours(host: &BenchHost, at_once: usize) -> Vec<(Duration, Duration)> {
    let ups = join_all((0..at_once).map(|_| host.up("1h"))).await;
    join_all(ups.iter().map(|up| host.down(up.id))).await;
    ups.iter().map(|up| (up.running, up.ready)).collect()
}

async fn theirs(raw: &Raw, at_once: usize) -> Vec<(Duration, Duration)> {
    let ups = join_all((0..at_once).map(|_| raw.up())).await;
    join_all(ups.iter().map(|(_, name)| raw.down(name))).await;
    ups.iter().map(|(took, _)| (*took, *took)).collect()
}

type Measured<'a> = Box<dyn Fn() -> BoxFuture<'a, Vec<(Duration, Duration)>> + 'a>;

#[tokio::main]
async fn main() {
    let bind = BenchHost::start("bind", 16, true, "30000-30499").await;
    let upload = BenchHost::start("upload", 16, false, "30500-30999").await;
    let raw = Raw::connect();
    // What happens once (the kit's volume, the network, the rules) is no part of it.
    ours(&bind, 1).await;
    ours(&upload, 1).await;
    for (at_once, rounds) in [(1, rounds(200)), (16, rounds(200).div_ceil(16))] {
        let names = ["rental, access folder", "rental, upload", "raw create + start", "raw create + start (A/A)"];
        let subjects: Vec<Measured<'_>> = vec![
            Box::new(|| Box::pin(ours(&bind, at_once))),
            Box::new(|| Box::pin(ours(&upload, at_once))),
            Box::new(|| Box::pin(theirs(&raw, at_once))),
            Box::new(|| Box::pin(theirs(&raw, at_once))),
        ];
        let mut times = vec![Vec::new(); subjects.len()];
        for round in 0..rounds {
            for turn in 0..subjects.len() {
                let which = (round + turn) % subjects.len();
                times[which].extend(subjects[which]().await);
            }
        }
        let pick = |of: fn(&(Duration, Duration)) -> Duration| -> Vec<Vec<Duration>> {
            times.iter().map(|times| times.iter().map(of).collect()).collect()
        };
        tell(&format!("rent to running, {at_once} at once"), &names, &pick(|(running, _)| *running));
        tell(&format!("rent to ready, {at_once} at once"), &names, &pick(|(_, ready)| *ready));
    }
}
