//! The journal: positions given by the one publisher, as in PostgreSQL, so that readers of either see
//! the same.

use gpurent_core::error::ValidationError;
use gpurent_core::id::{Epoch, HostId, Position};
use gpurent_core::model::{JournalEntry, RentalEvent};
use gpurent_core::store::StoreError;
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use sqlx::types::Json;

use super::has_epoch;
use crate::error::bounded;
use crate::rows::rental::{recorded, signed, unsigned};

type Row = (i64, String, i64, i64, Json<RentalEvent>);

fn entry((position, rental, seq, at, Json(event)): Row) -> Result<JournalEntry, StoreError> {
    let rental = rental.parse().map_err(|error: ValidationError| StoreError::Corrupt(error.into()))?;
    Ok(JournalEntry { position: Position::new(unsigned(position)), rental, recorded: recorded(seq, at, event)? })
}

pub(super) async fn has_news(pool: &SqlitePool, host: &HostId) -> Result<bool, StoreError> {
    let query =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM gpurent_event WHERE host_id = ? AND position IS NULL)");
    bounded(query.bind(host.as_str()).fetch_one(pool)).await
}

pub(super) async fn publish(
    connection: &mut SqliteConnection,
    host: &HostId,
    epoch: Epoch,
    limit: usize,
) -> Result<Vec<JournalEntry>, StoreError> {
    if !has_epoch(&mut *connection, host, epoch).await? {
        return Err(StoreError::Fenced);
    }
    let query = sqlx::query_as(
        "WITH waiting AS (
             SELECT id, row_number() OVER (ORDER BY id) AS n
             FROM (SELECT id FROM gpurent_event WHERE host_id = ?1 AND position IS NULL ORDER BY id LIMIT ?2)
         )
         UPDATE gpurent_event AS event
         SET position = (SELECT last_position FROM gpurent_host WHERE id = ?1) + waiting.n
         FROM waiting WHERE event.id = waiting.id
         RETURNING position, rental_id, seq, at, body",
    );
    let rows: Vec<Row> = bounded(query.bind(host.as_str()).bind(limit as i64).fetch_all(&mut *connection)).await?;
    let mut entries: Vec<JournalEntry> = rows.into_iter().map(entry).collect::<Result<_, _>>()?;
    // RETURNING keeps no order.
    entries.sort_by_key(|entry| entry.position);
    if let Some(last) = entries.last() {
        let query = sqlx::query("UPDATE gpurent_host SET last_position = ? WHERE id = ?");
        bounded(query.bind(signed(last.position.get())).bind(host.as_str()).execute(connection)).await?;
    }
    Ok(entries)
}

pub(super) async fn read(
    pool: &SqlitePool,
    host: &HostId,
    after: Position,
    limit: usize,
) -> Result<Vec<JournalEntry>, StoreError> {
    let query = sqlx::query_as(
        "SELECT position, rental_id, seq, at, body FROM gpurent_event
         WHERE host_id = ? AND position > ? ORDER BY position LIMIT ?",
    )
    .bind(host.as_str())
    .bind(signed(after.get()))
    .bind(limit as i64);
    let rows: Vec<Row> = bounded(query.fetch_all(pool)).await?;
    rows.into_iter().map(entry).collect()
}
