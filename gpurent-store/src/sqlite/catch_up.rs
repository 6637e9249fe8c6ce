//! The events that an agent of an older version left out, written by the first one that takes over from it.
//!
//! Such an agent may go on while a newer program, a stand-by of its own host, has brought the file up to date.

use gpurent_core::id::HostId;
use gpurent_core::store::StoreError;
use sqlx::SqliteConnection;

use crate::error::patient;

const TAGS: &str = "
    WITH untagged AS (
        SELECT id, host_id, renter, name, created_at, body FROM gpurent_rental AS rental
        WHERE host_id = ?1 AND NOT EXISTS (SELECT 1 FROM gpurent_tag AS tag WHERE tag.rental_id = rental.id)
    )
    INSERT INTO gpurent_tag (host_id, renter, name, value, created_at, rental_id)
    SELECT host_id, renter, '', name, created_at, id FROM untagged
    UNION ALL
    SELECT host_id, renter, label.key, label.value, created_at, untagged.id
    FROM untagged, json_each(untagged.body, '$.spec.labels') AS label";

const ENDS: &str = "
    UPDATE gpurent_rental SET ended_at = CAST(unixepoch(body ->> '$.state.at', 'subsec') * 1000000 AS INTEGER)
    WHERE host_id = ?1 AND phase = 'ended' AND ended_at IS NULL";

/// Called in the transaction that takes over.
pub(super) async fn write_missing(connection: &mut SqliteConnection, host: &HostId) -> Result<(), StoreError> {
    for statement in [TAGS, ENDS, "UPDATE gpurent_host SET listed_epoch = epoch WHERE id = ?1"] {
        patient(sqlx::query(statement).bind(host.as_str()).execute(&mut *connection)).await?;
    }
    Ok(())
}
