//! API keys in PostgreSQL.

use async_trait::async_trait;
use gpurent_core::id::ApiKeyId;
use gpurent_core::store::{KeyDigest, KeyRecord, KeyStore, MAX_PAGE, StoreError};

use crate::error::bounded;
use crate::postgres::PostgresStore;
use crate::rows::api_key::{KeyColumns, networks, record};

#[async_trait]
impl KeyStore for PostgresStore {
    async fn add_key(&self, key: &KeyRecord) -> Result<(), StoreError> {
        let query = sqlx::query(
            "INSERT INTO gpurent.api_key (id, renter, role, digest, created_at, allowed_ips) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(key.id.as_str())
        .bind(key.renter.as_str())
        .bind(key.role.as_str())
        .bind(key.digest.0.as_slice())
        .bind(key.created_at.as_microsecond())
.bind(networks(key));
        bounded(self.connections.execute(query)).await.map(|_| ())
    }

    async fn find_key(&self, digest: &KeyDigest) -> Result<Option<KeyRecord>, StoreError> {
        let query = sqlx::query_as(
            "SELECT id, renter, role, digest, created_at, allowed_ips FROM gpurent.api_key WHERE digest = $1",
        );
        let found: Option<KeyColumns> =
            bounded(self.connections.fetch_optional(query.bind(digest.0.as_slice()))).await?;
        found.map(record).transpose()
    }

    async fn keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        let query = sqlx::query_as(
            "SELECT id, renter, role, digest, created_at, allowed_ips FROM gpurent.api_key ORDER BY created_at, id LIMIT $1",
        );
        let found: Vec<KeyColumns> = bounded(self.connections.fetch_all(query.bind(MAX_PAGE as i64))).await?;
        found.into_iter().map(record).collect()
    }

    async fn revoke_key(&self, id: &ApiKeyId) -> Result<bool, StoreError> {
        let query = sqlx::query("DELETE FROM gpurent.api_key WHERE id = $1").bind(id.as_str());
        let gone = bounded(self.connections.execute(query)).await?.rows_affected();
        Ok(gone > 0)
    }
}
