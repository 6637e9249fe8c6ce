//! The audit log.

use async_trait::async_trait;
use gpurent_core::store::{AuditEntry, AuditLog, MAX_PAGE, NumberedEntry, StoreError};

use super::SqliteStore;
use crate::error::bounded;
use crate::rows::audit::{AuditColumns, entry};
use crate::rows::rental::signed;

#[async_trait]
impl AuditLog for SqliteStore {
    async fn append(&self, entries: &[AuditEntry], most: u64) -> Result<(), StoreError> {
        let mut writing = self.write().await?;
        for entry in entries {
            let query = sqlx::query(
                "INSERT INTO gpurent_audit (at, renter, role, key_id, address, action, status)
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(entry.at.as_microsecond())
            .bind(entry.renter.as_str())
            .bind(entry.role.as_str())
            .bind(entry.key.as_ref().map(|key| key.as_str()))
            .bind(entry.address.map(|address| address.to_string()))
            .bind(entry.action.as_str())
            .bind(i64::from(entry.status));
            bounded(query.execute(&mut *writing.transaction)).await?;
        }
        let query =
            sqlx::query("DELETE FROM gpurent_audit WHERE number <= (SELECT max(number) FROM gpurent_audit) - ?");
        bounded(query.bind(signed(most)).execute(&mut *writing.transaction)).await?;
        writing.commit().await
    }

    async fn entries(&self, before: Option<u64>, limit: usize) -> Result<Vec<NumberedEntry>, StoreError> {
        let query = sqlx::query_as(
            "SELECT number, at, renter, role, key_id, address, action, status FROM gpurent_audit
             WHERE ?1 IS NULL OR number < ?1 ORDER BY number DESC LIMIT ?2",
        );
        let query = query.bind(before.map(signed)).bind(limit.min(MAX_PAGE) as i64);
        let found: Vec<AuditColumns> = bounded(query.fetch_all(&self.pool)).await?;
        found.into_iter().map(entry).collect()
    }
}
