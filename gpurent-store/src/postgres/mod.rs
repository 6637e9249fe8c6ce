//! The store on PostgreSQL 12 and later.
//!
//! Every write of a rental is one statement, and so one transaction and one round trip: its parts are
//! data-modifying CTEs that all hang on the one that may or may not happen. [`claim`] makes rentals
//! ([`hold_cache`] spares most of them a look), [`commit`] changes them, [`journal`] publishes what happened, [`views`] shows rentals to tools of other platforms; reading
//! is here. [`connections`] lead there, also through a [`pooler`].

mod api_keys;
mod audit;
mod catch_up;
mod claim;
mod commit;
mod connections;
mod hold_cache;
mod journal;
pub(crate) mod lists;
mod migrations;
mod pooler;
mod port_ranges;
mod views;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use connections::Connections;
use gpurent_core::allocation::{Holds, Placement, RenterHas};
use gpurent_core::id::{ContainerId, EngineId, Epoch, HostId, MachineId, Position, RentalId, RenterId, Seq};
use gpurent_core::model::{JournalEntry, RecordedEvent, Rental, RentalEvent, Sealed};
use gpurent_core::store::{
    Change, ClaimError, ClaimOutcome, Filter, HostOwnership, HostStore, MAX_PAGE, NewRental, RecoveredRental, Store,
    StoreError,
};
use jiff::Timestamp;
use sqlx::postgres::PgPool;
use sqlx::types::Json;
use tokio::sync::Mutex;
pub use views::CompatibilityViews;

use crate::error::bounded;
use crate::postgres::hold_cache::HoldCache;
use crate::refused::{Refused, unless_permanent};
use crate::rows::rental::{recorded, signed, unsigned};

/// For so many hosts a place to stand in line is kept before unused ones are dropped.
const MOST_LINES: usize = 4096;

/// Rentals in the schema `gpurent` of a PostgreSQL database.
pub struct PostgresStore {
    connections: Connections,
    /// Claims of one process for one host stand in line here instead of fighting over the same GPU in the
    /// database.
    claiming: std::sync::Mutex<HashMap<HostId, Arc<Mutex<()>>>>,
    hold_cache: HoldCache,
}

impl PostgresStore {
    /// Connects to `postgres://user:password@host/database` and brings the schema up to date.
    ///
    /// A pooler that lends a session for one transaction (PgBouncer, Supabase's) is noticed; `?pgbouncer=true` or `false`
    /// says it. `sslmode` and `sslrootcert` are as [libpq has them][libpq].
    ///
    /// [libpq]: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where the database does not answer; [`StoreError::Misconfigured`] where it never will
    /// until somebody changes something: no such database, role or password, no right to make the schema, no TLS, an
    /// address that cannot be understood, tables of a newer version.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::on(Connections::to(url).await.map_err(unless_permanent)?).await
    }

    /// Connects, and changes nothing: for a program that only looks. `None` where the schema is not made or is not up to date,
    /// which the agent's next start sees to.
    ///
    /// # Errors
    /// As [`PostgresStore::connect`].
    pub async fn connect_as_is(url: &str) -> Result<Option<Self>, StoreError> {
        let connections = Connections::to(url).await.map_err(unless_permanent)?;
        let is_current = migrations::is_current(&connections).await?;
        Ok(is_current.then(|| Self::with(connections)))
    }

    /// Uses an application's own pool, and brings the schema up to date.
    ///
    /// # Errors
    /// As [`PostgresStore::connect`]; [`StoreError::Misconfigured`] where the pool's connections look for
    /// unqualified names in our schema. That is so for a role that is called `gpurent`, whose default search
    /// path begins with the schema of its own name: the application's next migration would land among our
    /// tables. Limits of statements are the pool's own; so is closing connections to a server that was demoted.
    pub async fn from_pool(pool: PgPool) -> Result<Self, StoreError> {
        let query = sqlx::query_scalar(
            "SELECT EXISTS (
                 SELECT 1 FROM unnest(string_to_array(current_setting('search_path'), ',')) AS part (name)
                 WHERE trim(both ' \"' FROM part.name) = 'gpurent'
                    OR (trim(both ' \"' FROM part.name) = '$user' AND current_user = 'gpurent'))",
        );
        let connections = Connections::of(pool).await.map_err(unless_permanent)?;
        if bounded(connections.fetch_one(query)).await? {
            return Err(StoreError::Misconfigured(Box::new(Refused::AmongOurTables)));
        }
        Self::on(connections).await
    }

    async fn on(connections: Connections) -> Result<Self, StoreError> {
        migrations::run(&connections).await?;
        Ok(Self::with(connections))
    }

    fn with(connections: Connections) -> Self {
        Self { connections, claiming: Default::default(), hold_cache: HoldCache::default() }
    }

    fn line_of(&self, host: &HostId) -> Arc<Mutex<()>> {
        let mut lines = self.claiming.lock().unwrap_or_else(PoisonError::into_inner);
        // Lines where nobody stands are not kept for ever.
        if lines.len() >= MOST_LINES {
            lines.retain(|_, line| Arc::strong_count(line) > 1);
        }
        Arc::clone(lines.entry(host.clone()).or_default())
    }
}

type EventColumns = (i64, i64, Json<RentalEvent>);

/// Whether an event frees something that the rental held.
fn moves_holds(event: &RentalEvent) -> bool {
    matches!(
        event,
        RentalEvent::Relaunched { .. }
            | RentalEvent::Adopted(_)
            | RentalEvent::Suspended { .. }
            | RentalEvent::Resumed(_)
    )
}

#[async_trait]
impl Store for PostgresStore {
    async fn last_acted(&self, host: &HostId) -> Result<Option<Duration>, StoreError> {
        let query = sqlx::query_scalar(
            "SELECT (extract(epoch FROM now() - confirmed_at))::bigint FROM gpurent.host WHERE id = $1",
        );
        let seconds: Option<Option<i64>> = bounded(self.connections.fetch_optional(query.bind(host.as_str()))).await?;
        Ok(seconds.flatten().map(|seconds| Duration::from_secs(unsigned(seconds.max(0)))))
    }

    async fn claim(&self, new: &NewRental, placement: &Placement) -> Result<ClaimOutcome, ClaimError> {
        let line = self.line_of(&new.host);
        let (_turn, waited) = match line.try_lock() {
            Ok(turn) => (turn, false),
            Err(_taken) => (bounded(async { Ok(line.lock().await) }).await?, true),
        };
        // Who stood before may have sent the same request: a thousand of one key are then as many reads, not as many
        // writes that fail.
        let looks_first = waited && new.key.is_some();
        claim::claim(&self.connections, &self.hold_cache, looks_first, new, placement).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let frees = !change.rental().is_live() || change.events().iter().any(|e| moves_holds(&e.event));
        let committed = commit::commit(&self.connections, change).await;
        if frees {
            // Also where it failed: then it may have happened all the same.
            self.hold_cache.invalidate(change.rental().host());
        }
        committed
    }

    async fn get(&self, id: RentalId) -> Result<Option<Rental>, StoreError> {
        let query = sqlx::query_scalar("SELECT body FROM gpurent.rental WHERE id = $1").bind(*id.as_uuid());
        let found: Option<Json<Rental>> = bounded(self.connections.fetch_optional(query)).await?;
        Ok(found.map(|Json(rental)| rental))
    }

    async fn of_container(&self, host: &HostId, container: &ContainerId) -> Result<Option<RentalId>, StoreError> {
        let query = sqlx::query_scalar(
            "SELECT rental_id FROM gpurent.event
             WHERE name IN ('created', 'adopted') AND host_id = $1
               AND substr(body ->> 'container', 1, 12) = substr($2, 1, 12)
               AND (body ->> 'container' = $2 OR (length($2) >= 12 AND starts_with(body ->> 'container', $2)))
             ORDER BY id DESC LIMIT 1",
        );
        let query = query.bind(host.as_str()).bind(container.as_str());
        let found: Option<sqlx::types::Uuid> = bounded(self.connections.fetch_optional(query)).await?;
        Ok(found.map(RentalId::from))
    }

    async fn live(&self, host: &HostId) -> Result<Vec<Rental>, StoreError> {
        let query = sqlx::query_scalar("SELECT body FROM gpurent.rental WHERE host_id = $1 AND phase <> 'ended'");
        let found: Vec<Json<Rental>> = bounded(self.connections.fetch_all(query.bind(host.as_str()))).await?;
        Ok(found.into_iter().map(|Json(rental)| rental).collect())
    }

    async fn active(&self, host: &HostId) -> Result<Vec<Rental>, StoreError> {
        let query = sqlx::query_scalar(
            "SELECT body FROM gpurent.rental WHERE host_id = $1 AND phase <> 'ended' AND phase <> 'suspended'",
        );
        let found: Vec<Json<Rental>> = bounded(self.connections.fetch_all(query.bind(host.as_str()))).await?;
        Ok(found.into_iter().map(|Json(rental)| rental).collect())
    }

    async fn list(
        &self,
        host: &HostId,
        filter: &Filter,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError> {
        lists::list(&self.connections, host, filter, after, limit).await
    }

    async fn ended_before(
        &self,
        host: &HostId,
        before: Timestamp,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError> {
        lists::ended_before(&self.connections, host, before, after, limit).await
    }

    async fn forget(&self, host: &HostId, rentals: &[RentalId]) -> Result<usize, StoreError> {
        lists::forget(&self.connections, host, rentals).await
    }

    async fn held(&self, host: &HostId) -> Result<Holds, StoreError> {
        claim::held(&self.connections, host).await
    }

    async fn renter_has(&self, host: &HostId, renter: &RenterId, since: Timestamp) -> Result<RenterHas, StoreError> {
        claim::renter_has(&self.connections, host, renter, since).await
    }

    async fn log_tail(&self, id: RentalId, now: Timestamp) -> Result<Option<Vec<String>>, StoreError> {
        let query = sqlx::query_scalar("SELECT lines FROM gpurent.log_tail WHERE rental_id = $1 AND kept_until > $2");
        let query = query.bind(*id.as_uuid()).bind(now.as_microsecond());
        let lines: Option<Json<Vec<String>>> = bounded(self.connections.fetch_optional(query)).await?;
        Ok(lines.map(|Json(lines)| lines))
    }

    async fn sealed(&self, id: RentalId) -> Result<Option<Sealed>, StoreError> {
        let query = sqlx::query_as("SELECT key_id, sealed FROM gpurent.credential WHERE rental_id = $1");
        let found: Option<(String, Vec<u8>)> =
            bounded(self.connections.fetch_optional(query.bind(*id.as_uuid()))).await?;
        Ok(found.map(|(key_id, bytes)| Sealed { key_id, bytes }))
    }

    async fn events(&self, id: RentalId, after: Seq, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        let query = sqlx::query_as(
            "SELECT seq, at, body FROM gpurent.event WHERE rental_id = $1 AND seq > $2 ORDER BY seq LIMIT $3",
        )
        .bind(*id.as_uuid())
        .bind(signed(after.get()))
        .bind(limit.min(MAX_PAGE) as i64);
        let rows: Vec<EventColumns> = bounded(self.connections.fetch_all(query)).await?;
        rows.into_iter().map(|(seq, at, Json(event))| recorded(seq, at, event)).collect()
    }

    async fn journal(&self, host: &HostId, after: Position, limit: usize) -> Result<Vec<JournalEntry>, StoreError> {
        journal::read(&self.connections, host, after, limit.min(MAX_PAGE)).await
    }
}

#[async_trait]
impl HostStore for PostgresStore {
    async fn acquire_host(
        &self,
        host: &HostId,
        engine: &EngineId,
        machine: Option<&MachineId>,
    ) -> Result<HostOwnership, StoreError> {
        let query = sqlx::query_as(
            "WITH busy AS (
                 SELECT EXISTS (SELECT 1 FROM gpurent.rental WHERE host_id = $1 AND phase <> 'ended' AND phase <> 'suspended') AS is_so
             ), taken AS (
                 INSERT INTO gpurent.host AS host (id, engine, machine, epoch, listed_epoch, confirmed_at)
                 VALUES ($1, $2, $3, 1, 1, now())
                 ON CONFLICT (id) DO UPDATE
                 SET epoch = host.epoch + 1, engine = excluded.engine, confirmed_at = now(),
                     listed_epoch = host.listed_epoch + (host.listed_epoch = host.epoch)::int,
                     machine = coalesce(excluded.machine, CASE WHEN (SELECT is_so FROM busy) THEN host.machine END)
                 WHERE NOT (SELECT is_so FROM busy)
                    OR (host.engine = excluded.engine
                        AND coalesce(host.machine = excluded.machine, true))
                 RETURNING id, epoch, listed_epoch = epoch AS is_listed
             ), head AS (
                 INSERT INTO gpurent.journal_head (host_id) SELECT id FROM taken ON CONFLICT DO NOTHING
             )
             SELECT epoch, is_listed, coalesce((SELECT last_position FROM gpurent.journal_head WHERE host_id = $1), 0)
             FROM taken",
        );
        let taken: Option<(i64, bool, i64)> = bounded(
            self.connections
                .fetch_optional(query.bind(host.as_str()).bind(engine.as_str()).bind(machine.map(MachineId::as_str))),
        )
        .await?;
        if let Some((epoch, is_listed, last)) = taken {
            let epoch = Epoch::new(unsigned(epoch));
            if !is_listed {
                catch_up::write_missing(&self.connections, host, epoch).await?;
            }
            return Ok(HostOwnership { epoch, last_position: Position::new(unsigned(last)) });
        }
        let query = sqlx::query_scalar("SELECT engine FROM gpurent.host WHERE id = $1").bind(host.as_str());
        let pinned: String = bounded(self.connections.fetch_one(query)).await?;
        let pinned = EngineId::try_from(pinned).map_err(|error| StoreError::Corrupt(error.into()))?;
        Err(StoreError::HostPinned(pinned))
    }

    async fn confirm(&self, host: &HostId, owner: HostOwnership) -> Result<(), StoreError> {
        let query = sqlx::query_scalar(
            "WITH noted AS (
                 UPDATE gpurent.host SET confirmed_at = now()
                 WHERE id = $1 AND epoch = $2 AND coalesce(confirmed_at < now() - interval '10 s', true)
             )
             SELECT epoch FROM gpurent.host WHERE id = $1",
        );
        let query = query.bind(host.as_str()).bind(signed(owner.epoch.get()));
        let current: Option<i64> = bounded(self.connections.fetch_optional(query)).await?;
        if current == Some(signed(owner.epoch.get())) { Ok(()) } else { Err(StoreError::Fenced) }
    }

    async fn resign(&self, host: &HostId, owner: HostOwnership) -> Result<(), StoreError> {
        let query = sqlx::query("UPDATE gpurent.host SET confirmed_at = NULL WHERE id = $1 AND epoch = $2");
        let query = query.bind(host.as_str()).bind(signed(owner.epoch.get()));
        bounded(self.connections.execute(query)).await.map(|_| ())
    }

    async fn adopt(&self, found: &RecoveredRental, owner: HostOwnership) -> Result<(), StoreError> {
        let adopted = claim::adopt(&self.connections, found, owner.epoch).await;
        // It holds what was free, perhaps also where the answer was lost.
        self.hold_cache.invalidate(found.rental.host());
        adopted
    }

    async fn publish(
        &self,
        host: &HostId,
        owner: HostOwnership,
        limit: usize,
    ) -> Result<Vec<JournalEntry>, StoreError> {
        let published = journal::publish(&self.connections, host, owner.epoch, limit).await?;
        if published.is_empty() {
            // Nothing new, or nothing allowed any more?
            self.confirm(host, owner).await?;
        }
        Ok(published)
    }
}
