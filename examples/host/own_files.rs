//! The files that the agent believes: they are worth as much as who may write them.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Why a file or folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum NotOurs {
    /// The file is somebody else's, or everybody may write there.
    #[error("{0} can be written by others: chown it to the agent's user and chmod o-w")]
    Writable(PathBuf),
    /// The file cannot be looked at, or not be closed to others.
    #[error("{path} cannot be closed to others")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes sure that not everybody writes into a folder; one that is missing is made later. Its group is the operator's to
/// choose.
///
/// # Errors
/// [`NotOurs`]
pub fn expect_folder(folder: &Path) -> Result<(), NotOurs> {
    match look(folder)? {
        Some(found) if belongs_to_another(&found) || found.mode() & 0o002 != 0 => {
            Err(NotOurs::Writable(folder.to_owned()))
        }
        _ => Ok(()),
    }
}

/// Whether everybody may write into a folder, whoever the agent runs as.
///
/// # Errors
/// [`NotOurs::Io`]
pub fn is_everybodys(folder: &Path) -> Result<bool, NotOurs> {
    Ok(look(folder)?.is_some_and(|found| found.mode() & 0o002 != 0))
}

/// Makes sure that not everybody reads or writes a file; one that is missing is made later. One of ours is closed to them.
///
/// # Errors
/// [`NotOurs`]
pub fn close_secret(file: &Path) -> Result<(), NotOurs> {
    let Some(found) = look(file)? else { return Ok(()) };
    if belongs_to_another(&found) || !found.is_file() {
        return Err(NotOurs::Writable(file.to_owned()));
    }
    if found.mode() & 0o007 != 0 {
        tracing::warn!(file = %file.display(), "everybody could read or write this file; now nobody else can");
        let closed = fs::set_permissions(file, fs::Permissions::from_mode(found.mode() & 0o7770));
        closed.map_err(|source| NotOurs::Io { path: file.to_owned(), source })?;
    }
    Ok(())
}

/// The file at the end of a path, by way of links too: whoever makes one in a folder of ours may do as they like.
fn look(path: &Path) -> Result<Option<fs::Metadata>, NotOurs> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(NotOurs::Io { path: path.to_owned(), source }),
    }
}

/// Whether a file is neither ours nor root's: root needs no file to do as it likes.
fn belongs_to_another(found: &fs::Metadata) -> bool {
    found.uid() != rustix::process::geteuid().as_raw() && found.uid() != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_everybody_may_write_or_read_is_closed_or_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let key = folder.path().join("seal.key");
        assert!(expect_folder(folder.path()).is_ok() && close_secret(&key).is_ok());
        assert!(expect_folder(&folder.path().join("none")).is_ok());
        fs::write(&key, "").unwrap();
        for (before, after) in [(0o600, 0o600), (0o400, 0o400), (0o640, 0o640), (0o644, 0o640), (0o666, 0o660)] {
            mode(&key, before);
            close_secret(&key).unwrap();
            assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, after, "{before:o}");
        }
        assert!(matches!(close_secret(folder.path()), Err(NotOurs::Writable(_))));
        for (rights, good) in [(0o755, true), (0o700, true), (0o2775, true), (0o777, false), (0o1777, false)] {
            mode(folder.path(), rights);
            assert_eq!(expect_folder(folder.path()).is_ok(), good, "{rights:o}");
        }
    }
}
