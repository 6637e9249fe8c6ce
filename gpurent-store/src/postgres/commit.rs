//! Changing a rental: everything hangs on the one row that is updated if revision and epoch are right.

use gpurent_core::store::{Change, StoreError};
use jiff::Timestamp;
use sqlx::types::Json;

use super::connections::Connections;
use crate::error::{bounded, broken_constraint};
use crate::rows::rental::{RentalColumns, signed};

const COMMIT: &str = "
    WITH epoch AS (
        SELECT epoch = $2 AS is_ours FROM gpurent.host WHERE id = $1 AND $2::bigint IS NOT NULL FOR SHARE
    ), written AS (
        UPDATE gpurent.rental SET phase = $5, end_kind = $17, ended_at = $23, revision = $6, expires_at = $7, body = $8
        WHERE id = $3 AND revision = $4
          AND ($2::bigint IS NULL OR EXISTS (SELECT 1 FROM epoch WHERE is_ours))
        RETURNING id
    ), events AS (
        INSERT INTO gpurent.event (host_id, rental_id, seq, at, name, body)
        SELECT $1, written.id, e.seq, e.at, e.name, e.body
        FROM written, unnest($9::bigint[], $10::bigint[], $11::text[], $12::jsonb[]) AS e (seq, at, name, body)
        ORDER BY e.seq
    ), usage AS (
        INSERT INTO gpurent.usage_segment (rental_id, n, started_at, ended_at)
        SELECT written.id, s.n, s.started_at, s.ended_at
        FROM written, unnest($13::bigint[], $14::bigint[]) WITH ORDINALITY AS s (started_at, ended_at, n)
        ON CONFLICT (rental_id, n) DO UPDATE SET ended_at = excluded.ended_at
    ), freed_gpus AS (
        DELETE FROM gpurent.gpu_hold AS hold USING written
        WHERE hold.rental_id = written.id AND NOT hold.gpu_uuid = ANY ($15::text[])
    ), new_gpus AS (
        INSERT INTO gpurent.gpu_hold (host_id, gpu_uuid, rental_id)
        SELECT $1, wanted.uuid, written.id FROM written, unnest($15::text[]) AS wanted (uuid)
        WHERE NOT EXISTS (
            SELECT 1 FROM gpurent.gpu_hold AS own WHERE own.rental_id = written.id AND own.gpu_uuid = wanted.uuid
        )
    ), freed_ports AS (
        DELETE FROM gpurent.port_hold AS hold USING written
        WHERE hold.rental_id = written.id AND NOT hold.port = ANY ($16::int[])
    ), new_ports AS (
        INSERT INTO gpurent.port_hold (host_id, port, rental_id)
        SELECT $1, wanted.port, written.id FROM written, unnest($16::int[]) AS wanted (port)
        WHERE NOT EXISTS (
            SELECT 1 FROM gpurent.port_hold AS own WHERE own.rental_id = written.id AND own.port = wanted.port
        )
    ), resealed AS (
        INSERT INTO gpurent.credential (rental_id, key_id, sealed)
        SELECT written.id, $18, $19 FROM written WHERE $18::text IS NOT NULL AND $5 <> 'ended'
        ON CONFLICT (rental_id) DO UPDATE SET key_id = excluded.key_id, sealed = excluded.sealed
    ), erased AS (
        DELETE FROM gpurent.credential USING written WHERE rental_id = written.id AND $5 = 'ended'
    ), forgotten AS (
        UPDATE gpurent.event AS claim SET body = jsonb_set(claim.body, '{spec,environment}', '{}') FROM written
        WHERE claim.rental_id = written.id AND claim.name = 'claimed' AND $5 = 'ended'
    ), out_of_date AS (
        DELETE FROM gpurent.log_tail AS tail USING written
        WHERE tail.host_id = $1 AND tail.kept_until <= $21 AND tail.rental_id <> written.id
    ), tail AS (
        INSERT INTO gpurent.log_tail (rental_id, host_id, kept_until, lines)
        SELECT written.id, $1, $22, $20 FROM written WHERE $20::jsonb IS NOT NULL
        ON CONFLICT (rental_id) DO UPDATE SET kept_until = excluded.kept_until, lines = excluded.lines
    )
    SELECT EXISTS (SELECT 1 FROM written), coalesce((SELECT is_ours FROM epoch), $2::bigint IS NULL)";

pub(super) async fn commit(connections: &Connections, change: &Change) -> Result<(), StoreError> {
    let rental = change.rental();
    let columns = RentalColumns::of(rental);
    let events = change.events();
    let segments = rental.segments();
    let query = sqlx::query_as(COMMIT)
        .bind(rental.host().as_str())
        .bind(change.fence().map(|epoch| signed(epoch.get())))
        .bind(*rental.id().as_uuid())
        .bind(signed(change.expected().get()))
        .bind(columns.phase)
        .bind(columns.revision)
        .bind(columns.expires_at)
        .bind(Json(rental))
        .bind(events.iter().map(|event| signed(event.seq.get())).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.at.as_microsecond()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.event.name()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| Json(&event.event)).collect::<Vec<_>>())
        .bind(segments.iter().map(|segment| segment.started_at.as_microsecond()).collect::<Vec<_>>())
        .bind(segments.iter().map(|segment| segment.ended_at.map(Timestamp::as_microsecond)).collect::<Vec<_>>())
        .bind(columns.gpus)
        .bind(columns.ports)
        .bind(columns.end_kind)
        .bind(change.sealed().map(|sealed| sealed.key_id.as_str()))
        .bind(change.sealed().map(|sealed| sealed.bytes.as_slice()))
        .bind(change.log_tail().map(|tail| Json(&tail.lines)))
        .bind(crate::rows::rental::forgets_logs_of(change).map(Timestamp::as_microsecond))
        .bind(change.log_tail().map(|tail| tail.until.as_microsecond()))
        .bind(columns.ended_at);
    match bounded(connections.fetch_one(query)).await {
        Ok((true, _)) => Ok(()),
        Ok((false, false)) => Err(StoreError::Fenced),
        Ok((false, true)) => Err(StoreError::Conflict),
        Err(error) if matches!(broken_constraint(&error), Some("gpu_hold_once" | "port_hold_once")) => {
            Err(StoreError::Conflict)
        }
        Err(error) => Err(error),
    }
}
