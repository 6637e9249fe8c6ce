//! Lists of rentals, and the deletion of old ones.

use gpurent_core::id::{HostId, RentalId};
use gpurent_core::model::Rental;
use gpurent_core::store::{Filter, MAX_PAGE, StoreError};
use jiff::Timestamp;
use sqlx::Sqlite;
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use sqlx::types::Json;

use crate::error::bounded;
use crate::listing::{Listing, Tables};

pub(crate) const TABLES: Tables = Tables {
    rental: "gpurent_rental",
    tag: "gpurent_tag",
    digests: false,
    live_index: " INDEXED BY gpurent_rental_live",
};

pub(super) async fn list(
    pool: &SqlitePool,
    host: &HostId,
    filter: &Filter,
    after: Option<RentalId>,
    limit: usize,
) -> Result<Vec<Rental>, StoreError> {
    let after = match after {
        None => None,
        Some(id) => {
            let made = sqlx::query_scalar("SELECT created_at FROM gpurent_rental WHERE id = ?").bind(id.to_string());
            let made: Option<i64> = bounded(made.fetch_optional(pool)).await?;
            // Where a deleted one was, nobody knows: callers that page look for it first.
            let Some(made) = made else { return Ok(Vec::new()) };
            Some((made, id.to_string()))
        }
    };
    let listing = Listing { tables: &TABLES, host, filter, after, limit: limit.min(MAX_PAGE) as i64 };
    let mut query = listing.query::<Sqlite>();
    let found: Vec<Json<Rental>> = bounded(query.build_query_scalar().fetch_all(pool)).await?;
    Ok(found.into_iter().map(|Json(rental)| rental).collect())
}

pub(super) async fn ended_before(
    pool: &SqlitePool,
    host: &HostId,
    before: Timestamp,
    after: Option<RentalId>,
    limit: usize,
) -> Result<Vec<Rental>, StoreError> {
    let query = sqlx::query_scalar(
        "WITH after AS (SELECT ended_at, id FROM gpurent_rental WHERE id = ?3)
         SELECT body FROM gpurent_rental AS rental
         WHERE host_id = ?1 AND phase = 'ended' AND ended_at < ?2
           AND (ended_at, id) > (coalesce((SELECT ended_at FROM after), -9223372036854775808),
                                 coalesce((SELECT id FROM after), ''))
           AND NOT EXISTS (SELECT 1 FROM gpurent_event WHERE rental_id = rental.id AND position IS NULL)
         ORDER BY ended_at, id LIMIT ?4",
    )
    .bind(host.as_str())
    .bind(before.as_microsecond())
    .bind(after.map(|id| id.to_string()))
    .bind(limit.min(MAX_PAGE) as i64);
    let found: Vec<Json<Rental>> = bounded(query.fetch_all(pool)).await?;
    Ok(found.into_iter().map(|Json(rental)| rental).collect())
}

/// Deletes in a transaction that nobody writes beside.
pub(super) async fn forget(
    connection: &mut SqliteConnection,
    host: &HostId,
    rentals: &[RentalId],
) -> Result<usize, StoreError> {
    let over = sqlx::query_scalar(
        "SELECT id FROM gpurent_rental AS rental
         WHERE id IN (SELECT value FROM json_each(?1)) AND host_id = ?2 AND phase = 'ended'
           AND NOT EXISTS (SELECT 1 FROM gpurent_event WHERE rental_id = rental.id AND position IS NULL)",
    );
    let named: Vec<String> = rentals.iter().take(MAX_PAGE).map(ToString::to_string).collect();
    let over = over.bind(Json(named)).bind(host.as_str());
    let over: Vec<String> = bounded(over.fetch_all(&mut *connection)).await?;
    for delete in [
        "DELETE FROM gpurent_event WHERE rental_id IN (SELECT value FROM json_each(?1))",
        "DELETE FROM gpurent_usage_segment WHERE rental_id IN (SELECT value FROM json_each(?1))",
        "DELETE FROM gpurent_idempotency WHERE rental_id IN (SELECT value FROM json_each(?1))",
        "DELETE FROM gpurent_log_tail WHERE rental_id IN (SELECT value FROM json_each(?1))",
        "DELETE FROM gpurent_tag WHERE rental_id IN (SELECT value FROM json_each(?1))",
        "DELETE FROM gpurent_rental WHERE id IN (SELECT value FROM json_each(?1))",
    ] {
        bounded(sqlx::query(delete).bind(Json(&over)).execute(&mut *connection)).await?;
    }
    Ok(over.len())
}
