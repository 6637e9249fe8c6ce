//! The audit log.

use async_trait::async_trait;
use gpurent_core::store::{AuditEntry, AuditLog, MAX_PAGE, NumberedEntry, StoreError};

use super::PostgresStore;
use crate::error::bounded;
use crate::rows::audit::{AuditColumns, entry};
use crate::rows::rental::signed;

#[async_trait]
impl AuditLog for PostgresStore {
    async fn append(&self, entries: &[AuditEntry], most: u64) -> Result<(), StoreError> {
        let query = sqlx::query(
            "INSERT INTO gpurent.audit (at, renter, role, key_id, address, action, status)
             SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[])",
        )
        .bind(entries.iter().map(|e| e.at.as_microsecond()).collect::<Vec<_>>())
        .bind(entries.iter().map(|e| e.renter.as_str()).collect::<Vec<_>>())
        .bind(entries.iter().map(|e| e.role.as_str()).collect::<Vec<_>>())
        .bind(entries.iter().map(|e| e.key.as_ref().map(|key| key.as_str())).collect::<Vec<_>>())
        .bind(entries.iter().map(|e| e.address.map(|address| address.to_string())).collect::<Vec<_>>())
        .bind(entries.iter().map(|e| e.action.as_str()).collect::<Vec<_>>())
        .bind(entries.iter().map(|e| i32::from(e.status)).collect::<Vec<_>>());
        bounded(self.connections.execute(query)).await?;
        let query =
            sqlx::query("DELETE FROM gpurent.audit WHERE number <= (SELECT max(number) FROM gpurent.audit) - $1");
        bounded(self.connections.execute(query.bind(signed(most)))).await.map(|_| ())
    }

    async fn entries(&self, before: Option<u64>, limit: usize) -> Result<Vec<NumberedEntry>, StoreError> {
        let query = sqlx::query_as(
            "SELECT number, at, renter, role, key_id, address, action, status::bigint FROM gpurent.audit
             WHERE $1::bigint IS NULL OR number < $1 ORDER BY number DESC LIMIT $2",
        );
        let query = query.bind(before.map(signed)).bind(limit.min(MAX_PAGE) as i64);
        let found: Vec<AuditColumns> = bounded(self.connections.fetch_all(query)).await?;
        found.into_iter().map(entry).collect()
    }
}
