//! The journal: positions given after the commit, so that no reader misses an event.

use gpurent_core::id::{Epoch, HostId, Position, RentalId};
use gpurent_core::model::{JournalEntry, RentalEvent};
use gpurent_core::store::StoreError;
use sqlx::types::{Json, Uuid};

use super::connections::Connections;
use crate::error::bounded;
use crate::rows::rental::{recorded, signed, unsigned};

type Row = (i64, Uuid, i64, i64, Json<RentalEvent>);

fn entry((position, rental, seq, at, Json(event)): Row) -> Result<JournalEntry, StoreError> {
    Ok(JournalEntry {
        position: Position::new(unsigned(position)),
        rental: RentalId::from(rental),
        recorded: recorded(seq, at, event)?,
    })
}

/// Gives the next positions to the oldest events that have none. The host's head is locked first, by a
/// statement of its own: what a publication before this one did must be in the snapshot that this one
/// numbers from, also where that one's answer was given up. The epoch is checked under a lock too, so a
/// publisher that was taken over publishes nothing.
pub(super) async fn publish(
    connections: &Connections,
    host: &HostId,
    epoch: Epoch,
    limit: usize,
) -> Result<Vec<JournalEntry>, StoreError> {
    let query = sqlx::query_as(
        "WITH epoch AS (
             SELECT 1 FROM gpurent.host WHERE id = $1 AND epoch = $2 FOR SHARE
         ), head AS (
             SELECT last_position FROM gpurent.journal_head WHERE host_id = $1
         ), waiting AS (
             SELECT id, row_number() OVER (ORDER BY id) AS n
             FROM (SELECT id FROM gpurent.event
                   WHERE host_id = $1 AND position IS NULL ORDER BY id LIMIT $3) AS oldest
         ), published AS (
             UPDATE gpurent.event AS event SET position = head.last_position + waiting.n
             FROM waiting, head
             WHERE event.id = waiting.id AND event.position IS NULL AND EXISTS (SELECT 1 FROM epoch)
             RETURNING event.position, event.rental_id, event.seq, event.at, event.body
         ), moved AS (
             UPDATE gpurent.journal_head SET last_position = (SELECT max(position) FROM published)
             WHERE host_id = $1 AND EXISTS (SELECT 1 FROM published)
         )
         SELECT position, rental_id, seq, at, body FROM published ORDER BY position",
    )
    .bind(host.as_str())
    .bind(signed(epoch.get()))
    .bind(limit as i64);
    let rows: Vec<Row> = bounded(async {
        let mut turn = connections.begin().await?;
        let lock = sqlx::query("SELECT FROM gpurent.journal_head WHERE host_id = $1 FOR UPDATE").bind(host.as_str());
        turn.execute(lock).await?;
        let rows = turn.fetch_all(query).await?;
        turn.end().await?;
        Ok(rows)
    })
    .await?;
    rows.into_iter().map(entry).collect()
}

pub(super) async fn read(
    connections: &Connections,
    host: &HostId,
    after: Position,
    limit: usize,
) -> Result<Vec<JournalEntry>, StoreError> {
    let query = sqlx::query_as(
        "SELECT position, rental_id, seq, at, body FROM gpurent.event
         WHERE host_id = $1 AND position > $2 ORDER BY position LIMIT $3",
    )
    .bind(host.as_str())
    .bind(signed(after.get()))
    .bind(limit as i64);
    let rows: Vec<Row> = bounded(connections.fetch_all(query)).await?;
    rows.into_iter().map(entry).collect()
}
