//! Renters' own ranges of ports.

use async_trait::async_trait;
use gpurent_core::id::{HostId, RenterId};
use gpurent_core::model::PortRange;
use gpurent_core::store::{GivenBack, MAX_PAGE, OwnRange, RangeStore, StoreError};

use super::SqliteStore;
use crate::error::bounded;
use crate::rows::port_range::{own_range, range};

impl SqliteStore {
    /// Makes the view `port_allocations`, as tools of the `dashboard` protocol know it: each renter's own ports. For a
    /// file of our own; an application's tables may have that name.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where the database does not answer, or has a table of that name.
    pub async fn add_views(&self) -> Result<(), StoreError> {
        let mut writing = self.write().await?;
        let query = sqlx::query(
            "CREATE VIEW IF NOT EXISTS port_allocations AS
             SELECT renter AS username, first_port AS start_port, last_port AS end_port, allocated_at
             FROM gpurent_port_range",
        );
        bounded(query.execute(&mut *writing.transaction)).await?;
        writing.commit().await
    }
}

#[async_trait]
impl RangeStore for SqliteStore {
    async fn own_range(
        &self,
        host: &HostId,
        renter: &RenterId,
        pool: &PortRange,
        size: u16,
    ) -> Result<Option<PortRange>, StoreError> {
        if let Some(own) = self.range_of(host, renter).await? {
            return Ok(Some(own));
        }
        // Nobody else writes beside this.
        let mut writing = self.write().await?;
        let query = sqlx::query(
            "WITH RECURSIVE part (first) AS (
                 SELECT ?3 WHERE ?3 + ?5 - 1 <= ?4
                 UNION ALL SELECT first + ?5 FROM part WHERE first + 2 * ?5 - 1 <= ?4
             )
             INSERT INTO gpurent_port_range (host_id, renter, first_port, last_port)
             SELECT ?1, ?2, first, first + ?5 - 1 FROM part
             WHERE NOT EXISTS (SELECT 1 FROM gpurent_port_range AS taken WHERE taken.host_id = ?1
                               AND taken.first_port < first + ?5 AND taken.last_port >= first)
             ORDER BY first LIMIT 1
             ON CONFLICT (host_id, renter) DO NOTHING",
        )
        .bind(host.as_str())
        .bind(renter.as_str())
        .bind(i64::from(pool.first()))
        .bind(i64::from(pool.last()))
        .bind(i64::from(size.max(1)));
        bounded(query.execute(&mut *writing.transaction)).await?;
        writing.commit().await?;
        self.range_of(host, renter).await
    }

    async fn range_of(&self, host: &HostId, renter: &RenterId) -> Result<Option<PortRange>, StoreError> {
        let query =
            sqlx::query_as("SELECT first_port, last_port FROM gpurent_port_range WHERE host_id = ? AND renter = ?");
        let query = query.bind(host.as_str()).bind(renter.as_str());
        bounded(query.fetch_optional(&self.pool)).await?.map(range).transpose()
    }

    async fn ranges(&self, host: &HostId) -> Result<Vec<OwnRange>, StoreError> {
        let query = sqlx::query_as(
            "SELECT renter, first_port, last_port FROM gpurent_port_range
             WHERE host_id = ? ORDER BY first_port LIMIT ?",
        );
        let found: Vec<_> = bounded(query.bind(host.as_str()).bind(MAX_PAGE as i64).fetch_all(&self.pool)).await?;
        found.into_iter().map(own_range).collect()
    }

    async fn give_back(&self, host: &HostId, renter: &RenterId) -> Result<GivenBack, StoreError> {
        let mut writing = self.write().await?;
        let query = sqlx::query(
            "DELETE FROM gpurent_port_range AS own WHERE host_id = ?1 AND renter = ?2
               AND NOT EXISTS (SELECT 1 FROM gpurent_port_hold AS hold WHERE hold.host_id = ?1
                               AND hold.port BETWEEN own.first_port AND own.last_port)
               AND NOT EXISTS (SELECT 1 FROM gpurent_rental INDEXED BY gpurent_rental_live_name WHERE host_id = ?1 AND phase <> 'ended'
                               AND renter = ?2 AND body ->> '$.spec.sticky_ports' IS NOT NULL)",
        );
        let query = query.bind(host.as_str()).bind(renter.as_str());
        let gone = bounded(query.execute(&mut *writing.transaction)).await?.rows_affected() > 0;
        writing.commit().await?;
        Ok(match gone {
            true => GivenBack::Yes,
            false if self.range_of(host, renter).await?.is_some() => GivenBack::InUse,
            false => GivenBack::NothingThere,
        })
    }
}
