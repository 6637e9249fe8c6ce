//! The sealing key: given by the operator, or made on the first start and kept where only we can read
//! it. A lost key loses stored passwords, never a rental.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use gpurent_core::error::ValidationError;
use gpurent_core::model::SealKey;

/// Why there is no sealing key.
#[derive(Debug, thiserror::Error)]
pub enum SealKeyError {
    /// The text is no key.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// The key's file cannot be read or made.
    #[error("the sealing key {path} cannot be used")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Takes the operator's key, or the one in `directory`, made there if it is missing.
pub fn load(given: Option<&str>, directory: &Path) -> Result<SealKey, SealKeyError> {
    if let Some(hex) = given {
        return Ok(SealKey::from_hex(hex)?);
    }
    let path = directory.join("seal.key");
    let failed = |source| SealKeyError::Io { path: path.clone(), source };
    match fs::read_to_string(&path) {
        Ok(hex) => Ok(SealKey::from_hex(&hex)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (key, hex) = SealKey::generate();
            fs::create_dir_all(directory).map_err(failed)?;
            // Whole or not at all: a torn key would lose every password sealed later.
            let draft = directory.join(format!("seal.key.{}", std::process::id()));
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(failed)?;
            file.write_all(hex.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
            fs::rename(&draft, &path).map_err(failed)?;
            Ok(key)
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use gpurent_core::id::RentalId;
    use gpurent_core::model::Sealer;

    use super::*;

    #[test]
    fn the_key_that_was_made_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let (first, id) = (load(None, directory.path()).unwrap(), RentalId::generate());
        let sealed = first.seal(id, b"secret").unwrap();
        assert_eq!(load(None, directory.path()).unwrap().open(id, &sealed).unwrap(), b"secret");
        let mode = fs::metadata(directory.path().join("seal.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
