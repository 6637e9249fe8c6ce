//! Opening files that are the agent's own: for its eyes only, and never by way of a link that somebody else has put there.

use std::fs::{File, OpenOptions};
use std::path::Path;

/// Opens a file to write it, made where it is missing; what is in it stays unless it is to be emptied.
///
/// # Errors
/// Where it is a link, belongs to somebody else, or cannot be opened.
#[cfg(unix)]
pub(crate) fn open(path: &Path, emptied: bool) -> std::io::Result<File> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
    let no_links = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).map_err(std::io::Error::other)?;
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).custom_flags(no_links).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(std::io::Error::other(format!("{} is not a file of ours", path.display())));
    }
    if found.mode() & 0o077 != 0 {
        // Made by a former version.
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    if emptied {
        file.set_len(0)?;
    }
    Ok(file)
}

/// Opens a file to write it, made where it is missing; what is in it stays unless it is to be emptied.
#[cfg(not(unix))]
pub(crate) fn open(path: &Path, emptied: bool) -> std::io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(emptied).open(path)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_link_leads_nowhere_and_nobody_else_reads() {
        let folder = tempfile::tempdir().unwrap();
        let (victim, link) = (folder.path().join("victim"), folder.path().join("link"));
        std::fs::write(&victim, "precious").unwrap();
        symlink(&victim, &link).unwrap();
        assert!(open(&link, true).is_err());
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o644)).unwrap();
        open(&victim, false).unwrap();
        assert_eq!(std::fs::metadata(&victim).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        open(&victim, true).unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "");
    }
}
