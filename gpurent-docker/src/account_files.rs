//! The two files of a container that the engine itself opens, to find out whom a process runs as: at every start, and at
//! every exec, also where the user is given as numbers
//! (<https://github.com/moby/moby/blob/v20.10.24/daemon/oci_linux.go>, `getUser`).
//!
//! A pipe in their place blocks the engine for ever, with the container's lock held: then nothing can be said of that
//! container any more, and it can be neither started nor removed. So they are looked at before the start, by requests that
//! open nothing.

use std::time::Duration;

use bollard::Docker;
use bollard::container::PathStatResponse;
use bollard::models::{ContainerInspectResponse, MountPoint};
use bollard::query_parameters::ContainerArchiveInfoOptionsBuilder;
use gpurent_access::paths::ACCESS;
use gpurent_core::runtime::RuntimeError;

use crate::error::{classify, is_missing};

const FILES: [&str; 2] = ["/etc/passwd", "/etc/group"];

/// The largest file that the engine may read, in bytes. It reads them whole, and at each exec anew.
const MOST: i64 = 4 * 1024 * 1024;

/// How long all looks may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bits of a mode as Go writes it, by which the engine tells a file's kind (<https://pkg.go.dev/io/fs#FileMode>).
mod mode {
    pub(super) const FOLDER: u32 = 1 << 31;
    pub(super) const LINK: u32 = 1 << 27;
    const DEVICE: u32 = 1 << 26;
    const PIPE: u32 = 1 << 25;
    const SOCKET: u32 = 1 << 24;
    const CHARACTER_DEVICE: u32 = 1 << 21;
    const IRREGULAR: u32 = 1 << 19;
    /// Every kind that is not a file that ends.
    pub(super) const SPECIAL: u32 = DEVICE | PIPE | SOCKET | CHARACTER_DEVICE | IRREGULAR;
}

/// Makes sure that the engine can open the account files of a container that was made and never started.
///
/// The engine opens them in the container's own file system, and is asked here with everything mounted over it: so the way
/// to them must not lead through a mount. Of one that runs this says nothing: root in it can replace them in the next moment,
/// and the question itself would be one, since the engine mounts what the container has for it.
///
/// # Errors
/// [`RuntimeError::NoLogin`] where one of them is no plain file of an ordinary size, or cannot be told to be.
pub(crate) async fn expect_plain(docker: &Docker, container: &str) -> Result<(), RuntimeError> {
    let look = async {
        let found = docker.inspect_container(container, None).await.map_err(|error| classify(error, &[]))?;
        let mounts = Mounts::of(&found);
        let folder = stat(docker, container, "/etc").await?;
        for file in FILES {
            let found = stat(docker, container, file).await?;
            mounts.expect_plain(file, folder.as_ref(), found.as_ref())?;
            // The engine names the last target of a link, which is no link.
            if let Some(link) = found.filter(|found| is(found, mode::LINK)) {
                let target = stat(docker, container, &link.link_target).await?;
                expect_plain_file(file, target.as_ref())?;
            }
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, look).await.map_err(|late| RuntimeError::Unavailable(Box::new(late)))?
}

/// Where something lies over a container's own file system.
struct Mounts {
    all: Vec<String>,
    /// Whether one of them may hold what neither we nor the image have put there.
    foreign: bool,
}

impl Mounts {
    fn of(container: &ContainerInspectResponse) -> Self {
        let mounts = container.mounts.as_deref().unwrap_or_default();
        let destinations = mounts.iter().filter_map(|mount| mount.destination.clone());
        let of_the_engine = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"].map(str::to_owned);
        let is_foreign =
            |mount: &MountPoint| mount.typ.as_deref() == Some("bind") && mount.destination.as_deref() != Some(ACCESS);
        Self { all: destinations.chain(of_the_engine).collect(), foreign: mounts.iter().any(is_foreign) }
    }

    fn cover(&self, path: &str) -> bool {
        self.all
            .iter()
            .any(|mount| path == mount || path.strip_prefix(mount.as_str()).is_some_and(|rest| rest.starts_with('/')))
    }

    fn expect_plain(
        &self,
        file: &str,
        folder: Option<&PathStatResponse>,
        found: Option<&PathStatResponse>,
    ) -> Result<(), RuntimeError> {
        let folder_link = folder.filter(|folder| is(folder, mode::LINK)).map(|folder| folder.link_target.as_str());
        let link = found.filter(|found| is(found, mode::LINK)).map(|found| found.link_target.as_str());
        if self.foreign && (folder_link.is_some() || link.is_some()) {
            return Err(refused(format!(
                "{file} is reached by a link, which a container with a workspace may not have"
            )));
        }
        let name = file.rsplit('/').next().unwrap_or(file);
        let real = match (link, folder_link) {
            (Some(target), _) => target.to_owned(),
            (None, Some(folder)) => format!("{folder}/{name}"),
            (None, None) => file.to_owned(),
        };
        let by_a_link = link.is_some() || folder_link.is_some();
        // A volume was filled with what the image has there, but for what the engine does not copy.
        if self.cover(&real) && (by_a_link || found.is_none()) {
            return Err(refused(format!("{file} of the image lies in a volume, or a link leads into one")));
        }
        if link.is_some() { Ok(()) } else { expect_plain_file(file, found) }
    }
}

fn is(found: &PathStatResponse, kind: u32) -> bool {
    found.file_mode & kind != 0
}

/// The kind of thing that lies at a path, without opening it; `None` for nothing.
async fn stat(docker: &Docker, container: &str, path: &str) -> Result<Option<PathStatResponse>, RuntimeError> {
    let options = ContainerArchiveInfoOptionsBuilder::default().path(path).build();
    match docker.get_container_archive_info(container, Some(options)).await {
        Ok(found) => Ok(Some(found)),
        // Nothing there, or no container, as whoever asks next finds out.
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(classify(error, &[])),
    }
}

fn expect_plain_file(file: &str, found: Option<&PathStatResponse>) -> Result<(), RuntimeError> {
    match found {
        Some(found) if is(found, mode::SPECIAL) => Err(refused(format!("{file} of the container is no plain file"))),
        Some(found) if found.size > MOST && !is(found, mode::FOLDER) => {
            Err(refused(format!("{file} of the container has {} bytes, and may have {MOST}", found.size)))
        }
        // The engine opens a folder, fails to read it, and says so by itself.
        _ => Ok(()),
    }
}

fn refused(reason: String) -> RuntimeError {
    RuntimeError::NoLogin { by_image: true, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file_mode: u32, link_target: &str) -> PathStatResponse {
        let (name, link_target) = (String::new(), link_target.to_owned());
        PathStatResponse { name, size: 10, file_mode, modification_time: None, link_target }
    }

    #[test]
    fn no_way_to_them_leads_through_a_mount() {
        let (folder, file, pipe) = (found(mode::FOLDER, ""), found(0, ""), found(1 << 25, ""));
        let link = |target: &str| found(mode::LINK, target);
        let mounts =
            |all: &[&str], foreign| Mounts { all: all.iter().map(|mount| (*mount).to_owned()).collect(), foreign };
        let kit = mounts(&["/.gpurent/kit", "/etc/hosts"], false);
        let good = |mounts: &Mounts, folder: &PathStatResponse, file: Option<&PathStatResponse>| {
            mounts.expect_plain("/etc/passwd", Some(folder), file).is_ok()
        };
        assert!(good(&kit, &folder, Some(&file)) && good(&kit, &folder, None));
        assert!(good(&kit, &folder, Some(&link("/etc/accounts"))) && good(&kit, &link("/usr/etc"), Some(&file)));
        assert!(!good(&kit, &folder, Some(&pipe)));
        assert!(!good(&kit, &folder, Some(&link("/.gpurent/kit/complete"))));
        assert!(!good(&kit, &folder, Some(&link("/etc/hosts"))));
        assert!(!good(&kit, &link("/.gpurent/kit"), Some(&file)));
        // A copy of what the image has: a pipe may be missing there.
        let volume = mounts(&["/etc"], false);
        assert!(good(&volume, &folder, Some(&file)) && !good(&volume, &folder, None));
        // What a renter has put into their workspace may lead anywhere.
        let workspace = mounts(&["/w"], true);
        assert!(good(&workspace, &folder, Some(&file)));
        assert!(
            !good(&workspace, &folder, Some(&link("/etc/real"))) && !good(&workspace, &link("/usr/etc"), Some(&file))
        );
    }
}
