//! What becomes of rentals that ended long ago: `--keep-ended` moves them from the database into files.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gpurent_core::id::RentalId;
use gpurent_core::invalid::Invalid;
use gpurent_core::rental::Rental;
use gpurent_core::rentals::Rentals;
use gpurent_http::api::archived;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;

type Failure = Box<dyn Error + Send + Sync>;

/// Between two looks for what is old enough.
const PAUSE: Duration = Duration::from_secs(6 * 3600);
/// So many rentals are in memory at once.
const PAGE: usize = 100;
/// A database that has older rentals than this has been growing for long enough to say so.
const LONG_AGO: SignedDuration = SignedDuration::from_hours(365 * 24);

/// An age such as 90d, of a day at least.
pub fn age(text: &str) -> Result<SignedDuration, Invalid> {
    let refused = || Invalid::new("age", "must be at least a day, such as 90d");
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    let age = match days {
        Some(days) => SignedDuration::from_hours(i64::from(days) * 24),
        None => text.parse().map_err(|_| refused())?,
    };
    if age >= SignedDuration::from_hours(24) { Ok(age) } else { Err(refused()) }
}

/// Opens a file that lines are added to, for our eyes only.
pub async fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).await
}

/// Moves what ended longer ago than `keep` into files of `directory`, one a month, until the program ends.
pub async fn keep_only(rentals: Rentals, keep: SignedDuration, directory: PathBuf) {
    loop {
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
        tokio::time::sleep(PAUSE).await;
    }
}

/// Says so where a database keeps everything for ever.
pub async fn tell_of_growth(rentals: &Rentals) {
    match rentals.ended_before(Timestamp::now() - LONG_AGO, None, 1).await {
        Ok(old) if !old.is_empty() => {
            tracing::info!(
                "rentals that ended more than a year ago are still in the database: --keep-ended moves them out"
            );
        }
        Ok(_) => {}
        // Whoever serves says more about a database that does not answer.
        Err(error) => tracing::debug!(error = &error as &dyn Error, "whether the database grows is not known"),
    }
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
        // The name is on disk only once the folder is.
        File::open(directory).await?.sync_all().await?;
        let ids: Vec<RentalId> = page.iter().map(Rental::id).collect();
        if rentals.forget(&ids).await? == 0 {
            return Err("the database forgets none of them".into());
        }
        moved += page.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_of_a_day_at_least() {
        assert_eq!(age("90d").unwrap(), SignedDuration::from_hours(2160));
        assert_eq!(age("36h").unwrap(), SignedDuration::from_hours(36));
        for text in ["0d", "23h", "-5d", "soon", ""] {
            assert!(age(text).is_err(), "{text}");
        }
    }
}
