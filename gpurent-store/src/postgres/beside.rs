//! Renters' port ranges, and who did what, in PostgreSQL.

use async_trait::async_trait;
use gpurent_core::id::{HostId, RenterId};
use gpurent_core::model::PortRange;
use gpurent_core::store::{AuditEntry, AuditLog, GivenBack, MAX_PAGE, NumberedEntry, OwnRange, RangeStore, StoreError};

use super::PostgresStore;
use crate::beside::{AuditColumns, entry, own_range, range};
use crate::error::bounded;
use crate::row::signed;

#[async_trait]
impl RangeStore for PostgresStore {
    async fn own_range(
        &self,
        host: &HostId,
        renter: &RenterId,
        pool: &PortRange,
        size: u16,
    ) -> Result<Option<PortRange>, StoreError> {
        let mut turn = bounded(self.connections.begin()).await?;
        // One at a time for each host: otherwise many who come at once would all try for the same one.
        let lock = sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('gpurent.port_range ' || $1, 0))");
        bounded(turn.execute(lock.bind(host.as_str()))).await?;
        let query = sqlx::query_as(
            "WITH own AS (
                 SELECT first_port, last_port FROM gpurent.port_range WHERE host_id = $1 AND renter = $2
             ), free AS (
                 INSERT INTO gpurent.port_range (host_id, renter, first_port, last_port)
                 SELECT $1, $2, first, first + $5 - 1 FROM generate_series($3, $4 - $5 + 1, $5) AS first
                 WHERE NOT EXISTS (SELECT 1 FROM own)
                   AND NOT EXISTS (SELECT 1 FROM gpurent.port_range AS taken WHERE taken.host_id = $1
                                   AND taken.first_port < first + $5 AND taken.last_port >= first)
                 ORDER BY first LIMIT 1
                 RETURNING first_port, last_port
             )
             SELECT first_port::bigint, last_port::bigint FROM own
             UNION ALL SELECT first_port::bigint, last_port::bigint FROM free",
        )
        .bind(host.as_str())
        .bind(renter.as_str())
        .bind(i32::from(pool.first()))
        .bind(i32::from(pool.last()))
        .bind(i32::from(size.max(1)));
        let found: Option<(i64, i64)> = bounded(turn.fetch_optional(query)).await?;
        bounded(turn.end()).await?;
        found.map(range).transpose()
    }

    async fn range_of(&self, host: &HostId, renter: &RenterId) -> Result<Option<PortRange>, StoreError> {
        let query = sqlx::query_as(
            "SELECT first_port::bigint, last_port::bigint FROM gpurent.port_range WHERE host_id = $1 AND renter = $2",
        );
        let query = query.bind(host.as_str()).bind(renter.as_str());
        bounded(self.connections.fetch_optional(query)).await?.map(range).transpose()
    }

    async fn ranges(&self, host: &HostId) -> Result<Vec<OwnRange>, StoreError> {
        let query = sqlx::query_as(
            "SELECT renter, first_port::bigint, last_port::bigint FROM gpurent.port_range
             WHERE host_id = $1 ORDER BY first_port LIMIT $2",
        );
        let found: Vec<_> =
            bounded(self.connections.fetch_all(query.bind(host.as_str()).bind(MAX_PAGE as i64))).await?;
        found.into_iter().map(own_range).collect()
    }

    async fn give_back(&self, host: &HostId, renter: &RenterId) -> Result<GivenBack, StoreError> {
        let query = sqlx::query_as(
            "WITH own AS (
                 SELECT first_port, last_port FROM gpurent.port_range WHERE host_id = $1 AND renter = $2
             ), gone AS (
                 DELETE FROM gpurent.port_range AS own WHERE host_id = $1 AND renter = $2
                   AND NOT EXISTS (SELECT 1 FROM gpurent.port_hold AS hold WHERE hold.host_id = $1
                                   AND hold.port BETWEEN own.first_port AND own.last_port)
                   AND NOT EXISTS (SELECT 1 FROM gpurent.rental WHERE host_id = $1 AND phase <> 'ended'
                                   AND renter = $2 AND body #>> '{spec,sticky_ports}' IS NOT NULL)
                 RETURNING 1
             )
             SELECT EXISTS (SELECT 1 FROM own), EXISTS (SELECT 1 FROM gone)",
        );
        let query = query.bind(host.as_str()).bind(renter.as_str());
        Ok(match bounded(self.connections.fetch_one(query)).await? {
            (_, true) => GivenBack::Yes,
            (true, false) => GivenBack::InUse,
            (false, false) => GivenBack::NothingThere,
        })
    }
}

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
