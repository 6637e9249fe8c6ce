//! Making a rental: one look at what is held, unless that is known, and one statement that writes it all.

use gpurent_core::allocation::renter_limits::lately;
use gpurent_core::allocation::{Holds, Placement, RenterHas, RenterLimits};
use gpurent_core::id::{Epoch, HostId, RenterId};
use gpurent_core::model::{GpuUuid, HostPort, Rental};
use gpurent_core::store::{
    ClaimDecision, ClaimError, ClaimOutcome, ClaimSnapshot, NewRental, RecoveredRental, StoreError,
};
use jiff::Timestamp;
use sqlx::types::Json;

use super::connections::Connections;
use crate::claim::{NOT_IN_VAIN, counted, prior};
use crate::error::{bounded, broken_constraint};
use crate::listing::Tags;
use crate::postgres::hold_cache::HoldCache;
use crate::rows::rental::{RentalColumns, signed};

/// How often a claim that lost a race against another process looks again.
const TRIES: usize = 8;

/// The columns of a claim's look: holds, the live rental of the same name, the rental that the same key made, what the renter has.
type Columns = (
    Vec<String>,
    Vec<i32>,
    Option<Json<Rental>>,
    Option<Vec<u8>>,
    Option<Json<Rental>>,
    Option<Vec<u8>>,
    i64,
    i64,
    i64,
    i64,
    i64,
    i64,
);

const LOOK: &str = "
    SELECT ARRAY(SELECT gpu_uuid FROM gpurent.gpu_hold WHERE host_id = $1),
           ARRAY(SELECT port FROM gpurent.port_hold WHERE host_id = $1),
           same.body, same.fingerprint, keyed.body, once.fingerprint,
           has.live, has.unready, has.suspended,
           (SELECT count(*) FROM gpurent.rental AS theirs
            WHERE theirs.host_id = $1 AND theirs.renter = $3 AND theirs.created_at > $5 AND theirs.phase = 'ended'
              AND NOT EXISTS (SELECT 1 FROM gpurent.usage_segment WHERE rental_id = theirs.id)
              AND NOT $6::jsonb ? coalesce(theirs.body #>> '{state,reason,kind}', '')),
           (SELECT count(*) FROM gpurent.rental AS theirs JOIN gpurent.gpu_hold AS held ON held.rental_id = theirs.id
            WHERE theirs.host_id = $1 AND theirs.renter = $3 AND theirs.phase <> 'ended'),
           (SELECT count(*) FROM gpurent.rental AS without_gpu
            WHERE host_id = $1 AND phase <> 'ended' AND phase <> 'suspended' AND body #> '{spec,gpu}' = 'null')
    FROM (SELECT count(*) AS live, count(*) FILTER (WHERE phase IN ('provisioning', 'running')) AS unready,
                 count(*) FILTER (WHERE phase IN ('suspending', 'suspended')) AS suspended
          FROM gpurent.rental WHERE host_id = $1 AND renter = $3 AND phase <> 'ended') AS has
    LEFT JOIN gpurent.rental AS same ON same.host_id = $1 AND same.renter = $3 AND same.name = $2 AND same.phase <> 'ended'
    LEFT JOIN gpurent.idempotency AS once ON once.host_id = $1 AND once.renter = $3 AND once.key = $4
    LEFT JOIN gpurent.rental AS keyed ON keyed.id = once.rental_id";

pub(super) async fn claim(
    connections: &Connections,
    hold_cache: &HoldCache,
    looks_first: bool,
    new: &NewRental,
    placement: &Placement,
) -> Result<ClaimOutcome, ClaimError> {
    let (version, believed) = hold_cache.get(&new.host);
    // How many GPUs the renter has is only looked at.
    if !looks_first
        && placement.renter_limits.gpus.is_none()
        && let Some(held) = believed
        && let Ok(placed) = placement.place(new.launch(), &new.spec, &held)
    {
        match write(connections, new, placed, &placement.renter_limits).await {
            Ok(rental) => {
                hold_cache.insert(&rental);
                return Ok(ClaimOutcome::New(rental));
            }
            // It is otherwise than believed, or was asked for before: the look tells.
            Err(error) if is_lost_race(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for _ in 0..TRIES {
        let query = sqlx::query_as(LOOK)
            .bind(new.host.as_str())
            .bind(new.name.as_str())
            .bind(new.spec.renter.as_str())
            .bind(new.key.as_ref().map(|key| key.as_str()))
            .bind(lately(new.at.wall).as_microsecond())
            .bind(NOT_IN_VAIN);
        let (gpus, ports, named, named_as, keyed, keyed_as, live, unready, suspended, in_vain, their_gpus, without_gpu): Columns =
            bounded(connections.fetch_one(query)).await?;
        let snapshot = ClaimSnapshot {
            held: parse(gpus, ports, without_gpu)?,
            has: counted((live, unready, suspended, in_vain, their_gpus)),
            same_name: named.zip(named_as).map(prior).transpose()?,
            same_key: keyed.zip(keyed_as).map(prior).transpose()?,
        };
        hold_cache.store(&new.host, version, snapshot.held.clone());
        let placed = match new.decide(snapshot, placement)? {
            ClaimDecision::Existing(rental) => return Ok(ClaimOutcome::Existing(*rental)),
            ClaimDecision::Place(placed) => placed,
        };
        match write(connections, new, placed, &placement.renter_limits).await {
            Ok(rental) => {
                hold_cache.insert(&rental);
                return Ok(ClaimOutcome::New(rental));
            }
            // Another process was faster: what it took shows in the next look.
            Err(error) if is_lost_race(&error) => hold_cache.invalidate(&new.host),
            Err(error) => return Err(error.into()),
        }
    }
    Err(StoreError::Conflict.into())
}

fn is_lost_race(error: &StoreError) -> bool {
    matches!(error, StoreError::Conflict)
        || matches!(
            broken_constraint(error),
            Some("gpu_hold_once" | "port_hold_once" | "rental_live_name" | "idempotency_once")
        )
}

async fn write(
    connections: &Connections,
    new: &NewRental,
    placed: gpurent_core::allocation::Placed,
    limits: &RenterLimits,
) -> Result<Rental, StoreError> {
    let (rental, event) = new.settle(placed);
    let columns = RentalColumns::of(&rental);
    let tags = Tags::of(&rental);
    let query = sqlx::query(
        "WITH has AS (
             SELECT count(*) AS live, count(*) FILTER (WHERE phase IN ('provisioning', 'running')) AS unready
             FROM gpurent.rental WHERE host_id = $2 AND renter = $3 AND phase <> 'ended'
         ), lately AS (
             SELECT count(*) AS in_vain FROM gpurent.rental AS theirs
             WHERE theirs.host_id = $2 AND theirs.renter = $3 AND theirs.created_at > $22 AND theirs.phase = 'ended'
               AND NOT EXISTS (SELECT 1 FROM gpurent.usage_segment WHERE rental_id = theirs.id)
              AND NOT $24::jsonb ? coalesce(theirs.body #>> '{state,reason,kind}', '')
         ), made AS (
             INSERT INTO gpurent.rental
                 (id, host_id, renter, name, phase, revision, created_at, expires_at, fingerprint, body)
             SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 FROM has, lately
             WHERE live < $20 AND unready < $21 AND in_vain < $23
             RETURNING id, host_id
         ), gpus AS (
             INSERT INTO gpurent.gpu_hold (host_id, gpu_uuid, rental_id)
             SELECT host_id, unnest($11::text[]), id FROM made
         ), ports AS (
             INSERT INTO gpurent.port_hold (host_id, port, rental_id)
             SELECT host_id, unnest($12::int[]), id FROM made
         ), access AS (
             INSERT INTO gpurent.credential (rental_id, key_id, sealed) SELECT id, $13, $14 FROM made
         ), once AS (
             INSERT INTO gpurent.idempotency (host_id, renter, key, fingerprint, rental_id)
             SELECT host_id, $3, $19, $9, id FROM made WHERE $19::text IS NOT NULL
         ), tags AS (
             INSERT INTO gpurent.tag (host_id, renter, name, value, digest, created_at, rental_id)
             SELECT host_id, $3, tag.name, tag.value, tag.digest, $7, id
             FROM made, unnest($25::text[], $26::text[], $27::bytea[]) AS tag (name, value, digest)
         )
         INSERT INTO gpurent.event (host_id, rental_id, seq, at, name, body)
         SELECT host_id, id, $15, $16, $17, $18 FROM made",
    )
    .bind(*rental.id().as_uuid())
    .bind(rental.host().as_str())
    .bind(columns.renter)
    .bind(rental.name().as_str())
    .bind(columns.phase)
    .bind(columns.revision)
    .bind(columns.created_at)
    .bind(columns.expires_at)
    .bind(new.fingerprint.0.as_slice())
    .bind(Json(&rental))
    .bind(columns.gpus)
    .bind(columns.ports)
    .bind(&new.sealed.key_id)
    .bind(&new.sealed.bytes)
    .bind(signed(event.seq.get()))
    .bind(event.at.as_microsecond())
    .bind(event.event.name())
    .bind(Json(&event.event))
    .bind(new.key.as_ref().map(|key| key.as_str()))
    .bind(i64::from(limits.live))
    .bind(i64::from(limits.unready))
    .bind(lately(new.at.wall).as_microsecond())
    .bind(i64::from(limits.in_vain))
    .bind(NOT_IN_VAIN)
    .bind(tags.names)
    .bind(tags.values)
    .bind(tags.digests);
    match bounded(connections.execute(query)).await?.rows_affected() {
        // The renter has as much as one may have, as far as this statement saw: the look tells.
        0 => Err(StoreError::Conflict),
        _ => Ok(rental),
    }
}

/// Writes a rental that was found, if the epoch is right and nothing of it is anybody's.
pub(super) async fn adopt(connections: &Connections, found: &RecoveredRental, epoch: Epoch) -> Result<(), StoreError> {
    let rental = &found.rental;
    let columns = RentalColumns::of(rental);
    let tags = Tags::of(rental);
    let query = sqlx::query_as(
        "WITH epoch AS (
             SELECT epoch = $2 AS is_ours FROM gpurent.host WHERE id = $1 FOR SHARE
         ), made AS (
             INSERT INTO gpurent.rental
                 (id, host_id, renter, name, phase, revision, created_at, expires_at, fingerprint, body)
             SELECT $3, $1, $4, $5, $6, $7, $8, $9, $10, $11 FROM epoch WHERE is_ours
             RETURNING id, host_id
         ), gpus AS (
             INSERT INTO gpurent.gpu_hold (host_id, gpu_uuid, rental_id)
             SELECT host_id, unnest($12::text[]), id FROM made
         ), ports AS (
             INSERT INTO gpurent.port_hold (host_id, port, rental_id)
             SELECT host_id, unnest($13::int[]), id FROM made
         ), usage AS (
             INSERT INTO gpurent.usage_segment (rental_id, n, started_at, ended_at)
             SELECT made.id, s.n, s.started_at, s.ended_at
             FROM made, unnest($14::bigint[], $15::bigint[]) WITH ORDINALITY AS s (started_at, ended_at, n)
         ), events AS (
             INSERT INTO gpurent.event (host_id, rental_id, seq, at, name, body)
             SELECT made.host_id, made.id, e.seq, e.at, e.name, e.body
             FROM made, unnest($16::bigint[], $17::bigint[], $18::text[], $19::jsonb[]) AS e (seq, at, name, body)
             ORDER BY e.seq
         ), tags AS (
             INSERT INTO gpurent.tag (host_id, renter, name, value, digest, created_at, rental_id)
             SELECT host_id, $4, tag.name, tag.value, tag.digest, $8, id
             FROM made, unnest($20::text[], $21::text[], $22::bytea[]) AS tag (name, value, digest)
         )
         SELECT EXISTS (SELECT 1 FROM made)",
    )
    .bind(rental.host().as_str())
    .bind(signed(epoch.get()))
    .bind(*rental.id().as_uuid())
    .bind(columns.renter)
    .bind(rental.name().as_str())
    .bind(columns.phase)
    .bind(columns.revision)
    .bind(columns.created_at)
    .bind(columns.expires_at)
    .bind(found.fingerprint.0.as_slice())
    .bind(Json(rental))
    .bind(columns.gpus)
    .bind(columns.ports)
    .bind(rental.segments().iter().map(|segment| segment.started_at.as_microsecond()).collect::<Vec<_>>())
    .bind(rental.segments().iter().map(|s| s.ended_at.map(Timestamp::as_microsecond)).collect::<Vec<_>>())
    .bind(found.events.iter().map(|event| signed(event.seq.get())).collect::<Vec<_>>())
    .bind(found.events.iter().map(|event| event.at.as_microsecond()).collect::<Vec<_>>())
    .bind(found.events.iter().map(|event| event.event.name()).collect::<Vec<_>>())
    .bind(found.events.iter().map(|event| Json(&event.event)).collect::<Vec<_>>())
    .bind(tags.names)
    .bind(tags.values)
    .bind(tags.digests);
    match bounded(connections.fetch_one(query)).await {
        Ok((true,)) => Ok(()),
        Ok((false,)) => Err(StoreError::Fenced),
        Err(error) if broken_constraint(&error).is_some() => Err(StoreError::Conflict),
        Err(error) => Err(error),
    }
}

pub(super) async fn held(connections: &Connections, host: &HostId) -> Result<Holds, StoreError> {
    let query = sqlx::query_as(
        "SELECT ARRAY(SELECT gpu_uuid FROM gpurent.gpu_hold WHERE host_id = $1),
                ARRAY(SELECT port FROM gpurent.port_hold WHERE host_id = $1),
                (SELECT count(*) FROM gpurent.rental
                 WHERE host_id = $1 AND phase <> 'ended' AND phase <> 'suspended' AND body #> '{spec,gpu}' = 'null')",
    );
    let (gpus, ports, without_gpu) = bounded(connections.fetch_one(query.bind(host.as_str()))).await?;
    parse(gpus, ports, without_gpu)
}

pub(super) async fn renter_has(
    connections: &Connections,
    host: &HostId,
    renter: &RenterId,
    since: Timestamp,
) -> Result<RenterHas, StoreError> {
    let query = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE phase IN ('provisioning', 'running')),
                count(*) FILTER (WHERE phase IN ('suspending', 'suspended')),
                (SELECT count(*) FROM gpurent.rental AS theirs
                 WHERE theirs.host_id = $1 AND theirs.renter = $2 AND theirs.created_at > $3 AND theirs.phase = 'ended'
                   AND NOT EXISTS (SELECT 1 FROM gpurent.usage_segment WHERE rental_id = theirs.id)
              AND NOT $4::jsonb ? coalesce(theirs.body #>> '{state,reason,kind}', '')),
                (SELECT count(*) FROM gpurent.rental AS theirs JOIN gpurent.gpu_hold AS held ON held.rental_id = theirs.id
                 WHERE theirs.host_id = $1 AND theirs.renter = $2 AND theirs.phase <> 'ended')
         FROM gpurent.rental WHERE host_id = $1 AND renter = $2 AND phase <> 'ended'",
    );
    let query = query.bind(host.as_str()).bind(renter.as_str()).bind(since.as_microsecond());
    let query = query.bind(NOT_IN_VAIN);
    Ok(counted(bounded(connections.fetch_one(query)).await?))
}

fn parse(gpus: Vec<String>, ports: Vec<i32>, without_gpu: i64) -> Result<Holds, StoreError> {
    let corrupt = |error: gpurent_core::error::ValidationError| StoreError::Corrupt(error.into());
    let gpus: Result<_, _> = gpus.into_iter().map(GpuUuid::try_from).collect();
    let ports: Result<_, _> =
        ports.into_iter().map(|port| HostPort::try_from(u16::try_from(port).unwrap_or(0))).collect();
    let without_gpu = u32::try_from(without_gpu).unwrap_or(u32::MAX);
    Ok(Holds { gpus: gpus.map_err(corrupt)?, ports: ports.map_err(corrupt)?, without_gpu })
}
