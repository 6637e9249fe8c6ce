//! Reading and writing files that an image or a tenant may have made into something else.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// The largest file of accounts that is read.
const MOST_BYTES: u64 = 1024 * 1024;

fn flags(flags: OFlags) -> i32 {
    // The flags of open(2) are an int everywhere.
    i32::try_from(flags.bits()).unwrap_or(0)
}

/// Reads a regular file of at most 1 MiB. A pipe or a device is refused instead of waited for; a link is followed, since
/// it leads nowhere but into this container.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let open = OpenOptions::new().read(true).custom_flags(flags(OFlags::NONBLOCK | OFlags::NOCTTY)).open(path)?;
    read_open(open)
}

fn read_open(file: File) -> io::Result<String> {
    let found = file.metadata()?;
    if !found.is_file() || found.len() > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file of at most 1 MiB"));
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Puts a file of ours in place, whatever was there before.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let draft = path.with_extension("new");
    remove(&draft)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
    file.write_all(content)?;
    // Whatever the umask was.
    file.set_permissions(Permissions::from_mode(mode))?;
    match std::fs::rename(&draft, path) {
        // A folder lies there: only an image or a tenant makes one.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            std::fs::remove_dir_all(path)?;
            std::fs::rename(&draft, path)
        }
        other => other,
    }
}

/// Removes a file or link; fine where there is none.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => std::fs::remove_dir_all(path),
        other => other,
    }
}

/// Writes an image's own file anew through what is there, so that it keeps its owner, its mode and its mounts. Made
/// where it is missing; refused where it is no regular file.
pub(crate) fn rewrite(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    let options = flags(OFlags::NONBLOCK | OFlags::NOCTTY);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(mode).custom_flags(options).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    file.set_len(0)?;
    file.write_all(content.as_bytes())
}

/// Whether this is a file that may be executed.
pub(crate) fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Where a program lies that is called by this name, as execvp(3) looks for it.
pub(crate) fn find_program(name: &str, search: &str) -> Option<std::path::PathBuf> {
    if name.contains('/') {
        return is_program(Path::new(name)).then(|| name.into());
    }
    search
        .split(':')
        .map(|folder| Path::new(if folder.is_empty() { "." } else { folder }).join(name))
        .find(|path| is_program(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("passwd");
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(read(&pipe).is_err());
        assert!(rewrite(&pipe, "x", 0o644).is_err());
        replace(&pipe, b"ours", 0o600).unwrap();
        assert_eq!(read(&pipe).unwrap(), "ours");
        assert!(read(Path::new("/dev/zero")).is_err());
    }

    #[test]
    fn a_folder_or_link_in_the_way_is_replaced_and_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (victim, link, folder) =
            (directory.path().join("victim"), directory.path().join("link"), directory.path().join("folder"));
        std::fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        std::fs::create_dir(&folder).unwrap();
        for path in [&link, &folder] {
            replace(path, b"ours", 0o600).unwrap();
            assert_eq!(read(path).unwrap(), "ours");
        }
        assert_eq!(read(&victim).unwrap(), "untouched");
    }
}
