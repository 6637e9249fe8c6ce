//! Changing rentals, inside one transaction that nobody else writes beside.

use gpurent_core::id::HostId;
use gpurent_core::model::{RecordedEvent, Rental, Sealed};
use gpurent_core::store::{Change, StoreError};
use jiff::Timestamp;
use sqlx::sqlite::SqliteConnection;
use sqlx::types::Json;

use crate::error::{bounded, is_unique_violation};
use crate::rows::rental::{RentalColumns, forgets_logs_of, signed};
use crate::sqlite::has_epoch;

/// Takes what breaks a uniqueness for another's.
pub(super) fn conflict(error: StoreError) -> StoreError {
    if is_unique_violation(&error) { StoreError::Conflict } else { error }
}

/// Writes a rental's usage.
pub(super) async fn meter(connection: &mut SqliteConnection, id: &str, rental: &Rental) -> Result<(), StoreError> {
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

pub(super) async fn hold(
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

pub(super) async fn seal(connection: &mut SqliteConnection, id: &str, sealed: &Sealed) -> Result<(), StoreError> {
    let query = sqlx::query(
        "INSERT INTO gpurent_credential (rental_id, key_id, sealed) VALUES (?, ?, ?)
         ON CONFLICT (rental_id) DO UPDATE SET key_id = excluded.key_id, sealed = excluded.sealed",
    );
    bounded(query.bind(id).bind(&sealed.key_id).bind(&sealed.bytes).execute(connection)).await?;
    Ok(())
}

pub(super) async fn record(
    connection: &mut SqliteConnection,
    host: &HostId,
    id: &str,
    event: &RecordedEvent,
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
