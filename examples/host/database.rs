//! The database that `--database` names: a SQLite file, PostgreSQL, or memory.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gpurent_core::error::ValidationError;
use gpurent_core::memory::MemoryStore;
use gpurent_core::store::{AuditLog, HostStore, KeyStore, RangeStore, Store, StoreError};
use gpurent_store::{PostgresStore, SqliteStore};

use crate::exit::with_causes;

/// Between two tries to reach a database that does not answer at the start.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// The tables of one database.
#[derive(Clone)]
pub struct Database {
    /// Rentals.
    pub store: Arc<dyn HostStore>,
    /// API keys.
    pub keys: Arc<dyn KeyStore>,
    /// Ports that are renters' own.
    pub ranges: Arc<dyn RangeStore>,
    /// The audit log.
    pub audit: Arc<dyn AuditLog>,
}

impl Database {
    fn of<S: HostStore + KeyStore + RangeStore + AuditLog>(store: S) -> Self {
        let store = Arc::new(store);
        Self {
            store: Arc::clone(&store) as _,
            keys: Arc::clone(&store) as _,
            ranges: Arc::clone(&store) as _,
            audit: store,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the folder {} for the file cannot be made", .folder.display())]
struct NoFolder {
    folder: PathBuf,
    source: std::io::Error,
}

/// Opens it, once; an empty name is the file in the data directory.
pub async fn open(name: &str, data_dir: &Path) -> Result<Database, StoreError> {
    open_as(name, data_dir, false).await
}

/// The store of a database that is only looked at; `None` where there is nothing yet to be read, or nothing that this program's version could.
pub async fn open_as_is(name: &str, data_dir: &Path) -> Result<Option<Arc<dyn Store>>, StoreError> {
    if name.starts_with("postgres://") || name.starts_with("postgresql://") {
        let store = PostgresStore::connect_as_is(name).await?;
        return Ok(store.map(|store| Arc::new(store) as _));
    }
    if name == "memory" {
        return Ok(None);
    }
    let file = file_of(name, data_dir).ok_or_else(unknown)?;
    let is_there = file.try_exists().map_err(|error| StoreError::Misconfigured(Box::new(error)))?;
    if !is_there {
        return Ok(None);
    }
    Ok(SqliteStore::open_as_is(&file).await?.map(|store| Arc::new(store) as _))
}

/// `acts`: for the agent itself.
async fn open_as(name: &str, data_dir: &Path, acts: bool) -> Result<Database, StoreError> {
    if name == "memory" {
        tracing::warn!("rentals are kept in memory only: a restart of this program forgets them");
        return Ok(Database::of(MemoryStore::default()));
    }
    if name.starts_with("postgres://") || name.starts_with("postgresql://") {
        return Ok(Database::of(PostgresStore::connect(name).await?));
    }
    let file = file_of(name, data_dir).ok_or_else(unknown)?;
    if let Some(directory) = file.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)
            .map_err(|source| StoreError::Misconfigured(Box::new(NoFolder { folder: directory.into(), source })))?;
    }
    let store = SqliteStore::open(&file).await?;
    if acts {
        store.add_views().await?;
        store.keep_reserve().await;
    }
    Ok(Database::of(store))
}

/// The error of a name that means nothing.
fn unknown() -> StoreError {
    let what = "must be sqlite:PATH, postgres://user:password@host/name, or memory";
    StoreError::Misconfigured(ValidationError::new("database", what).into())
}

/// The file that a name means, if it means one.
pub fn file_of(name: &str, data_dir: &Path) -> Option<PathBuf> {
    match name.strip_prefix("sqlite:") {
        Some(path) => Some(PathBuf::from(path)),
        None => name.is_empty().then(|| data_dir.join("gpurent.db")),
    }
}

/// Opens it, and waits for one that does not answer: after a reboot it may come up later than we do. One that refuses for good
/// is waited for only where there are `tenants`: who waits is also who ends them in time.
pub async fn wait_for(name: &str, data_dir: &Path, tenants: bool) -> Result<Database, StoreError> {
    loop {
        match open_as(name, data_dir, true).await {
            Err(StoreError::Unavailable(cause)) => {
                tracing::warn!(error = &*cause as &dyn Error, "the database does not answer; waiting for it");
            }
            Err(error @ StoreError::Misconfigured(_)) if tenants => {
                let error = with_causes(&error);
                tracing::error!(error, "waiting for somebody to mend that; tenants are ended in time meanwhile");
            }
            result => return result,
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}
