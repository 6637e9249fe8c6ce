//! Space that is kept for the worst day: a file beside the database that is given up when the disk is full,
//! so that what runs can still be stopped and billed.

use std::path::{Path, PathBuf};

use gpurent_core::store::StoreError;
use tokio::io::AsyncWriteExt;

/// Some thousands of changes of rentals, write-ahead log included.
const BYTES: usize = 4 * 1024 * 1024;

/// The kept space.
#[derive(Debug)]
pub(super) struct Reserve {
    file: PathBuf,
}

impl Reserve {
    /// Keeps space beside a database, where there is some.
    pub(super) async fn beside(database: &Path) -> Self {
        let mut name = database.as_os_str().to_owned();
        name.push(".reserve");
        let this = Self { file: PathBuf::from(name) };
        let kept = tokio::fs::metadata(&this.file).await.is_ok_and(|found| found.len() >= BYTES as u64);
        if !kept && let Err(error) = this.keep().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "no space is kept for the day the disk is full");
            this.give_up().await;
        }
        this
    }

    async fn keep(&self) -> std::io::Result<()> {
        let mut file = tokio::fs::File::create(&self.file).await?;
        // Really written: a hole in a file keeps nothing.
        file.write_all(&vec![0x67; BYTES]).await?;
        file.sync_all().await
    }

    /// Gives the space back; false where none was kept any more.
    pub(super) async fn give_up(&self) -> bool {
        tokio::fs::remove_file(&self.file).await.is_ok()
    }
}

/// Whether a write failed because the disk is full.
pub(super) fn is_full(error: &StoreError) -> bool {
    let StoreError::Unavailable(source) = error else { return false };
    let database = source.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
    // SQLITE_FULL; SQLITE_IOERR_WRITE and SQLITE_IOERR_FSYNC, as some file systems have it.
    database.and_then(|error| error.code()).is_some_and(|code| ["13", "778", "1034"].contains(&code.as_ref()))
}
