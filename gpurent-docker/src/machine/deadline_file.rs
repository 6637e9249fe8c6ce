//! The host's own book of deadlines, in one file that is replaced whole and forced to disk.

#[cfg(unix)]
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use gpurent_core::id::HostId;
use gpurent_core::store::{Deadline, DeadlineBook, DeadlineError};
use serde::{Deserialize, Serialize};

/// Deadlines of one host in a file. Needs a local file system on which a rename is atomic.
#[derive(Clone, Debug)]
pub struct DeadlineFile {
    path: PathBuf,
    /// Counts the writes that were asked for.
    asked: Arc<AtomicU64>,
    /// The last one that was carried out: one whose caller has long gone must not undo a later one.
    written: Arc<Mutex<u64>>,
}

#[derive(Serialize, Deserialize)]
struct Book {
    /// Of this form.
    version: u32,
    deadlines: Vec<Deadline>,
}

const VERSION: u32 = 1;

impl DeadlineFile {
    /// The book of `host` in `directory`. Nothing is made before the first write.
    #[must_use]
    pub fn in_directory(directory: &Path, host: &HostId) -> Self {
        let path = directory.join(format!("deadlines-{host}.json"));
        Self { path, asked: Arc::default(), written: Arc::default() }
    }

    fn read_now(&self) -> Result<Vec<Deadline>, DeadlineError> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(DeadlineError::Io(error)),
        };
        let unreadable = match serde_json::from_slice::<Book>(&text) {
            Ok(book) if book.version == VERSION => return Ok(book.deadlines),
            Ok(_) => "another version of this program wrote it".to_owned(),
            Err(error) => error.to_string(),
        };
        // Kept for somebody to look at; the next book is made from what the store knows.
        let aside = self.path.with_extension("unreadable");
        std::fs::rename(&self.path, &aside).map_err(DeadlineError::Io)?;
        Err(DeadlineError::Corrupt(format!("{}, now {}: {unreadable}", self.path.display(), aside.display()).into()))
    }

    fn write_now(&self, number: u64, text: &[u8]) -> std::io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if *written > number {
            return Ok(());
        }
        let directory = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory)?;
        let beside = self.path.with_extension("new");
        let mut file = crate::machine::private_file::open(&beside, true)?;
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&beside, &self.path)?;
        // The name is on disk only once the folder is. Windows keeps no folders open.
        #[cfg(unix)]
        File::open(directory)?.sync_all()?;
        *written = number;
        Ok(())
    }
}

/// A thread of its own for what may wait for a disk.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DeadlineError> + Send + 'static,
) -> Result<T, DeadlineError> {
    let panicked = |error| DeadlineError::Io(std::io::Error::other(error));
    tokio::task::spawn_blocking(work).await.map_err(panicked)?
}

#[async_trait]
impl DeadlineBook for DeadlineFile {
    async fn read(&self) -> Result<Vec<Deadline>, DeadlineError> {
        let this = self.clone();
        apart(move || this.read_now()).await
    }

    async fn write(&self, deadlines: &[Deadline]) -> Result<(), DeadlineError> {
        let book = Book { version: VERSION, deadlines: deadlines.to_vec() };
        let text = serde_json::to_vec(&book).map_err(|error| DeadlineError::Corrupt(error.into()))?;
        let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let this = self.clone();
        apart(move || this.write_now(number, &text).map_err(DeadlineError::Io)).await
    }
}

#[cfg(test)]
mod tests {
    use gpurent_core::clock::{BootId, BootTime, Moment};
    use gpurent_core::id::{Attempt, LaunchId, RentalId};
    use jiff::Timestamp;

    use super::*;

    fn deadline(micros: i64) -> Deadline {
        let at = Moment { wall: Timestamp::UNIX_EPOCH, boot: BootTime { boot: BootId("b".to_owned()), micros } };
        Deadline {
            launch: LaunchId { rental: RentalId::generate(), attempt: Attempt::new(1) },
            paid_from: at.clone(),
            term: "1h".parse().unwrap(),
            used: jiff::SignedDuration::ZERO,
            last_seen: at,
        }
    }

    #[tokio::test]
    async fn what_was_written_is_read_by_the_next_process() {
        let directory = tempfile::tempdir().unwrap();
        let host: HostId = "h".parse().unwrap();
        let book = DeadlineFile::in_directory(&directory.path().join("not-there-yet"), &host);
        assert_eq!(book.read().await.unwrap(), Vec::new());
        let deadlines = [deadline(1), deadline(2)];
        book.write(&deadlines).await.unwrap();
        book.write(&deadlines[..1]).await.unwrap();
        let next = DeadlineFile::in_directory(&directory.path().join("not-there-yet"), &host);
        assert_eq!(next.read().await.unwrap(), deadlines[..1]);
    }

    #[tokio::test]
    async fn a_write_whose_caller_has_gone_undoes_no_later_one() {
        let directory = tempfile::tempdir().unwrap();
        let book = DeadlineFile::in_directory(directory.path(), &"h".parse().unwrap());
        book.write(&[deadline(1)]).await.unwrap();
        book.write(&[deadline(2)]).await.unwrap();
        book.write_now(1, b"late").unwrap();
        assert_eq!(book.read().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_book_that_cannot_be_written_stays_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let book = DeadlineFile::in_directory(directory.path(), &"h".parse().unwrap());
        book.write(&[deadline(1)]).await.unwrap();
        // A folder sits where the new book would be written.
        std::fs::create_dir(book.path.with_extension("new")).unwrap();
        assert!(matches!(book.write(&[]).await, Err(DeadlineError::Io(_))));
        assert_eq!(book.read().await.unwrap().len(), 1);
        std::fs::write(&book.path, "{").unwrap();
        assert!(matches!(book.read().await, Err(DeadlineError::Corrupt(_))));
        assert_eq!(book.read().await.unwrap(), Vec::new(), "it was put aside");
    }
}
