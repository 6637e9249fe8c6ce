//! How many rentals a second can be made, at 1, 8 and 32 clients, each a host of its own, against pgbench
//! running one fixed statement that writes the same rows? And through PgBouncer, which lends a session for each transaction?

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use gpurent_benches::host::valid;
use gpurent_benches::{environment, quantile, rounds};
use gpurent_core::allocation::{Placement, PortPools};
use gpurent_core::clock::{Clock, SystemClock};
use gpurent_core::id::{HostId, RentalId};
use gpurent_core::memory::SimulatedGpus;
use gpurent_core::model::{CredentialKind, Fingerprint, GpuRequest, RentalSpec, Sealed};
use gpurent_core::store::{NewRental, Store};
use gpurent_store::PostgresStore;

/// How long one measurement takes.
const SLICE: Duration = Duration::from_millis(1500);
const GPUS: u8 = 32;

fn new_rental(host: &HostId, clock: &SystemClock) -> NewRental {
    let id = RentalId::generate();
    let at = clock.now();
    let gpu = GpuRequest::one(valid("RTX 5090".parse()));
    NewRental {
        id,
        host: host.clone(),
        name: valid(format!("rental-{id}").parse()),
        spec: RentalSpec::new(valid("me".parse()), gpu, valid("ubuntu:22.04".parse()), valid("1h".parse())),
        credential: CredentialKind::Password,
        sealed: Sealed { key_id: "0123456789abcdef".to_owned(), bytes: vec![7; 64] },
        fingerprint: Fingerprint([7; 32]),
        key: Some(valid(id.to_string().parse())),
        due: at.wall,
        at,
    }
}

fn placement(host: &HostId, gpus: u8) -> Placement {
    Placement {
        renter_limits: gpurent_core::allocation::RenterLimits::none(),
        udp: true,
        ..Placement::new(
            SimulatedGpus::new(host, gpus, valid("RTX 5090".parse())).gpus().to_vec(),
            valid(PortPools::new(valid("22000-22999".parse()), valid("8000-8999".parse()))),
        )
    }
}

/// One client: rents on one fresh host after the other, each until its GPUs are used up.
async fn client(store: &PostgresStore, until: Instant) -> usize {
    let (mut made, clock) = (0, SystemClock::new());
    while Instant::now() < until {
        let host: HostId = valid(format!("bench-{}", RentalId::generate()).parse());
        let placement = placement(&host, GPUS);
        for _ in 0..GPUS {
            if Instant::now() >= until {
                break;
            }
            valid(store.claim(&new_rental(&host, &clock), &placement).await);
            made += 1;
        }
    }
    made
}

async fn ours(stores: &[PostgresStore]) -> f64 {
    let begun = Instant::now();
    let made: usize = join_all(stores.iter().map(|store| client(store, begun + SLICE))).await.iter().sum();
    #[allow(clippy::cast_precision_loss, reason = "a count of transactions")]
    let rate = made as f64 / begun.elapsed().as_secs_f64();
    rate
}

/// The same rows by one statement, as pgbench sends it: prepared once, nothing read, nothing decided.
const SCRIPT: &str = "\
\\set port random(1, 65535)
WITH made AS (
    INSERT INTO gpurent.rental (id, host_id, renter, name, phase, revision, created_at, expires_at, fingerprint, body)
    VALUES (gen_random_uuid(), gen_random_uuid()::text, 'me', gen_random_uuid()::text, 'provisioning', 1, 0, NULL,
            decode(repeat('07', 32), 'hex'), gpurent_bench.rental())
    RETURNING id, host_id
), gpus AS (
    INSERT INTO gpurent.gpu_hold (host_id, gpu_uuid, rental_id) SELECT host_id, gen_random_uuid()::text, id FROM made
), ports AS (
    INSERT INTO gpurent.port_hold (host_id, port, rental_id) SELECT host_id, :port, id FROM made
), access AS (
    INSERT INTO gpurent.credential (rental_id, key_id, sealed)
    SELECT id, '0123456789abcdef', decode(repeat('07', 64), 'hex') FROM made
), once AS (
    INSERT INTO gpurent.idempotency (host_id, renter, key, fingerprint, rental_id)
    SELECT host_id, 'me', id::text, decode(repeat('07', 32), 'hex'), id FROM made
)
INSERT INTO gpurent.event (host_id, rental_id, seq, at, name, body) SELECT host_id, id, 1, 0, 'claimed', gpurent_bench.rental() FROM made;
";

/// A way to a server, and how pgbench sends its statement there.
struct Way {
    name: &'static str,
    url: String,
    mode: &'static str,
}

fn theirs(script: &std::path::Path, clients: usize, way: &Way) -> f64 {
    let (clients, seconds) = (clients.to_string(), "2");
    let output = Command::new("pgbench")
        .args(["-n", "-M", way.mode, "-c", &clients, "-j", "2", "-T", seconds, "-f"])
        .arg(script)
        .arg(&way.url)
        .output();
    let output = valid(output);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.unwrap_or_else(|| panic!("pgbench: {text} {}", String::from_utf8_lossy(&output.stderr)))
}

/// The JSON of a rental as the store writes it, for the peer to write the same.
async fn body_of_a_rental(store: &PostgresStore) -> String {
    let host: HostId = valid(format!("bench-{}", RentalId::generate()).parse());
    let placement = placement(&host, 1);
    let body = valid(store.claim(&new_rental(&host, &SystemClock::new()), &placement).await);
    valid(serde_json::to_string(body.rental()))
}

#[tokio::main]
async fn main() {
    let direct = Way { name: "direct", url: environment("DATABASE_URL"), mode: "prepared" };
    let pooled = Way { name: "PgBouncer", url: environment("GPURENT_TEST_PGBOUNCER"), mode: "extended" };
    let stores = stores(&direct.url).await;
    // pgbench would take what follows a colon in the JSON for a variable; as a function without arguments
    // it is a constant of the plan.
    let body = body_of_a_rental(&stores[0]).await;
    let function = format!(
        "DROP SCHEMA IF EXISTS gpurent_bench CASCADE; CREATE SCHEMA gpurent_bench;
         CREATE FUNCTION gpurent_bench.rental() RETURNS jsonb IMMUTABLE LANGUAGE sql AS $f$ SELECT $json${body}$json$::jsonb $f$"
    );
    let psql = Command::new("psql").args(["-q", "-c", &function, &direct.url]).status();
    assert!(valid(psql).success());
    let directory = valid(tempfile::tempdir());
    let script = directory.path().join("create.sql");
    valid(std::fs::write(&script, SCRIPT.replace("\n    ", " ").replace("\n)", " )")));
    println!("rentals made a second (ours: one round trip each, and a look every {GPUS} rentals; pgbench: one)");
    compare(&stores, &script, &direct).await;
    drop(stores);
    println!("the same through PgBouncer (ours: four round trips; pgbench: three in one)");
    compare(&self::stores(&pooled.url).await, &script, &pooled).await;
}

async fn stores(url: &str) -> Vec<PostgresStore> {
    let mut stores = Vec::new();
    for _ in 0..32 {
        stores.push(valid(PostgresStore::connect(url).await));
    }
    stores
}

async fn compare(stores: &[PostgresStore], script: &std::path::Path, way: &Way) {
    for clients in [1, 8, 32] {
        let (mut us, mut them, mut again) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds(20) {
            us.push(ours(&stores[..clients]).await);
            them.push(theirs(script, clients, way));
            again.push(theirs(script, clients, way));
        }
        // Rates as times, so that one routine serves all benches: how long one took.
        let took = |rates: &[f64]| rates.iter().map(|rate| Duration::from_secs_f64(1.0 / rate)).collect::<Vec<_>>();
        let rate = |rates: &[f64]| 1.0 / quantile(&took(rates), 0.5).as_secs_f64();
        println!(
            "  {:<9} {clients:>2} clients  ours {:>7.0}/s  pgbench {:>7.0}/s  ratio {:.3}  A/A {:.3}",
            way.name,
            rate(&us),
            rate(&them),
            rate(&us) / rate(&them),
            rate(&again) / rate(&them),
        );
    }
}
