//! What the agent believes of files is worth as much as who may write them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why a file or folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum NotOurs {
    /// Others could change what is in it.
    #[error("{0} can be written by others: chown it to the agent's user and chmod go-w")]
    Writable(PathBuf),
    /// Others could read what is secret in it.
    #[error("{0} can be read by others: chown it to the agent's user and chmod 600")]
    Readable(PathBuf),
    /// It cannot be looked at.
    #[error("{path} cannot be looked at")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes sure that nobody else writes into a folder; one that is missing is made later.
///
/// # Errors
/// [`NotOurs`]
pub fn expect_folder(folder: &Path) -> Result<(), NotOurs> {
    match look(folder, fs::metadata(folder))? {
        Some(found) if is_anothers(&found) || found.mode() & 0o022 != 0 => Err(NotOurs::Writable(folder.to_owned())),
        _ => Ok(()),
    }
}

/// Makes sure that nobody else reads or writes a file; one that is missing is made later.
///
/// # Errors
/// [`NotOurs`]
pub fn expect_secret(file: &Path) -> Result<(), NotOurs> {
    match look(file, fs::symlink_metadata(file))? {
        Some(found) if is_anothers(&found) || found.mode() & 0o022 != 0 || !found.is_file() => {
            Err(NotOurs::Writable(file.to_owned()))
        }
        Some(found) if found.mode() & 0o044 != 0 => Err(NotOurs::Readable(file.to_owned())),
        _ => Ok(()),
    }
}

fn look(path: &Path, found: io::Result<fs::Metadata>) -> Result<Option<fs::Metadata>, NotOurs> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(NotOurs::Io { path: path.to_owned(), source }),
    }
}

/// What is root's is good enough: root needs no file to do as it likes.
fn is_anothers(found: &fs::Metadata) -> bool {
    found.uid() != rustix::process::geteuid().as_raw() && found.uid() != 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_others_may_write_or_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let key = folder.path().join("seal.key");
        assert!(expect_folder(folder.path()).is_ok() && expect_secret(&key).is_ok());
        assert!(expect_folder(&folder.path().join("none")).is_ok());
        fs::write(&key, "").unwrap();
        for (rights, good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)] {
            mode(&key, rights);
            assert_eq!(expect_secret(&key).is_ok(), good, "{rights:o}");
        }
        mode(&key, 0o600);
        let link = folder.path().join("link");
        symlink(&key, &link).unwrap();
        assert!(matches!(expect_secret(&link), Err(NotOurs::Writable(_))));
        for (rights, good) in [(0o755, true), (0o700, true), (0o777, false), (0o770, false), (0o1777, false)] {
            mode(folder.path(), rights);
            assert_eq!(expect_folder(folder.path()).is_ok(), good, "{rights:o}");
        }
    }
}
