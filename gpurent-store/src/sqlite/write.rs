//! Making and changing rentals, each inside one transaction that nobody else writes beside.

use gpurent_core::allocation::Placement;
use gpurent_core::allocation::renter_limits::lately;
use gpurent_core::id::{Epoch, HostId};
use gpurent_core::model::{Fingerprint, Recorded, Rental, Sealed};
use gpurent_core::store::{Change, ClaimError, Claimed, Foundling, NewRental, StoreError};
use jiff::Timestamp;
use sqlx::sqlite::SqliteConnection;
use sqlx::types::Json;

use super::{has_epoch, held, renter_has};
use crate::claim::{Asked, Decision, Look, decide};
use crate::error::{bounded, is_unique_violation};
use crate::listing::tags;
use crate::row::{RentalColumns, forgets_logs_of, signed};

pub(super) async fn claim(
    connection: &mut SqliteConnection,
    new: &NewRental,
    placement: &Placement,
) -> Result<Claimed, ClaimError> {
    let look = look(connection, new).await?;
    let placed = match decide(look, new, placement)? {
        Decision::Existing(rental) => return Ok(Claimed::Existing(*rental)),
        Decision::Write(placed) => placed,
    };
    let (rental, event) = new.settle(placed);
    let id = rental.id().to_string();
    insert(connection, &rental, new.fingerprint).await?;
    seal(connection, &id, &new.sealed).await?;
    record(connection, rental.host(), &id, &event).await?;
    if let Some(key) = &new.key {
        let query = sqlx::query(
            "INSERT INTO gpurent_idempotency (host_id, renter, key, fingerprint, rental_id) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(rental.host().as_str())
        .bind(rental.spec().renter.as_str())
        .bind(key.as_str())
        .bind(new.fingerprint.0.as_slice())
        .bind(&id);
        bounded(query.execute(connection)).await?;
    }
    Ok(Claimed::New(rental))
}

/// Writes a rental that was found; the transaction is given up where anything of it is somebody else's.
pub(super) async fn adopt(
    connection: &mut SqliteConnection,
    found: &Foundling,
    epoch: Epoch,
) -> Result<(), StoreError> {
    let rental = &found.rental;
    if !has_epoch(&mut *connection, rental.host(), epoch).await? {
        return Err(StoreError::Fenced);
    }
    insert(connection, rental, found.fingerprint).await?;
    let id = rental.id().to_string();
    for event in &found.events {
        record(connection, rental.host(), &id, event).await?;
    }
    meter(connection, &id, rental).await
}

async fn insert(
    connection: &mut SqliteConnection,
    rental: &Rental,
    fingerprint: Fingerprint,
) -> Result<(), StoreError> {
    let columns = RentalColumns::of(rental);
    let id = rental.id().to_string();
    let query = sqlx::query(
        "INSERT INTO gpurent_rental
             (id, host_id, renter, name, phase, revision, created_at, expires_at, fingerprint, body)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&id)
    .bind(rental.host().as_str())
    .bind(columns.renter)
    .bind(rental.name().as_str())
    .bind(columns.phase)
    .bind(columns.revision)
    .bind(columns.created_at)
    .bind(columns.expires_at)
    .bind(fingerprint.0.as_slice())
    .bind(Json(rental));
    bounded(query.execute(&mut *connection)).await.map_err(conflict)?;
    for (name, value) in tags(rental) {
        let query = sqlx::query(
            "INSERT INTO gpurent_tag (host_id, renter, name, value, created_at, rental_id) VALUES (?, ?, ?, ?, ?, ?)",
        );
        let query = query.bind(rental.host().as_str()).bind(columns.renter).bind(name).bind(value);
        bounded(query.bind(columns.created_at).bind(&id).execute(&mut *connection)).await?;
    }
    hold(connection, rental.host(), &id, &columns).await
}

/// Takes what breaks a uniqueness for another's.
fn conflict(error: StoreError) -> StoreError {
    if is_unique_violation(&error) { StoreError::Conflict } else { error }
}

/// Writes a rental's usage.
async fn meter(connection: &mut SqliteConnection, id: &str, rental: &Rental) -> Result<(), StoreError> {
    for (n, segment) in (1i64..).zip(rental.segments()) {
        let query = sqlx::query(
            "INSERT INTO gpurent_usage_segment (rental_id, n, started_at, ended_at) VALUES (?, ?, ?, ?)
             ON CONFLICT (rental_id, n) DO UPDATE SET ended_at = excluded.ended_at",
        )
        .bind(id)
        .bind(n)
        .bind(segment.started_at.as_microsecond())
        .bind(segment.ended_at.map(Timestamp::as_microsecond));
        bounded(query.execute(&mut *connection)).await?;
    }
    Ok(())
}

async fn look(connection: &mut SqliteConnection, new: &NewRental) -> Result<Look, StoreError> {
    let name = sqlx::query_as(
        "SELECT body, fingerprint FROM gpurent_rental WHERE host_id = ? AND renter = ? AND name = ? AND phase <> 'ended'",
    );
    let name = name.bind(new.host.as_str()).bind(new.spec.renter.as_str()).bind(new.name.as_str());
    let same_name: Option<(Json<Rental>, Vec<u8>)> = bounded(name.fetch_optional(&mut *connection)).await?;
    let mut same_key: Option<(Json<Rental>, Vec<u8>)> = None;
    if let Some(key) = &new.key {
        let query = sqlx::query_as(
            "SELECT rental.body, once.fingerprint
             FROM gpurent_idempotency AS once JOIN gpurent_rental AS rental ON rental.id = once.rental_id
             WHERE once.host_id = ? AND once.renter = ? AND once.key = ?",
        );
        let query = query.bind(new.host.as_str()).bind(new.spec.renter.as_str()).bind(key.as_str());
        same_key = bounded(query.fetch_optional(&mut *connection)).await?;
    }
    let asked = |(Json(rental), fingerprint)| -> Asked { (rental, fingerprint) };
    let held = held(&mut *connection, &new.host).await?;
    let has = renter_has(connection, &new.host, &new.spec.renter, lately(new.at.wall)).await?;
    Ok(Look { held, has, same_name: same_name.map(asked), same_key: same_key.map(asked) })
}

pub(super) async fn commit(connection: &mut SqliteConnection, change: &Change) -> Result<(), StoreError> {
    let rental = change.rental();
    if let Some(epoch) = change.fence()
        && !has_epoch(&mut *connection, rental.host(), epoch).await?
    {
        return Err(StoreError::Fenced);
    }
    let columns = RentalColumns::of(rental);
    let id = rental.id().to_string();
    let query = sqlx::query(
        "UPDATE gpurent_rental SET phase = ?, end_kind = ?, ended_at = ?, revision = ?, expires_at = ?, body = ?
         WHERE id = ? AND revision = ?",
    )
    .bind(columns.phase)
    .bind(columns.end_kind)
    .bind(columns.ended_at)
    .bind(columns.revision)
    .bind(columns.expires_at)
    .bind(Json(rental))
    .bind(&id)
    .bind(signed(change.expected().get()));
    if bounded(query.execute(&mut *connection)).await?.rows_affected() == 0 {
        return Err(StoreError::Conflict);
    }
    for event in change.events() {
        record(connection, rental.host(), &id, event).await?;
    }
    meter(connection, &id, rental).await?;
    for query in
        ["DELETE FROM gpurent_gpu_hold WHERE rental_id = ?", "DELETE FROM gpurent_port_hold WHERE rental_id = ?"]
    {
        bounded(sqlx::query(query).bind(&id).execute(&mut *connection)).await?;
    }
    hold(connection, rental.host(), &id, &columns).await?;
    if let Some(sealed) = change.sealed() {
        seal(connection, &id, sealed).await?;
    }
    if !rental.is_live() {
        let query = sqlx::query("DELETE FROM gpurent_credential WHERE rental_id = ?").bind(&id);
        bounded(query.execute(&mut *connection)).await?;
        let query = sqlx::query(
            "UPDATE gpurent_event SET body = json_set(body, '$.spec.environment', json('{}'))
             WHERE rental_id = ? AND name = 'claimed'",
        );
        bounded(query.bind(&id).execute(&mut *connection)).await?;
    }
    if let Some(by) = forgets_logs_of(change) {
        let query = sqlx::query("DELETE FROM gpurent_log_tail WHERE host_id = ? AND kept_until <= ?");
        let query = query.bind(rental.host().as_str()).bind(by.as_microsecond());
        bounded(query.execute(&mut *connection)).await?;
    }
    if let Some(tail) = change.log_tail() {
        let query = sqlx::query(
            "INSERT INTO gpurent_log_tail (rental_id, host_id, kept_until, lines) VALUES (?, ?, ?, ?)
             ON CONFLICT (rental_id) DO UPDATE SET kept_until = excluded.kept_until, lines = excluded.lines",
        )
        .bind(&id)
        .bind(rental.host().as_str())
        .bind(tail.until.as_microsecond())
        .bind(Json(&tail.lines));
        bounded(query.execute(connection)).await?;
    }
    Ok(())
}

async fn hold(
    connection: &mut SqliteConnection,
    host: &HostId,
    id: &str,
    columns: &RentalColumns<'_>,
) -> Result<(), StoreError> {
    // Nobody else writes meanwhile: what is held by somebody else now was held before.
    let gpus =
        sqlx::query("INSERT INTO gpurent_gpu_hold (host_id, gpu_uuid, rental_id) SELECT ?, value, ? FROM json_each(?)");
    let gpus = gpus.bind(host.as_str()).bind(id).bind(Json(&columns.gpus));
    bounded(gpus.execute(&mut *connection)).await.map_err(conflict)?;
    let ports =
        sqlx::query("INSERT INTO gpurent_port_hold (host_id, port, rental_id) SELECT ?, value, ? FROM json_each(?)");
    let ports = ports.bind(host.as_str()).bind(id).bind(Json(&columns.ports));
    bounded(ports.execute(connection)).await.map_err(conflict)?;
    Ok(())
}

async fn seal(connection: &mut SqliteConnection, id: &str, sealed: &Sealed) -> Result<(), StoreError> {
    let query = sqlx::query(
        "INSERT INTO gpurent_credential (rental_id, key_id, sealed) VALUES (?, ?, ?)
         ON CONFLICT (rental_id) DO UPDATE SET key_id = excluded.key_id, sealed = excluded.sealed",
    );
    bounded(query.bind(id).bind(&sealed.key_id).bind(&sealed.bytes).execute(connection)).await?;
    Ok(())
}

async fn record(
    connection: &mut SqliteConnection,
    host: &HostId,
    id: &str,
    event: &Recorded,
) -> Result<(), StoreError> {
    let query =
        sqlx::query("INSERT INTO gpurent_event (host_id, rental_id, seq, at, name, body) VALUES (?, ?, ?, ?, ?, ?)")
            .bind(host.as_str())
            .bind(id)
            .bind(signed(event.seq.get()))
            .bind(event.at.as_microsecond())
            .bind(event.event.name())
            .bind(Json(&event.event));
    bounded(query.execute(connection)).await?;
    Ok(())
}
