//! The schema, made and brought up to date in one transaction.
//!
//! `sqlx::migrate!` checks and carries the files. Its `Migrator::run` prepares statements by name and locks a session, which
//! does not work behind a [pooler](super::pooler), and asks for rights to create also where nothing is to be made; so running
//! them is done here, in the table that it would use.

use gpurent_core::store::StoreError;
use sqlx::migrate::Migrator;

use super::connections::{Connections, Turn};
use crate::refused::{Refused, unless_permanent};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// A migration takes as long as the tables are large.
pub(super) const BEGIN_PATIENTLY: &str = "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0";

/// A look takes a moment, or somebody who changes the tables is waited for in vain.
const BEGIN_TO_LOOK: &str = "BEGIN READ ONLY; SET LOCAL statement_timeout = '10s'; SET LOCAL lock_timeout = '10s'";

/// The oldest server that the statements of this store are written for, as `server_version_num` has it.
const OLDEST_SERVER: i32 = 120_000;

const APPLIED: &str = "SELECT version, checksum FROM gpurent._migrations ORDER BY version";

const MAKE_TABLE: &str = "
    CREATE TABLE gpurent._migrations (
        version BIGINT PRIMARY KEY,
        description TEXT NOT NULL,
        installed_on TIMESTAMPTZ NOT NULL DEFAULT now(),
        success BOOLEAN NOT NULL,
        checksum BYTEA NOT NULL,
        execution_time BIGINT NOT NULL
    )";

pub(super) async fn run(connections: &Connections) -> Result<(), StoreError> {
    let mut turn = connections.begin_with(BEGIN_PATIENTLY).await.map_err(unless_permanent)?;
    expect_server(&mut turn).await?;
    let done = apply(&mut turn).await.map_err(unless_permanent)?;
    if let Some(known_to_others) = done {
        return Err(StoreError::Misconfigured(Box::new(Refused::NewerSchema { version: known_to_others })));
    }
    turn.end().await.map_err(unless_permanent)
}

/// Whether the tables are as this program wants them; changes nothing.
pub(super) async fn is_current(connections: &Connections) -> Result<bool, StoreError> {
    let mut turn = connections.begin_with(BEGIN_TO_LOOK).await.map_err(unless_permanent)?;
    expect_server(&mut turn).await?;
    let asked = async {
        if turn.fetch_one(sqlx::query_scalar("SELECT to_regclass('gpurent._migrations') IS NULL")).await? {
            return Ok(Vec::new());
        }
        turn.fetch_all(sqlx::query_as(APPLIED)).await
    };
    let applied: Vec<(i64, Vec<u8>)> = asked.await.map_err(unless_permanent)?;
    turn.end().await.map_err(unless_permanent)?;
    match unknown(&applied) {
        Some(version) => Err(StoreError::Misconfigured(Box::new(Refused::NewerSchema { version }))),
        None => Ok(applied.len() == MIGRATIONS.iter().count()),
    }
}

async fn expect_server(turn: &mut Turn<'_>) -> Result<(), StoreError> {
    let version: i32 = ask(turn, "SELECT current_setting('server_version_num')::int").await?;
    if version < OLDEST_SERVER {
        return Err(StoreError::Misconfigured(Box::new(Refused::OldServer { major: version / 10_000 })));
    }
    Ok(())
}

/// The version of an applied migration that this program does not know, or knows otherwise.
fn unknown(applied: &[(i64, Vec<u8>)]) -> Option<i64> {
    let is_known = |(version, checksum): &&(i64, Vec<u8>)| {
        MIGRATIONS.iter().any(|known| known.version == *version && *known.checksum == **checksum)
    };
    applied.iter().find(|applied| !is_known(applied)).map(|(version, _)| *version)
}

async fn ask(turn: &mut Turn<'_>, question: &'static str) -> Result<i32, StoreError> {
    turn.fetch_one(sqlx::query_scalar(question)).await.map_err(unless_permanent)
}

/// Applies what is missing. Answers with a version that this program does not know, or knows otherwise.
async fn apply(turn: &mut Turn<'_>) -> Result<Option<i64>, sqlx::Error> {
    // Programs that start together come one after the other.
    if !turn
        .fetch_one(sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(hashtextextended('gpurent.migrations', 0))"))
        .await?
    {
        tracing::info!("another program brings the database's tables up to date: this one waits until it has done so");
        turn.execute(sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('gpurent.migrations', 0))")).await?;
    }
    // Each is asked for first: `IF NOT EXISTS` wants the right to create also where nothing is made.
    if turn.fetch_one(sqlx::query_scalar("SELECT to_regnamespace('gpurent') IS NULL")).await? {
        turn.execute_all("CREATE SCHEMA gpurent").await?;
    }
    if turn.fetch_one(sqlx::query_scalar("SELECT to_regclass('gpurent._migrations') IS NULL")).await? {
        turn.execute_all(MAKE_TABLE).await?;
    }
    let applied: Vec<(i64, Vec<u8>)> = turn.fetch_all(sqlx::query_as(APPLIED)).await?;
    if let Some(version) = unknown(&applied) {
        return Ok(Some(version));
    }
    for migration in MIGRATIONS.iter().skip(applied.len()) {
        tracing::info!(version = migration.version, what = %migration.description, "bringing the database's tables up to date");
        turn.execute_all(migration.sql.clone()).await?;
        let noted = sqlx::query(
            "INSERT INTO gpurent._migrations (version, description, success, checksum, execution_time)
             VALUES ($1, $2, true, $3, -1)",
        );
        turn.execute(noted.bind(migration.version).bind(&*migration.description).bind(&*migration.checksum)).await?;
    }
    Ok(None)
}
