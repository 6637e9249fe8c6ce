//! The two files of a container that the engine itself opens, to find out whom a process runs as: at every start, and at
//! every exec, also where the user is given as numbers
//! (<https://github.com/moby/moby/blob/v20.10.24/daemon/oci_linux.go>, `getUser`).
//!
//! A pipe in their place blocks the engine for ever, with the container's lock held: then nothing can be said of that
//! container any more, and it can be neither started nor removed. So they are looked at first, by a request that opens
//! nothing.

use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::ContainerArchiveInfoOptionsBuilder;
use gpurent_core::runtime::RuntimeError;

use crate::error::{classify, is_missing};

const FILES: [&str; 2] = ["/etc/passwd", "/etc/group"];

/// The largest file that the engine may read, in bytes. It reads them whole, and at each exec anew.
const MOST: i64 = 4 * 1024 * 1024;

/// How long one look may take: less than a request in general, since what hangs here would hang there.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many links are followed. The engine names the last target of a link, so that one is enough.
const LINKS: usize = 2;

/// Bits of a mode as Go writes it, by which the engine tells a file's kind (<https://pkg.go.dev/io/fs#FileMode>).
mod mode {
    pub(super) const FOLDER: u32 = 1 << 31;
    pub(super) const LINK: u32 = 1 << 27;
    const DEVICE: u32 = 1 << 26;
    const PIPE: u32 = 1 << 25;
    const SOCKET: u32 = 1 << 24;
    const CHARACTER_DEVICE: u32 = 1 << 21;
    const IRREGULAR: u32 = 1 << 19;
    /// Whatever is not a file that ends.
    pub(super) const SPECIAL: u32 = DEVICE | PIPE | SOCKET | CHARACTER_DEVICE | IRREGULAR;
}

/// Makes sure that the engine can open a container's account files, now. Root in a running container can replace them in
/// the next moment; in one that was never started nobody can.
///
/// # Errors
/// [`RuntimeError::NoLogin`] where one of them is no plain file of an ordinary size.
pub(crate) async fn expect_plain(docker: &Docker, container: &str) -> Result<(), RuntimeError> {
    for file in FILES {
        let look = expect_plain_file(docker, container, file);
        tokio::time::timeout(PATIENCE, look).await.map_err(|late| RuntimeError::Unavailable(Box::new(late)))??;
    }
    Ok(())
}

async fn expect_plain_file(docker: &Docker, container: &str, file: &str) -> Result<(), RuntimeError> {
    let mut path = file.to_owned();
    for _ in 0..LINKS {
        let options = ContainerArchiveInfoOptionsBuilder::default().path(&path).build();
        let found = match docker.get_container_archive_info(container, Some(options)).await {
            Ok(found) => found,
            // No file, or no container, as whoever asks next finds out.
            Err(error) if is_missing(&error) => return Ok(()),
            Err(error) => return Err(classify(error, &[])),
        };
        if found.file_mode & mode::LINK != 0 {
            path = found.link_target;
            continue;
        }
        if found.file_mode & mode::FOLDER != 0 {
            // The engine opens a folder and fails to read it: it says so by itself.
            return Ok(());
        }
        if found.file_mode & mode::SPECIAL != 0 {
            return Err(refused(format!("{file} of the container is no plain file")));
        }
        if found.size > MOST {
            return Err(refused(format!("{file} of the container has {} bytes, and may have {MOST}", found.size)));
        }
        return Ok(());
    }
    Err(refused(format!("{file} of the container is a link to a link")))
}

fn refused(reason: String) -> RuntimeError {
    RuntimeError::NoLogin { by_image: true, reason }
}
