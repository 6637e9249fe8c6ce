//! One agent per engine, on this machine.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use gpurent_core::id::EngineId;

/// A lock on an engine, held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct EngineLock {
    _file: File,
}

/// Why an engine could not be locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another agent acts for this engine; end that one first.
    #[error("another agent already acts for this engine (lock {0})")]
    Held(PathBuf),
    /// The lock file cannot be made.
    #[error("the lock file {path} cannot be used")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl EngineLock {
    /// Locks an engine by a file in `directory`, which is made where it is missing.
    ///
    /// # Errors
    /// [`LockError`]
    pub fn acquire(directory: &Path, engine: &EngineId) -> Result<Self, LockError> {
        let name: String = engine.as_str().replace(':', "-");
        let path = directory.join(format!("engine-{name}.lock"));
        let failed = |source| LockError::Io { path: path.clone(), source };
        std::fs::create_dir_all(directory).map_err(failed)?;
        let file = crate::machine::private_file::open(&path, false).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Held(path)),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_agent_is_refused_until_the_first_ends() {
        let directory = std::env::temp_dir().join(format!("gpurent-lock-{}", std::process::id()));
        let engine: EngineId = "AB:CD".parse().unwrap();
        let first = EngineLock::acquire(&directory, &engine).unwrap();
        assert!(matches!(EngineLock::acquire(&directory, &engine), Err(LockError::Held(_))));
        drop(first);
        EngineLock::acquire(&directory, &engine).unwrap();
        std::fs::remove_dir_all(directory).unwrap();
    }
}
