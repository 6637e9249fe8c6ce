//! The events that an agent of an older version left out, written by the first one that takes over from it.
//!
//! Other hosts' agents go on while one brings the schema that they share up to date. Theirs know nothing of its newer tables
//! and columns until they are replaced.

use gpurent_core::id::{Epoch, HostId};
use gpurent_core::store::StoreError;

use super::connections::Connections;
use super::migrations::BEGIN_PATIENTLY;
use crate::error::patient;
use crate::rows::rental::signed;

const TAGS: &str = "
    WITH untagged AS (
        SELECT id, host_id, renter, name, created_at, coalesce(body #> '{spec,labels}', '{}') AS labels
        FROM gpurent.rental
        WHERE host_id = $1 AND NOT EXISTS (SELECT 1 FROM gpurent.tag WHERE tag.rental_id = rental.id)
    ), missing AS (
        SELECT host_id, renter, '' AS name, name AS value, created_at, id FROM untagged
        UNION ALL
        SELECT host_id, renter, label.key, label.value, created_at, id FROM untagged, jsonb_each_text(labels) AS label
    )
    INSERT INTO gpurent.tag (host_id, renter, name, value, digest, created_at, rental_id)
    SELECT host_id, renter, name, value, substr(sha256(convert_to(name || '=' || value, 'UTF8')), 1, 16), created_at, id
    FROM missing ON CONFLICT DO NOTHING";

const ENDS: &str = "
    UPDATE gpurent.rental SET ended_at = (extract(epoch FROM (body #>> '{state,at}')::timestamptz) * 1000000)::bigint
    WHERE host_id = $1 AND phase = 'ended' AND ended_at IS NULL";

/// Called with a new epoch: the agents before it write no more.
pub(super) async fn write_missing(connections: &Connections, host: &HostId, epoch: Epoch) -> Result<(), StoreError> {
    let host = host.as_str();
    patient(async {
        let mut turn = connections.begin_with(BEGIN_PATIENTLY).await?;
        turn.execute(sqlx::query(TAGS).bind(host)).await?;
        turn.execute(sqlx::query(ENDS).bind(host)).await?;
        let done = sqlx::query("UPDATE gpurent.host SET listed_epoch = $2 WHERE id = $1 AND epoch = $2");
        turn.execute(done.bind(host).bind(signed(epoch.get()))).await?;
        turn.end().await
    })
    .await
}
