//! Space that is kept for the worst day: a file beside the database that is given up when the disk is full,
//! so that what runs can still be stopped and billed.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use gpurent_core::store::StoreError;
use tokio::io::AsyncWriteExt;

/// Some thousands of changes of rentals, write-ahead log included.
const BYTES: usize = 4 * 1024 * 1024;
/// How long after it was given up it is tried to be kept again.
const RETRY_DELAY: Duration = Duration::from_secs(60);

/// The kept space.
#[derive(Debug)]
pub(super) struct Reserve {
    file: PathBuf,
    /// When it was given up, or last tried in vain to be kept; `None` while it is kept, or nobody asked for it.
    missing_since: Mutex<Option<Instant>>,
}

impl Reserve {
    /// The space beside a database; what an earlier process kept there counts.
    pub(super) fn beside(database: &Path) -> Self {
        let mut name = database.as_os_str().to_owned();
        name.push(".reserve");
        Self { file: PathBuf::from(name), missing_since: Mutex::new(None) }
    }

    fn set_missing(&self, missing: bool) {
        *self.missing_since.lock().unwrap_or_else(PoisonError::into_inner) = missing.then(Instant::now);
    }

    /// Keeps it, where there is room.
    pub(super) async fn keep(&self) {
        let kept = tokio::fs::metadata(&self.file).await.is_ok_and(|found| found.len() >= BYTES as u64);
        let kept = match kept {
            true => Ok(()),
            false => self.write().await,
        };
        if let Err(error) = &kept {
            tracing::warn!(error = error as &dyn std::error::Error, "no space is kept for the day the disk is full");
            self.give_up().await;
        }
        self.set_missing(kept.is_err());
    }

    /// Keeps it again, a while after it was given up.
    pub(super) async fn keep_again(&self) {
        let missing_since = *self.missing_since.lock().unwrap_or_else(PoisonError::into_inner);
        if missing_since.is_some_and(|since| since.elapsed() >= RETRY_DELAY) {
            self.keep().await;
        }
    }

    async fn write(&self) -> std::io::Result<()> {
        let mut file = tokio::fs::File::create(&self.file).await?;
        // Really written: a hole in a file keeps nothing.
        file.write_all(&vec![0x67; BYTES]).await?;
        file.sync_all().await
    }

    /// Gives the space back; false where none was kept any more.
    pub(super) async fn give_up(&self) -> bool {
        let gave_up = tokio::fs::remove_file(&self.file).await.is_ok();
        if gave_up {
            self.set_missing(true);
        }
        gave_up
    }
}

/// Whether something failed because the disk is full.
pub(super) fn is_full(error: &StoreError) -> bool {
    let StoreError::Unavailable(source) = error else { return false };
    // A migration's error has the database's own inside.
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&**source);
    while let Some(error) = cause {
        let database = error.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
        // SQLITE_FULL; SQLITE_IOERR_WRITE, _FSYNC and _SHMSIZE, as a full disk shows in the log and its index.
        if database.and_then(|error| error.code()).is_some_and(|c| ["13", "778", "1034", "4874"].contains(&c.as_ref()))
        {
            return true;
        }
        cause = error.source();
    }
    false
}
