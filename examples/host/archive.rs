//! The archive of rentals that ended long ago: `--keep-ended` moves them from the database into files.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gpurent_core::error::ValidationError;
use gpurent_core::host::Rentals;
use gpurent_core::id::{HostId, RentalId};
use gpurent_core::model::Rental;
use gpurent_core::store::{Store, StoreError};
use gpurent_http::v1::archived;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use crate::finding::{Finding, Part};

type Failure = Box<dyn Error + Send + Sync>;

/// The pause between two looks for what is old enough.
const ARCHIVE_INTERVAL: Duration = Duration::from_secs(6 * 3600);
/// The pause between two looks whether this agent acts for its host.
const LEASE_RETRY_DELAY: Duration = Duration::from_secs(2);
/// The most rentals that are in memory at once.
const PAGE: usize = 100;
/// A database that has older rentals than this has been growing for long enough to say so.
const LONG_AGO: SignedDuration = SignedDuration::from_hours(365 * 24);

/// An age such as 90d, of a day at least.
pub fn age(text: &str) -> Result<SignedDuration, ValidationError> {
    let refused = || ValidationError::new("age", "must be at least a day, such as 90d");
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    let age = match days {
        Some(days) => SignedDuration::from_hours(i64::from(days) * 24),
        None => text.parse().map_err(|_| refused())?,
    };
    let (least, most) = (SignedDuration::from_hours(24), SignedDuration::from_hours(100 * 365 * 24));
    if (least..=most).contains(&age) { Ok(age) } else { Err(refused()) }
}

/// Opens a file that lines are added to, for our eyes only. Its name is on disk then, and what was not written to its end is a
/// line of its own.
pub async fn open(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).await?;
    if file.metadata().await?.len() > 0 {
        let mut last = [0];
        file.seek(io::SeekFrom::End(-1)).await?;
        file.read_exact(&mut last).await?;
        if last != *b"\n" {
            file.write_all(b"\n").await?;
        }
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).await?.sync_all().await?;
    Ok(file)
}

/// Moves what ended longer ago than `keep` into files of `directory`, one a month, until the program ends.
pub async fn keep_only(rentals: Rentals, keep: SignedDuration, directory: PathBuf) {
    loop {
        // Whoever acts for the host does it.
        if !rentals.holds_lease() {
            tokio::time::sleep(LEASE_RETRY_DELAY).await;
            continue;
        }
        match move_old(&rentals, keep, &directory).await {
            Ok(0) => {}
            Ok(moved) => {
                tracing::info!(moved, directory = %directory.display(), "ended rentals were moved to the archive");
            }
            Err(error) => tracing::error!(
                error = &*error as &dyn Error,
                directory = %directory.display(),
                "ended rentals stay in the database: they cannot be moved to the archive"
            ),
        }
        tokio::time::sleep(ARCHIVE_INTERVAL).await;
    }
}

/// Says so where a database keeps everything for ever.
pub async fn warn_of_growth(store: Arc<dyn Store>, host: HostId) {
    match growth(&*store, &host).await {
        Ok(found) => {
            if let Some(finding) = found {
                tracing::info!("{finding}");
            }
        }
        // Whoever serves says more about a database that does not answer.
        Err(error) => tracing::debug!(error = &error as &dyn Error, "whether the database grows is not known"),
    }
}

/// Finds a database that has kept everything for long.
pub async fn growth(store: &dyn Store, host: &HostId) -> Result<Option<Finding>, StoreError> {
    let old = store.ended_before(host, Timestamp::now() - LONG_AGO, None, 1).await?;
    let found = "the database grows: it keeps rentals that ended more than a year ago";
    let remedy = "--keep-ended 365d moves them out into files, or gpurent-host archive does so once";
    Ok((!old.is_empty()).then(|| Finding::new(Part::Database, found, remedy)))
}

/// A page is forgotten once it is on disk: after a crash in between it is there twice, but never missing.
async fn move_old(rentals: &Rentals, keep: SignedDuration, directory: &Path) -> Result<usize, Failure> {
    let now = Timestamp::now();
    let mut moved = 0;
    loop {
        let page = rentals.ended_before(now - keep, None, PAGE).await?;
        if page.is_empty() {
            return Ok(moved);
        }
        let mut lines = String::new();
        for rental in &page {
            lines += &archived(rentals, rental).await?;
        }
        tokio::fs::create_dir_all(directory).await?;
        let month = now.to_zoned(TimeZone::UTC).strftime("%Y-%m").to_string();
        let mut file = open(&directory.join(format!("rentals-{}-{month}.jsonl", rentals.host()))).await?;
        file.write_all(lines.as_bytes()).await?;
        file.flush().await?;
        file.sync_all().await?;
        let ids: Vec<RentalId> = page.iter().map(Rental::id).collect();
        match rentals.forget(&ids).await? {
            0 => return Err("the database forgets none of them".into()),
            forgotten => moved += forgotten,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_of_a_day_at_least() {
        assert_eq!(age("90d").unwrap(), SignedDuration::from_hours(2160));
        assert_eq!(age("36h").unwrap(), SignedDuration::from_hours(36));
        for text in ["0d", "23h", "-5d", "9999999d", "soon", ""] {
            assert!(age(text).is_err(), "{text}");
        }
    }
}
