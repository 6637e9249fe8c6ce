//! API keys in SQLite.

use async_trait::async_trait;
use gpurent_core::id::ApiKeyId;
use gpurent_core::store::{KeyDigest, KeyRecord, KeyStore, MAX_PAGE, StoreError};

use crate::error::bounded;
use crate::rows::api_key::{KeyColumns, networks, record};
use crate::sqlite::SqliteStore;

#[async_trait]
impl KeyStore for SqliteStore {
    async fn add_key(&self, key: &KeyRecord) -> Result<(), StoreError> {
        let mut writing = self.write().await?;
        let query = sqlx::query(
            "INSERT INTO gpurent_api_key (id, renter, role, digest, created_at, allowed_ips) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(key.id.as_str())
        .bind(key.renter.as_str())
        .bind(key.role.as_str())
        .bind(key.digest.0.as_slice())
        .bind(key.created_at.as_microsecond())
        .bind(networks(key));
        bounded(query.execute(&mut *writing.transaction)).await?;
        writing.commit().await
    }

    async fn find_key(&self, digest: &KeyDigest) -> Result<Option<KeyRecord>, StoreError> {
        let query = sqlx::query_as(
            "SELECT id, renter, role, digest, created_at, allowed_ips FROM gpurent_api_key WHERE digest = ?",
        );
        let found: Option<KeyColumns> = bounded(query.bind(digest.0.as_slice()).fetch_optional(&self.pool)).await?;
        found.map(record).transpose()
    }

    async fn keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        let query = sqlx::query_as(
            "SELECT id, renter, role, digest, created_at, allowed_ips FROM gpurent_api_key ORDER BY created_at, id LIMIT ?",
        );
        let found: Vec<KeyColumns> = bounded(query.bind(MAX_PAGE as i64).fetch_all(&self.pool)).await?;
        found.into_iter().map(record).collect()
    }

    async fn revoke_key(&self, id: &ApiKeyId) -> Result<bool, StoreError> {
        let mut writing = self.write().await?;
        let query = sqlx::query("DELETE FROM gpurent_api_key WHERE id = ?").bind(id.as_str());
        let gone = bounded(query.execute(&mut *writing.transaction)).await?.rows_affected();
        writing.commit().await?;
        Ok(gone > 0)
    }
}
