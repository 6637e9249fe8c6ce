//! On machines without Unix sockets there is no socket: commands are run in the container instead.

use std::path::Path;

use gpurent_access::wire::{Reply, Request};
use gpurent_core::id::LaunchId;
use gpurent_core::runtime::RuntimeError;

/// Why a container was not asked.
#[derive(Debug, thiserror::Error)]
#[error("there are no lines on this machine")]
pub(crate) struct LineError;

impl From<LineError> for RuntimeError {
    fn from(error: LineError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

/// A container's line.
pub(crate) struct Line;

impl Line {
    pub(crate) async fn ask(&self, _request: &Request) -> Result<Reply, LineError> {
        Err(LineError)
    }
}

/// The lines of all containers.
#[derive(Default)]
pub(crate) struct Lines;

impl Lines {
    pub(crate) fn of(&self, _launch: LaunchId, _folder: &Path) -> std::io::Result<std::sync::Arc<Line>> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn close(&self, _launch: LaunchId) {}
}
