//! Folders of the host that a container sees.

use std::path::Path;

use bollard::models::{Mount, MountType};

/// A mount of a folder of the engine's machine.
pub(crate) fn bind(folder: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(folder.to_string_lossy().into_owned()),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}
