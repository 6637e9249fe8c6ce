//! The store on SQLite: one file beside the program, for a host that stands alone.
//!
//! Write-ahead log with full synchronisation: what was committed survives `kill -9` and a power cut.
//! Writers stand in line in this process, and begin with `BEGIN IMMEDIATE`, so that they wait for those
//! of other processes (the command line) instead of failing half-way. [`claim`] makes rentals,
//! [`commit`] changes them, [`journal`] publishes, [`catch_up`] writes what an agent of an older version left out, reading is here.

mod api_keys;
mod audit;
mod catch_up;
mod claim;
mod commit;
mod disk_reserve;
mod journal;
pub(crate) mod lists;
mod port_ranges;

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use gpurent_core::allocation::{Holds, Placement, RenterHas};
use gpurent_core::id::{ContainerId, EngineId, Epoch, HostId, MachineId, Position, RentalId, RenterId, Seq};
use gpurent_core::model::{GpuUuid, HostPort, JournalEntry, RecordedEvent, Rental, RentalEvent, Sealed};
use gpurent_core::store::{
    Change, ClaimError, ClaimOutcome, Filter, HostOwnership, HostStore, MAX_PAGE, NewRental, RecoveredRental, Store,
    StoreError,
};
use jiff::Timestamp;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteExecutor, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::types::Json;
use sqlx::{Connection as _, SqlSafeStr as _, Sqlite, Transaction};
use tokio::sync::{Mutex, MutexGuard};

use crate::claim::{NOT_IN_VAIN, counted};
use crate::error::bounded;
use crate::refused::{unless_permanent_file, unless_permanent_io};
use crate::rows::rental::{recorded, signed, unsigned};
use crate::sqlite::disk_reserve::{Reserve, is_full};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// How often the tables are tried to be brought up to date.
const MIGRATION_TRIES: u32 = 5;

/// Rentals in the tables `gpurent_*` of a SQLite file.
pub struct SqliteStore {
    pool: SqlitePool,
    /// Writers of this process stand in line here, where waiting costs nothing.
    writing: Mutex<()>,
    /// Space for the day the disk is full; only beside a file of our own.
    reserve: Option<Reserve>,
}

impl SqliteStore {
    /// Opens the file, made for our eyes only if it is missing, and brings its tables up to date.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] where the file cannot be opened or made, is no database, or is a newer version's;
    /// [`StoreError::Unavailable`] where that is for now.
    pub async fn open(file: &Path) -> Result<Self, StoreError> {
        make_private(file).await?;
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // What is erased is not left in free pages.
            .pragma("secure_delete", "ON")
            .busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new().max_connections(4).acquire_timeout(Duration::from_secs(5));
        let pool = pool.connect_lazy_with(options);
        let reserve = Reserve::beside(file);
        let store = match Self::from_pool(pool.clone()).await {
            Err(error) if is_full(&error) && reserve.give_up().await => Self::from_pool(pool).await?,
            result => result?,
        };
        Ok(Self { reserve: Some(reserve), ..store })
    }

    /// Opens the file for reading alone: for a program that only looks. SQLite may leave its own empty files beside it.
    /// `None` where its tables are not made or are not up to date, which the agent's next start sees to.
    ///
    /// # Errors
    /// As [`SqliteStore::open`]; a missing file cannot be opened.
    pub async fn open_as_is(file: &Path) -> Result<Option<Self>, StoreError> {
        let options = SqliteConnectOptions::new().filename(file).read_only(true).busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(5));
        let pool = pool.connect_lazy_with(options);
        let ask = async {
            let made = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'gpurent_migrations')";
            if !sqlx::query_scalar::<_, bool>(made).fetch_one(&pool).await? {
                return Ok(Vec::new());
            }
            let applied = "SELECT version, checksum FROM gpurent_migrations ORDER BY version";
            sqlx::query_as::<_, (i64, Vec<u8>)>(applied).fetch_all(&pool).await
        };
        let asked = tokio::time::timeout(Duration::from_secs(10), ask).await;
        let asked = asked.map_err(|too_late| StoreError::Unavailable(Box::new(too_late)))?;
        let applied = asked.map_err(|error| unless_permanent_file(MigrateError::Execute(error)))?;
        for (version, checksum) in &applied {
            if !MIGRATIONS.iter().any(|known| known.version == *version && *known.checksum == **checksum) {
                return Err(unless_permanent_file(MigrateError::VersionMissing(*version)));
            }
        }
        let is_current = applied.len() == MIGRATIONS.iter().count();
        Ok(is_current.then(|| Self { pool, writing: Mutex::new(()), reserve: None }))
    }

    /// Uses an application's own pool, and brings the tables up to date. The pool decides how durable a
    /// commit is: see [`SqliteStore::open`] for what a host needs.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub async fn from_pool(pool: SqlitePool) -> Result<Self, StoreError> {
        let mut migrator = Migrator { ..Migrator::DEFAULT };
        migrator.migrations = MIGRATIONS.migrations.clone();
        migrator.dangerous_set_table_name("gpurent_migrations");
        // An application's own migrations lie in the same file.
        // Two programs may open a fresh file at once; SQLite has no lock for that. Whoever comes second finds
        // it done.
        let mut tries = 0;
        while let Err(error) = migrator.run(&pool).await {
            tries += 1;
            if tries == MIGRATION_TRIES {
                return Err(unless_permanent_file(error));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(Self { pool, writing: Mutex::new(()), reserve: None })
    }

    /// Keeps some space on the disk, which is given up when the disk is full, so that what runs can still be
    /// stopped and billed: for the program that acts for a host, not for others that open the same file. Kept
    /// again when there is room again. Does nothing for a pool of an application's own.
    pub async fn keep_reserve(&self) {
        if let Some(reserve) = &self.reserve {
            reserve.keep().await;
        }
    }

    /// Whether a write that failed is worth another try: the disk was full, and space was kept for that.
    async fn made_room(&self, error: &StoreError) -> bool {
        let (true, Some(reserve)) = (is_full(error), &self.reserve) else { return false };
        let gave_up = reserve.give_up().await;
        if gave_up {
            tracing::error!("the disk is full: the space that was kept for that is in use now");
        }
        gave_up
    }

    async fn take_over_once(
        &self,
        host: &HostId,
        engine: &EngineId,
        machine: Option<&MachineId>,
    ) -> Result<HostOwnership, StoreError> {
        let mut writing = self.write().await?;
        let query = sqlx::query_as(
            "WITH busy AS (
                 SELECT EXISTS (SELECT 1 FROM gpurent_rental WHERE host_id = ?1 AND phase <> 'ended' AND phase <> 'suspended') AS is_so
             )
             INSERT INTO gpurent_host AS host (id, engine, machine, epoch, listed_epoch, confirmed_at)
             VALUES (?1, ?2, ?3, 1, 1, unixepoch())
             ON CONFLICT (id) DO UPDATE
             SET epoch = host.epoch + 1, engine = excluded.engine, confirmed_at = unixepoch(),
                 listed_epoch = host.listed_epoch + (host.listed_epoch = host.epoch),
                 machine = coalesce(excluded.machine, CASE WHEN (SELECT is_so FROM busy) THEN host.machine END)
             WHERE NOT (SELECT is_so FROM busy)
                OR (host.engine = excluded.engine AND coalesce(host.machine = excluded.machine, true))
             RETURNING epoch, listed_epoch = epoch, last_position",
        );
        let query = query.bind(host.as_str()).bind(engine.as_str()).bind(machine.map(MachineId::as_str));
        let taken: Option<(i64, bool, i64)> = bounded(query.fetch_optional(&mut *writing.transaction)).await?;
        if let Some((epoch, is_listed, last)) = taken {
            if !is_listed {
                catch_up::write_missing(&mut writing.transaction, host).await?;
            }
            writing.commit().await?;
            return Ok(HostOwnership {
                epoch: Epoch::new(unsigned(epoch)),
                last_position: Position::new(unsigned(last)),
            });
        }
        let query = sqlx::query_scalar("SELECT engine FROM gpurent_host WHERE id = ?").bind(host.as_str());
        let pinned: String = bounded(query.fetch_one(&mut *writing.transaction)).await?;
        Err(StoreError::HostPinned(EngineId::try_from(pinned).map_err(|error| StoreError::Corrupt(error.into()))?))
    }

    async fn adopt_once(&self, found: &RecoveredRental, epoch: Epoch) -> Result<(), StoreError> {
        let mut writing = self.write().await?;
        claim::adopt(&mut writing.transaction, found, epoch).await?;
        writing.commit().await
    }

    async fn publish_once(&self, host: &HostId, epoch: Epoch, limit: usize) -> Result<Vec<JournalEntry>, StoreError> {
        // Asked after every change, and mostly for nothing: then no writer has to wait.
        if has_epoch(&self.pool, host, epoch).await? && !journal::has_news(&self.pool, host).await? {
            return Ok(Vec::new());
        }
        let mut writing = self.write().await?;
        let published = journal::publish(&mut writing.transaction, host, epoch, limit).await?;
        writing.commit().await?;
        Ok(published)
    }

    async fn commit_once(&self, change: &Change) -> Result<(), StoreError> {
        let mut writing = self.write().await?;
        commit::commit(&mut writing.transaction, change).await?;
        writing.commit().await
    }

    /// Writes something about a host's holder.
    async fn note(&self, statement: &'static str, host: &HostId, epoch: Epoch) -> Result<(), StoreError> {
        let mut writing = self.write().await?;
        let query = sqlx::query(statement).bind(host.as_str()).bind(signed(epoch.get()));
        bounded(query.execute(&mut *writing.transaction)).await?;
        writing.commit().await
    }

    /// A transaction that is the only one that writes, from its beginning.
    async fn write(&self) -> Result<Writing<'_>, StoreError> {
        bounded(async {
            let turn = self.writing.lock().await;
            let mut connection = self.pool.acquire().await?;
            // A commit that failed (on a full disk) leaves a connection behind that believes to be inside a
            // transaction for ever. A roll-back may just be under way, so it is asked once more behind that.
            while connection.is_in_transaction() {
                connection.ping().await?;
                if connection.is_in_transaction() {
                    connection.close().await?;
                    connection = self.pool.acquire().await?;
                }
            }
            let begin = Some("BEGIN IMMEDIATE".into_sql_str());
            Ok(Writing { transaction: Transaction::begin(connection, begin).await?, _turn: turn })
        })
        .await
    }
}

/// Environments of renters and digests of keys are nobody else's business. SQLite gives its other files the
/// same rights.
#[cfg(unix)]
async fn make_private(file: &Path) -> Result<(), StoreError> {
    let made = tokio::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(file).await;
    made.map(|_| ()).map_err(unless_permanent_io)
}

#[cfg(not(unix))]
async fn make_private(_file: &Path) -> Result<(), StoreError> {
    Ok(())
}

/// A transaction and its place in the line.
struct Writing<'a> {
    // Ends before the next one in line begins.
    transaction: Transaction<'static, Sqlite>,
    _turn: MutexGuard<'a, ()>,
}

impl Writing<'_> {
    async fn commit(self) -> Result<(), StoreError> {
        bounded(self.transaction.commit()).await
    }
}

/// Whether the host's current epoch is this one.
async fn has_epoch(connection: impl SqliteExecutor<'_>, host: &HostId, epoch: Epoch) -> Result<bool, StoreError> {
    let query = sqlx::query_scalar("SELECT epoch FROM gpurent_host WHERE id = ?").bind(host.as_str());
    let current: Option<i64> = bounded(query.fetch_optional(connection)).await?;
    Ok(current == Some(signed(epoch.get())))
}

async fn held(connection: impl SqliteExecutor<'_>, host: &HostId) -> Result<Holds, StoreError> {
    let query = sqlx::query_as(
        "SELECT (SELECT json_group_array(gpu_uuid) FROM gpurent_gpu_hold WHERE host_id = ?1),
                (SELECT json_group_array(port) FROM gpurent_port_hold WHERE host_id = ?1),
                (SELECT count(*) FROM gpurent_rental
                 WHERE host_id = ?1 AND phase <> 'ended' AND phase <> 'suspended' AND body ->> '$.spec.gpu' IS NULL)",
    );
    let (Json(gpus), Json(ports), without_gpu): (Json<Vec<GpuUuid>>, Json<Vec<HostPort>>, u32) =
        bounded(query.bind(host.as_str()).fetch_one(connection)).await?;
    Ok(Holds { gpus: gpus.into_iter().collect(), ports: ports.into_iter().collect(), without_gpu })
}

/// Counts the live by an index of its own: SQLite, which keeps no statistics, would rather walk all that the renter ever had.
async fn renter_has(
    connection: impl SqliteExecutor<'_>,
    host: &HostId,
    renter: &RenterId,
    since: Timestamp,
) -> Result<RenterHas, StoreError> {
    let query = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE phase IN ('provisioning', 'running')),
                count(*) FILTER (WHERE phase IN ('suspending', 'suspended')),
                (SELECT count(*) FROM gpurent_rental AS theirs
                 WHERE theirs.host_id = ?1 AND theirs.renter = ?2 AND theirs.created_at > ?3 AND theirs.phase = 'ended'
                   AND NOT EXISTS (SELECT 1 FROM gpurent_usage_segment WHERE rental_id = theirs.id)
                   AND coalesce(theirs.body ->> '$.state.reason.kind', '') NOT IN (SELECT value FROM json_each(?4))),
                (SELECT count(*) FROM gpurent_rental AS theirs INDEXED BY gpurent_rental_live_name
                 JOIN gpurent_gpu_hold AS held ON held.rental_id = theirs.id
                 WHERE theirs.host_id = ?1 AND theirs.renter = ?2 AND theirs.phase <> 'ended')
         FROM gpurent_rental INDEXED BY gpurent_rental_live_name
         WHERE host_id = ?1 AND renter = ?2 AND phase <> 'ended'",
    );
    let query = query.bind(host.as_str()).bind(renter.as_str()).bind(since.as_microsecond());
    let query = query.bind(NOT_IN_VAIN);
    Ok(counted(bounded(query.fetch_one(connection)).await?))
}

#[async_trait]
impl Store for SqliteStore {
    async fn last_acted(&self, host: &HostId) -> Result<Option<Duration>, StoreError> {
        let query = sqlx::query_scalar("SELECT unixepoch() - confirmed_at FROM gpurent_host WHERE id = ?");
        let seconds: Option<Option<i64>> = bounded(query.bind(host.as_str()).fetch_optional(&self.pool)).await?;
        Ok(seconds.flatten().map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0))))
    }

    async fn claim(&self, new: &NewRental, placement: &Placement) -> Result<ClaimOutcome, ClaimError> {
        let mut writing = self.write().await?;
        let claimed = claim::claim(&mut writing.transaction, new, placement).await?;
        writing.commit().await?;
        Ok(claimed)
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        match self.commit_once(change).await {
            Err(error) if self.made_room(&error).await => self.commit_once(change).await,
            Ok(()) => {
                if let Some(reserve) = &self.reserve {
                    reserve.keep_again().await;
                }
                Ok(())
            }
            result => result,
        }
    }

    async fn get(&self, id: RentalId) -> Result<Option<Rental>, StoreError> {
        let query = sqlx::query_scalar("SELECT body FROM gpurent_rental WHERE id = ?").bind(id.to_string());
        let found: Option<Json<Rental>> = bounded(query.fetch_optional(&self.pool)).await?;
        Ok(found.map(|Json(rental)| rental))
    }

    async fn of_container(&self, host: &HostId, container: &ContainerId) -> Result<Option<RentalId>, StoreError> {
        let query = sqlx::query_scalar(
            "SELECT rental_id FROM gpurent_event
             WHERE name IN ('created', 'adopted') AND host_id = ?1
               AND substr(body ->> '$.container', 1, 12) = substr(?2, 1, 12)
               AND (body ->> '$.container' = ?2
                    OR (length(?2) >= 12 AND substr(body ->> '$.container', 1, length(?2)) = ?2))
             ORDER BY id DESC LIMIT 1",
        );
        let query = query.bind(host.as_str()).bind(container.as_str());
        let found: Option<String> = bounded(query.fetch_optional(&self.pool)).await?;
        let corrupt = |error: gpurent_core::error::ValidationError| StoreError::Corrupt(error.into());
        found.map(|id| id.parse().map_err(corrupt)).transpose()
    }

    async fn live(&self, host: &HostId) -> Result<Vec<Rental>, StoreError> {
        let query = sqlx::query_scalar("SELECT body FROM gpurent_rental WHERE host_id = ? AND phase <> 'ended'");
        let found: Vec<Json<Rental>> = bounded(query.bind(host.as_str()).fetch_all(&self.pool)).await?;
        Ok(found.into_iter().map(|Json(rental)| rental).collect())
    }

    async fn active(&self, host: &HostId) -> Result<Vec<Rental>, StoreError> {
        let query = sqlx::query_scalar(
            "SELECT body FROM gpurent_rental WHERE host_id = ? AND phase <> 'ended' AND phase <> 'suspended'",
        );
        let found: Vec<Json<Rental>> = bounded(query.bind(host.as_str()).fetch_all(&self.pool)).await?;
        Ok(found.into_iter().map(|Json(rental)| rental).collect())
    }

    async fn list(
        &self,
        host: &HostId,
        filter: &Filter,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError> {
        lists::list(&self.pool, host, filter, after, limit).await
    }

    async fn ended_before(
        &self,
        host: &HostId,
        before: Timestamp,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError> {
        lists::ended_before(&self.pool, host, before, after, limit).await
    }

    async fn forget(&self, host: &HostId, rentals: &[RentalId]) -> Result<usize, StoreError> {
        let mut writing = self.write().await?;
        let gone = lists::forget(&mut writing.transaction, host, rentals).await?;
        writing.commit().await?;
        Ok(gone)
    }

    async fn held(&self, host: &HostId) -> Result<Holds, StoreError> {
        held(&self.pool, host).await
    }

    async fn renter_has(&self, host: &HostId, renter: &RenterId, since: Timestamp) -> Result<RenterHas, StoreError> {
        renter_has(&self.pool, host, renter, since).await
    }

    async fn log_tail(&self, id: RentalId, now: Timestamp) -> Result<Option<Vec<String>>, StoreError> {
        let query = sqlx::query_scalar("SELECT lines FROM gpurent_log_tail WHERE rental_id = ? AND kept_until > ?");
        let query = query.bind(id.to_string()).bind(now.as_microsecond());
        let lines: Option<Json<Vec<String>>> = bounded(query.fetch_optional(&self.pool)).await?;
        Ok(lines.map(|Json(lines)| lines))
    }

    async fn sealed(&self, id: RentalId) -> Result<Option<Sealed>, StoreError> {
        let query = sqlx::query_as("SELECT key_id, sealed FROM gpurent_credential WHERE rental_id = ?");
        let found: Option<(String, Vec<u8>)> = bounded(query.bind(id.to_string()).fetch_optional(&self.pool)).await?;
        Ok(found.map(|(key_id, bytes)| Sealed { key_id, bytes }))
    }

    async fn events(&self, id: RentalId, after: Seq, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        let query = sqlx::query_as(
            "SELECT seq, at, body FROM gpurent_event WHERE rental_id = ? AND seq > ? ORDER BY seq LIMIT ?",
        )
        .bind(id.to_string())
        .bind(signed(after.get()))
        .bind(limit.min(MAX_PAGE) as i64);
        let rows: Vec<(i64, i64, Json<RentalEvent>)> = bounded(query.fetch_all(&self.pool)).await?;
        rows.into_iter().map(|(seq, at, Json(event))| recorded(seq, at, event)).collect()
    }

    async fn journal(&self, host: &HostId, after: Position, limit: usize) -> Result<Vec<JournalEntry>, StoreError> {
        journal::read(&self.pool, host, after, limit.min(MAX_PAGE)).await
    }
}

#[async_trait]
impl HostStore for SqliteStore {
    async fn acquire_host(
        &self,
        host: &HostId,
        engine: &EngineId,
        machine: Option<&MachineId>,
    ) -> Result<HostOwnership, StoreError> {
        match self.take_over_once(host, engine, machine).await {
            Err(error) if self.made_room(&error).await => self.take_over_once(host, engine, machine).await,
            result => result,
        }
    }

    async fn confirm(&self, host: &HostId, owner: HostOwnership) -> Result<(), StoreError> {
        let query = sqlx::query_as(
            "SELECT epoch, coalesce(confirmed_at < unixepoch() - 10, true) FROM gpurent_host WHERE id = ?",
        );
        let found: Option<(i64, bool)> = bounded(query.bind(host.as_str()).fetch_optional(&self.pool)).await?;
        match found {
            Some((current, to_be_noted)) if current == signed(owner.epoch.get()) => {
                let note = "UPDATE gpurent_host SET confirmed_at = unixepoch() WHERE id = ? AND epoch = ?";
                if to_be_noted && let Err(error) = self.note(note, host, owner.epoch).await {
                    // For operators to read; nobody holds a host by it, and the disk may be full.
                    tracing::debug!(error = &error as &dyn std::error::Error, "a confirmation was not noted");
                }
                Ok(())
            }
            _ => Err(StoreError::Fenced),
        }
    }

    async fn resign(&self, host: &HostId, owner: HostOwnership) -> Result<(), StoreError> {
        self.note("UPDATE gpurent_host SET confirmed_at = NULL WHERE id = ? AND epoch = ?", host, owner.epoch).await
    }

    async fn adopt(&self, found: &RecoveredRental, owner: HostOwnership) -> Result<(), StoreError> {
        match self.adopt_once(found, owner.epoch).await {
            Err(error) if self.made_room(&error).await => self.adopt_once(found, owner.epoch).await,
            result => result,
        }
    }

    async fn publish(
        &self,
        host: &HostId,
        owner: HostOwnership,
        limit: usize,
    ) -> Result<Vec<JournalEntry>, StoreError> {
        match self.publish_once(host, owner.epoch, limit).await {
            Err(error) if self.made_room(&error).await => self.publish_once(host, owner.epoch, limit).await,
            result => result,
        }
    }
}
