//! Placing a new rental, and taking in one whose container was found: one transaction each.

use gpurent_core::allocation::Placement;
use gpurent_core::allocation::renter_limits::lately;
use gpurent_core::id::Epoch;
use gpurent_core::model::{Fingerprint, Rental};
use gpurent_core::store::{
    ClaimDecision, ClaimError, ClaimOutcome, ClaimSnapshot, NewRental, RecoveredRental, StoreError,
};
use sqlx::sqlite::SqliteConnection;
use sqlx::types::Json;

use crate::claim::prior;
use crate::error::bounded;
use crate::listing::tags;
use crate::rows::rental::RentalColumns;
use crate::sqlite::commit::{conflict, hold, meter, record, seal};
use crate::sqlite::{has_epoch, held, renter_has};

pub(super) async fn claim(
    connection: &mut SqliteConnection,
    new: &NewRental,
    placement: &Placement,
) -> Result<ClaimOutcome, ClaimError> {
    let placed = match new.decide(snapshot(connection, new).await?, placement)? {
        ClaimDecision::Existing(rental) => return Ok(ClaimOutcome::Existing(*rental)),
        ClaimDecision::Place(placed) => placed,
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
    Ok(ClaimOutcome::New(rental))
}

/// Writes a rental that was found; the transaction is given up where anything of it is somebody else's.
pub(super) async fn adopt(
    connection: &mut SqliteConnection,
    found: &RecoveredRental,
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

async fn snapshot(connection: &mut SqliteConnection, new: &NewRental) -> Result<ClaimSnapshot, StoreError> {
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
    let held = held(&mut *connection, &new.host).await?;
    let has = renter_has(connection, &new.host, &new.spec.renter, lately(new.at.wall)).await?;
    Ok(ClaimSnapshot {
        held,
        has,
        same_name: same_name.map(prior).transpose()?,
        same_key: same_key.map(prior).transpose()?,
    })
}
