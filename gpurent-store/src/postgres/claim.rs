//! Making a rental: one look at what is held, unless that is known, and one statement that writes it all.

use gpurent_core::gpu::GpuUuid;
use gpurent_core::id::{Epoch, HostId};
use gpurent_core::placement::{Held, Placement};
use gpurent_core::port::HostPort;
use gpurent_core::rental::Rental;
use gpurent_core::store::{ClaimError, Claimed, Foundling, NewRental, StoreError};
use jiff::Timestamp;
use sqlx::postgres::PgPool;
use sqlx::types::Json;

use super::held::Beliefs;
use crate::claim::{Decision, Look, decide};
use crate::error::{bounded, broken_constraint};
use crate::row::{RentalColumns, signed};

/// How often a claim that lost a race against another process looks again.
const TRIES: usize = 8;

/// What a claim looks at: holds, the live rental of the same name, the rental that the same key made.
type Columns = (Vec<String>, Vec<i32>, Option<Json<Rental>>, Option<Vec<u8>>, Option<Json<Rental>>, Option<Vec<u8>>);

const LOOK: &str = "
    SELECT ARRAY(SELECT gpu_uuid FROM gpurent.gpu_hold WHERE host_id = $1),
           ARRAY(SELECT port FROM gpurent.port_hold WHERE host_id = $1),
           same.body, same.fingerprint, keyed.body, once.fingerprint
    FROM (SELECT 1) AS one
    LEFT JOIN gpurent.rental AS same ON same.host_id = $1 AND same.name = $2 AND same.phase <> 'ended'
    LEFT JOIN gpurent.idempotency AS once ON once.host_id = $1 AND once.renter = $3 AND once.key = $4
    LEFT JOIN gpurent.rental AS keyed ON keyed.id = once.rental_id";

pub(super) async fn claim(
    pool: &PgPool,
    beliefs: &Beliefs,
    looks_first: bool,
    new: &NewRental,
    placement: &Placement,
) -> Result<Claimed, ClaimError> {
    let (version, believed) = beliefs.of(&new.host);
    if !looks_first
        && let Some(held) = believed
        && let Ok(placed) = placement.place(new.launch(), &new.spec, &held)
    {
        match write(pool, new, placed).await {
            Ok(rental) => {
                beliefs.took(&rental);
                return Ok(Claimed::New(rental));
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
            .bind(new.key.as_ref().map(|key| key.as_str()));
        let (gpus, ports, named, named_as, keyed, keyed_as): Columns = bounded(query.fetch_one(pool)).await?;
        let asked = |(Json(rental), fingerprint): (Json<Rental>, Vec<u8>)| (rental, fingerprint);
        let look = Look {
            held: parse(gpus, ports)?,
            same_name: named.zip(named_as).map(asked),
            same_key: keyed.zip(keyed_as).map(asked),
        };
        beliefs.learn(&new.host, version, look.held.clone());
        let placed = match decide(look, new, placement)? {
            Decision::Existing(rental) => return Ok(Claimed::Existing(*rental)),
            Decision::Write(placed) => placed,
        };
        match write(pool, new, placed).await {
            Ok(rental) => {
                beliefs.took(&rental);
                return Ok(Claimed::New(rental));
            }
            // Another process was faster: what it took shows in the next look.
            Err(error) if is_lost_race(&error) => beliefs.forget(&new.host),
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

async fn write(pool: &PgPool, new: &NewRental, placed: gpurent_core::placement::Placed) -> Result<Rental, StoreError> {
    let (rental, event) = new.settle(placed);
    let columns = RentalColumns::of(&rental);
    let query = sqlx::query(
        "WITH made AS (
             INSERT INTO gpurent.rental
                 (id, host_id, renter, name, phase, revision, created_at, expires_at, fingerprint, body)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id, host_id
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
    .bind(new.key.as_ref().map(|key| key.as_str()));
    bounded(query.execute(pool)).await?;
    Ok(rental)
}

/// Writes a rental that was found, if the epoch is right and nothing of it is anybody's.
pub(super) async fn adopt(pool: &PgPool, found: &Foundling, epoch: Epoch) -> Result<(), StoreError> {
    let rental = &found.rental;
    let columns = RentalColumns::of(rental);
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
    .bind(found.events.iter().map(|event| Json(&event.event)).collect::<Vec<_>>());
    match bounded(query.fetch_one(pool)).await {
        Ok((true,)) => Ok(()),
        Ok((false,)) => Err(StoreError::Fenced),
        Err(error) if broken_constraint(&error).is_some() => Err(StoreError::Conflict),
        Err(error) => Err(error),
    }
}

pub(super) async fn held(pool: &PgPool, host: &HostId) -> Result<Held, StoreError> {
    let query = sqlx::query_as(
        "SELECT ARRAY(SELECT gpu_uuid FROM gpurent.gpu_hold WHERE host_id = $1),
                ARRAY(SELECT port FROM gpurent.port_hold WHERE host_id = $1)",
    );
    let (gpus, ports) = bounded(query.bind(host.as_str()).fetch_one(pool)).await?;
    parse(gpus, ports)
}

fn parse(gpus: Vec<String>, ports: Vec<i32>) -> Result<Held, StoreError> {
    let corrupt = |error: gpurent_core::invalid::Invalid| StoreError::Corrupt(error.into());
    let gpus: Result<_, _> = gpus.into_iter().map(GpuUuid::try_from).collect();
    let ports: Result<_, _> =
        ports.into_iter().map(|port| HostPort::try_from(u16::try_from(port).unwrap_or(0))).collect();
    Ok(Held { gpus: gpus.map_err(corrupt)?, ports: ports.map_err(corrupt)? })
}
