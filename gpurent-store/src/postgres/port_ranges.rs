//! Renters' own ranges of ports.

use async_trait::async_trait;
use gpurent_core::id::{HostId, RenterId};
use gpurent_core::model::PortRange;
use gpurent_core::store::{GivenBack, MAX_PAGE, OwnRange, RangeStore, StoreError};

use super::PostgresStore;
use crate::error::bounded;
use crate::rows::port_range::{own_range, range};

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
