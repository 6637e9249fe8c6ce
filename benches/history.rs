//! Do lists, claims and starts cost their page, and not the history? Each is asked of a store with a million ended rentals,
//! against the same store with twenty thousand.

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::time::{Duration, Instant};

use gpurent_benches::host::valid;
use gpurent_benches::{environment, quantile, rounds};
use gpurent_core::allocation::{Placement, PortPools, RenterLimits};
use gpurent_core::clock::{Clock, SystemClock};
use gpurent_core::id::{HostId, Position, RentalId};
use gpurent_core::memory::SimulatedGpus;
use gpurent_core::model::{CredentialKind, EndKind, Fingerprint, GpuRequest, Phase, RentalSpec, Sealed};
use gpurent_core::store::{AuditLog, Filter, HostStore, NewRental, Store};
use gpurent_store::{PostgresStore, SqliteStore};
use jiff::Timestamp;

const FEW: u64 = 20_000;
const MANY: u64 = 1_000_000;
const PAGE: usize = 50;
/// The rentals that live from the beginning on; each round of claims adds its own.
const LIVE: usize = 100;

fn host() -> HostId {
    valid("history".parse())
}

fn placement() -> Placement {
    Placement {
        renter_limits: RenterLimits::none(),
        udp: true,
        ..Placement::new(
            SimulatedGpus::new(&host(), 255, valid("RTX 5090".parse())).gpus().to_vec(),
            valid(PortPools::new(valid("22000-22999".parse()), valid("8000-8999".parse()))),
        )
    }
}

fn new_rental() -> NewRental {
    let (id, at) = (RentalId::generate(), SystemClock::new().now());
    let gpu = GpuRequest::one(valid("RTX 5090".parse()));
    NewRental {
        id,
        host: host(),
        name: valid(format!("rental-{id}").parse()),
        spec: RentalSpec::new(valid("alice".parse()), gpu, valid("ubuntu:22.04".parse()), valid("1h".parse())),
        credential: CredentialKind::Password,
        sealed: Sealed { key_id: "0123456789abcdef".to_owned(), bytes: vec![7; 64] },
        fingerprint: Fingerprint([7; 32]),
        key: None,
        due: at.wall,
        at,
    }
}

/// The lists that are asked for, by name. Alice has a third of all rentals, `mine` is a tenth, every hundredth failed, `team=red` is a seventh.
fn filters() -> Vec<(&'static str, Filter)> {
    let renter = || Some(valid("alice".parse()));
    let all = Filter::default;
    let label = || Some(("team".to_owned(), "red".to_owned()));
    let name = || Some(valid("mine".parse()));
    vec![
        ("newest", all()),
        ("of a renter", Filter { renter: renter(), ..all() }),
        ("ready", Filter { phases: vec![Phase::Ready], ..all() }),
        ("ended", Filter { phases: vec![Phase::Ended], ..all() }),
        ("failed", Filter { ends: vec![EndKind::Failed], ..all() }),
        ("failed, of a renter", Filter { renter: renter(), ends: vec![EndKind::Failed], ..all() }),
        ("of a name", Filter { name: name(), ..all() }),
        ("of a name and renter", Filter { renter: renter(), name: name(), ..all() }),
        ("of a label", Filter { label: label(), ..all() }),
        ("of a label and renter", Filter { renter: renter(), label: label(), ..all() }),
    ]
}

/// Medians of everything that is asked of one store.
async fn ask<S: HostStore + AuditLog>(store: &S) -> Vec<(&'static str, Duration)> {
    let host = host();
    let engine = valid("engine".parse());
    let mut figures = Vec::new();
    for (name, filter) in filters() {
        let first = valid(store.list(&host, &filter, None, PAGE).await);
        let after = first.last().map(gpurent_core::model::Rental::id);
        figures.push((name, median(async || drop(valid(store.list(&host, &filter, after, PAGE).await))).await));
    }
    let middle = valid(store.journal(&host, Position::ZERO, 1).await)[0].position;
    figures.push(("journal", median(async || drop(valid(store.journal(&host, middle, PAGE).await))).await));
    figures.push(("audit", median(async || drop(valid(store.entries(None, PAGE).await))).await));
    let now = Timestamp::now();
    let old = async || drop(valid(store.ended_before(&host, now, None, PAGE).await));
    figures.push(("oldest ended", median(old).await));
    figures.push(("live", median(async || drop(valid(store.live(&host).await))).await));
    let start = async || assert!(store.acquire_host(&host, &engine, None).await.is_ok());
    figures.push(("start", median(start).await));
    let placement = placement();
    figures.push(("claim", median(async || drop(valid(store.claim(&new_rental(), &placement).await))).await));
    figures
}

async fn median(mut once: impl AsyncFnMut()) -> Duration {
    let mut times = Vec::new();
    for _ in 0..rounds(40) {
        let begun = Instant::now();
        once().await;
        times.push(begun.elapsed());
    }
    quantile(&times, 0.5)
}

fn tell(database: &str, few: &[(&str, Duration)], many: &[(&str, Duration)], again: &[(&str, Duration)]) {
    println!("{database}: medians with {FEW} and {MANY} ended rentals");
    for ((few, many), again) in few.iter().zip(many).zip(again) {
        let ratio = |time: Duration| time.as_secs_f64() / few.1.as_secs_f64();
        println!(
            "  {:<24} {:>9.3} ms {:>9.3} ms  ratio {:.2}  A/A {:.2}",
            few.0,
            few.1.as_secs_f64() * 1e3,
            many.1.as_secs_f64() * 1e3,
            ratio(many.1),
            ratio(again.1),
        );
    }
}

/// The statements that fill a store; `{from}`, `{to}` and what differs between the two are put in.
fn filling(template: &str, from: u64, to: u64) -> String {
    template.replace("{from}", &from.to_string()).replace("{to}", &to.to_string())
}

const POSTGRES: &str = "
    INSERT INTO gpurent.rental
        (id, host_id, renter, name, phase, end_kind, revision, created_at, ended_at, fingerprint, body)
    SELECT made.id, 'history', CASE WHEN n % 3 = 0 THEN 'alice' ELSE 'r' || n % 1000 END,
           CASE WHEN n % 10 = 0 THEN 'mine' ELSE 'n' || n END, 'ended',
           CASE WHEN n % 100 = 0 THEN 'failed' ELSE 'expired' END, 1, n * 1000, n * 1000, '',
           jsonb_set(template.body, '{id}', to_jsonb(made.id))
    FROM generate_series({from}, {to}) AS n,
         LATERAL (SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid AS id) AS made,
         (SELECT body FROM gpurent.rental WHERE host_id = 'history' AND phase <> 'ended' LIMIT 1) AS template;
    WITH tag AS (
        SELECT id, renter, '' AS name, name AS value, created_at FROM gpurent.rental
        WHERE phase = 'ended' AND created_at BETWEEN {from} * 1000 AND {to} * 1000
        UNION ALL
        SELECT id, renter, 'team', CASE WHEN created_at % 7000 = 0 THEN 'red' ELSE 'blue' END, created_at FROM gpurent.rental
        WHERE phase = 'ended' AND created_at BETWEEN {from} * 1000 AND {to} * 1000
    )
    INSERT INTO gpurent.tag (host_id, renter, name, value, digest, created_at, rental_id)
    SELECT 'history', renter, name, value, substr(sha256(convert_to(name || '=' || value, 'UTF8')), 1, 16), created_at, id
    FROM tag;
    INSERT INTO gpurent.event (host_id, rental_id, seq, at, name, body, position)
    SELECT 'history', id, 1, created_at, 'ended', '{\"type\":\"ended\"}', created_at / 1000 + 1000 FROM gpurent.rental
    WHERE phase = 'ended' AND created_at BETWEEN {from} * 1000 AND {to} * 1000;
    INSERT INTO gpurent.audit (at, renter, role, action, status)
    SELECT n, 'alice', 'renter', 'GET /v1/rentals', 200 FROM generate_series({from}, {to}) AS n;
    ANALYZE";

const SQLITE: &str = "
    CREATE TEMP TABLE n (n INTEGER);
    WITH RECURSIVE counted (n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM counted WHERE n < {to})
    INSERT INTO n SELECT n FROM counted;
    INSERT INTO gpurent_rental
        (id, host_id, renter, name, phase, end_kind, revision, created_at, ended_at, fingerprint, body)
    SELECT printf('00000000-0000-4000-8000-%012x', n), 'history',
           CASE WHEN n % 3 = 0 THEN 'alice' ELSE 'r' || n % 1000 END,
           CASE WHEN n % 10 = 0 THEN 'mine' ELSE 'n' || n END, 'ended',
           CASE WHEN n % 100 = 0 THEN 'failed' ELSE 'expired' END, 1, n * 1000, n * 1000, x'',
           json_set(template.body, '$.id', printf('00000000-0000-4000-8000-%012x', n))
    FROM n, (SELECT body FROM gpurent_rental WHERE host_id = 'history' AND phase <> 'ended' LIMIT 1) AS template;
    INSERT INTO gpurent_tag (host_id, renter, name, value, created_at, rental_id)
    SELECT 'history', renter, '', name, created_at, id FROM gpurent_rental
    WHERE host_id = 'history' AND created_at BETWEEN {from} * 1000 AND {to} * 1000;
    INSERT INTO gpurent_tag (host_id, renter, name, value, created_at, rental_id)
    SELECT 'history', renter, 'team', CASE WHEN created_at % 7000 = 0 THEN 'red' ELSE 'blue' END, created_at, id
    FROM gpurent_rental WHERE host_id = 'history' AND created_at BETWEEN {from} * 1000 AND {to} * 1000;
    INSERT INTO gpurent_event (host_id, rental_id, seq, at, name, body, position)
    SELECT 'history', id, 1, created_at, 'ended', '{\"type\":\"ended\"}', created_at / 1000 + 1000 FROM gpurent_rental
    WHERE host_id = 'history' AND created_at BETWEEN {from} * 1000 AND {to} * 1000;
    INSERT INTO gpurent_audit (at, renter, role, action, status)
    SELECT n, 'alice', 'renter', 'GET /v1/rentals', 200 FROM n;
    DROP TABLE n";

async fn postgres() {
    let (server, name) = (environment("DATABASE_URL"), "gpurent_history");
    let pool = valid(sqlx::PgPool::connect(&server).await);
    for statement in [format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"), format!("CREATE DATABASE {name}")] {
        valid(sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&pool).await);
    }
    let url = format!("{}/{name}", server.rsplit_once('/').map_or("", |(server, _)| server));
    let store = valid(PostgresStore::connect(&url).await);
    valid(store.acquire_host(&host(), &valid("engine".parse()), None).await);
    for _ in 0..LIVE {
        valid(store.claim(&new_rental(), &placement()).await);
    }
    let pool_of_ours = valid(sqlx::PgPool::connect(&url).await);
    let fill = async |from, to| {
        let statements = sqlx::AssertSqlSafe(filling(POSTGRES, from, to));
        valid(sqlx::raw_sql(statements).execute(&pool_of_ours).await);
    };
    fill(1, FEW).await;
    let (few, again) = (ask(&store).await, ask(&store).await);
    fill(FEW + 1, MANY).await;
    tell("PostgreSQL", &few, &ask(&store).await, &again);
    drop((store, pool_of_ours));
    let drop_it = sqlx::AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"));
    valid(sqlx::raw_sql(drop_it).execute(&pool).await);
}

async fn sqlite() {
    let directory = valid(tempfile::tempdir_in("/var/tmp"));
    let file = directory.path().join("history.db");
    let store = valid(SqliteStore::open(&file).await);
    valid(store.acquire_host(&host(), &valid("engine".parse()), None).await);
    for _ in 0..LIVE {
        valid(store.claim(&new_rental(), &placement()).await);
    }
    let fill = async |from, to| {
        let pool = valid(sqlx::SqlitePool::connect(&file.to_string_lossy()).await);
        let statements = sqlx::AssertSqlSafe(format!("BEGIN; {}; COMMIT", filling(SQLITE, from, to)));
        valid(sqlx::raw_sql(statements).execute(&mut *valid(pool.acquire().await)).await);
        pool.close().await;
    };
    fill(1, FEW).await;
    let (few, again) = (ask(&store).await, ask(&store).await);
    fill(FEW + 1, MANY).await;
    tell("SQLite", &few, &ask(&store).await, &again);
}

#[tokio::main]
async fn main() {
    sqlite().await;
    postgres().await;
}
