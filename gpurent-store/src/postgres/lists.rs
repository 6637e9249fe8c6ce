//! Lists of rentals, and the deletion of old ones.

use gpurent_core::id::{HostId, RentalId};
use gpurent_core::model::Rental;
use gpurent_core::store::{Filter, MAX_PAGE, StoreError};
use jiff::Timestamp;
use sqlx::Postgres;
use sqlx::types::{Json, Uuid};

use super::connections::Connections;
use crate::error::bounded;
use crate::listing::{Listing, Tables};

pub(crate) const TABLES: Tables =
    Tables { rental: "gpurent.rental", tag: "gpurent.tag", digests: true, live_index: "" };

pub(super) async fn list(
    connections: &Connections,
    host: &HostId,
    filter: &Filter,
    after: Option<RentalId>,
    limit: usize,
) -> Result<Vec<Rental>, StoreError> {
    let after = match after {
        None => None,
        Some(id) => {
            let made = sqlx::query_scalar("SELECT created_at FROM gpurent.rental WHERE id = $1").bind(*id.as_uuid());
            let made: Option<i64> = bounded(connections.fetch_optional(made)).await?;
            // Where a deleted one was, nobody knows: callers that page look for it first.
            let Some(made) = made else { return Ok(Vec::new()) };
            Some((made, *id.as_uuid()))
        }
    };
    let listing = Listing { tables: &TABLES, host, filter, after, limit: limit.min(MAX_PAGE) as i64 };
    let mut query = listing.query::<Postgres>();
    let found: Vec<Json<Rental>> = bounded(connections.fetch_all(query.build_query_scalar())).await?;
    Ok(found.into_iter().map(|Json(rental)| rental).collect())
}

pub(super) async fn ended_before(
    connections: &Connections,
    host: &HostId,
    before: Timestamp,
    after: Option<RentalId>,
    limit: usize,
) -> Result<Vec<Rental>, StoreError> {
    let query = sqlx::query_scalar(
        "WITH after AS (SELECT ended_at, id FROM gpurent.rental WHERE id = $3)
         SELECT body FROM gpurent.rental AS rental
         WHERE host_id = $1 AND phase = 'ended' AND ended_at < $2
           AND (ended_at, id) > (coalesce((SELECT ended_at FROM after), -9223372036854775808),
                                 coalesce((SELECT id FROM after), '00000000-0000-0000-0000-000000000000'))
           AND NOT EXISTS (SELECT 1 FROM gpurent.event WHERE rental_id = rental.id AND position IS NULL)
         ORDER BY ended_at, id LIMIT $4",
    )
    .bind(host.as_str())
    .bind(before.as_microsecond())
    .bind(after.map(|id| *id.as_uuid()))
    .bind(limit.min(MAX_PAGE) as i64);
    let found: Vec<Json<Rental>> = bounded(connections.fetch_all(query)).await?;
    Ok(found.into_iter().map(|Json(rental)| rental).collect())
}

/// One statement, at whose end what refers to the rentals is gone too.
pub(super) async fn forget(
    connections: &Connections,
    host: &HostId,
    rentals: &[RentalId],
) -> Result<usize, StoreError> {
    let query = sqlx::query_scalar(
        "WITH over AS (
             SELECT id FROM gpurent.rental AS rental
             WHERE id = ANY ($2) AND host_id = $1 AND phase = 'ended'
               AND NOT EXISTS (SELECT 1 FROM gpurent.event WHERE rental_id = rental.id AND position IS NULL)
             FOR UPDATE
         ), events AS (
             DELETE FROM gpurent.event USING over WHERE rental_id = over.id
         ), usage AS (
             DELETE FROM gpurent.usage_segment USING over WHERE rental_id = over.id
         ), once AS (
             DELETE FROM gpurent.idempotency USING over WHERE rental_id = over.id
         ), tails AS (
             DELETE FROM gpurent.log_tail USING over WHERE rental_id = over.id
         ), tags AS (
             DELETE FROM gpurent.tag USING over WHERE rental_id = over.id
         ), gone AS (
             DELETE FROM gpurent.rental AS rental USING over WHERE rental.id = over.id RETURNING rental.id
         )
         SELECT count(*) FROM gone",
    );
    let ids: Vec<Uuid> = rentals.iter().take(MAX_PAGE).map(|id| *id.as_uuid()).collect();
    let gone: i64 = bounded(connections.fetch_one(query.bind(host.as_str()).bind(ids))).await?;
    Ok(usize::try_from(gone).unwrap_or_default())
}
