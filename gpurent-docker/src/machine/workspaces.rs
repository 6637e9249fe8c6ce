//! Folders of this machine that outlive containers.
//!
//! A folder is made once, from the operator's template, beside its place and moved there whole: a crash leaves
//! the folder or nothing. What renters put into it is never looked at; links in it are theirs and lead us nowhere,
//! since only the folder itself is ever named.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use gpurent_core::id::RenterId;
use gpurent_core::model::{MountPath, Workspace, WorkspaceFolder};

/// Begins the name of a folder that is being made; no workspace's own name begins with a dot.
const UNFINISHED: &str = ".making-";

/// Where workspaces lie, and what they are made of.
#[derive(Clone, Debug)]
pub struct WorkspaceRoot {
    root: PathBuf,
    template: Option<PathBuf>,
    owner: (u32, u32),
    read_only: Vec<(PathBuf, MountPath)>,
    /// The lock under which one folder is made at a time: what a dropped call still copies is not copied twice at once.
    making: Arc<Mutex<()>>,
}

impl WorkspaceRoot {
    /// Keeps workspaces below `root`, which is made where it is missing. What an earlier process left unfinished
    /// is removed: only one agent may use a root.
    ///
    /// # Errors
    /// Where the folder cannot be made or written to, or is no absolute path.
    pub fn new(root: &Path) -> io::Result<Self> {
        if !root.is_absolute() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "must be an absolute path"));
        }
        make_private(root)?;
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self {
            root: root.to_owned(),
            template: None,
            owner: (1000, 1000),
            read_only: Vec::new(),
            making: Arc::default(),
        })
    }

    /// A new workspace begins as a copy of this folder.
    ///
    /// # Errors
    /// Where there is no such folder.
    pub fn with_template(mut self, template: &Path) -> io::Result<Self> {
        if !fs::metadata(template)?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "the template is not a folder"));
        }
        self.template = Some(template.to_owned());
        Ok(self)
    }

    /// New workspaces belong to this user and group; 1000 and 1000 by default.
    #[must_use]
    pub fn owned_by(mut self, user: u32, group: u32) -> Self {
        self.owner = (user, group);
        self
    }

    /// Containers with a workspace also see this folder of the host, and cannot change it.
    ///
    /// # Errors
    /// Where there is no such folder.
    pub fn with_read_only(mut self, folder: &Path, mount: MountPath) -> io::Result<Self> {
        fs::metadata(folder)?;
        self.read_only.push((folder.to_owned(), mount));
        Ok(self)
    }

    /// The folder that all of them lie in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.root
    }

    /// Where a workspace lies.
    #[must_use]
    pub fn path(&self, folder: &WorkspaceFolder) -> PathBuf {
        self.root.join(folder.as_str())
    }

    /// Makes the workspace where it is not there yet. May be dropped; what was begun then is finished or forgotten.
    ///
    /// # Errors
    /// The file system's. The next try begins anew.
    pub async fn ensure(&self, workspace: &Workspace) -> io::Result<()> {
        let (root, folder) = (self.clone(), workspace.folder.clone());
        tokio::task::spawn_blocking(move || root.ensure_now(&folder)).await.map_err(io::Error::other)?
    }

    /// The workspaces of a renter that are there.
    ///
    /// # Errors
    /// The file system's.
    pub async fn of(&self, renter: &RenterId) -> io::Result<BTreeSet<WorkspaceFolder>> {
        let (root, renter) = (self.root.clone(), renter.clone());
        let list = move || {
            let names = fs::read_dir(root)?.map(|entry| entry.map(|entry| entry.file_name()));
            let names: Vec<_> = names.collect::<io::Result<_>>()?;
            // What has another name is nobody's.
            let folders = names.into_iter().filter_map(|name| WorkspaceFolder::try_from(name.into_string().ok()?).ok());
            Ok(folders.filter(|folder| folder.is_of(&renter)).collect())
        };
        tokio::task::spawn_blocking(list).await.map_err(io::Error::other)?
    }

    /// Whether the workspace is there. Blocks for as long as the file system does.
    ///
    /// # Errors
    /// The file system's, and where its place is no folder.
    pub fn is_there(&self, folder: &WorkspaceFolder) -> io::Result<bool> {
        match fs::symlink_metadata(self.path(folder)) {
            Ok(found) if found.is_dir() => Ok(true),
            Ok(_) => Err(io::Error::new(io::ErrorKind::NotADirectory, "the workspace's place is no folder")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn ensure_now(&self, folder: &WorkspaceFolder) -> io::Result<()> {
        // Whoever has one does not wait for others' copies.
        if self.is_there(folder)? {
            return Ok(());
        }
        let _one_at_a_time = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_there(folder)? {
            return Ok(());
        }
        let place = self.path(folder);
        let unfinished = self.root.join(format!("{UNFINISHED}{folder}"));
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match &self.template {
            Some(template) => copy(template, &unfinished, self.owner)?,
            None => {
                fs::create_dir(&unfinished)?;
                own(&unfinished, self.owner)?;
            }
        }
        settle(&unfinished)?;
        fs::rename(&unfinished, &place)?;
        settle(&self.root)
    }

    /// The folders that a container with this workspace sees: the workspace itself, and the operator's.
    #[must_use]
    pub fn mounts(&self, workspace: &Workspace) -> Vec<FolderMount> {
        let own =
            FolderMount { folder: self.path(&workspace.folder), target: workspace.mount.clone(), read_only: false };
        let extra = self.read_only.iter().filter(|(_, target)| *target != workspace.mount);
        let extra = extra.map(|(folder, target)| FolderMount {
            folder: folder.clone(),
            target: target.clone(),
            read_only: true,
        });
        std::iter::once(own).chain(extra).collect()
    }
}

/// A folder of the machine that a container sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderMount {
    /// The folder's place on the machine.
    pub folder: PathBuf,
    /// The place at which the container sees it.
    pub target: MountPath,
    /// Whether the container cannot change it.
    pub read_only: bool,
}

/// Copies a folder with everything in it; links stay links, and nothing but files, folders and links is copied.
fn copy(from: &Path, to: &Path, owner: (u32, u32)) -> io::Result<()> {
    let mode = fs::metadata(from)?.permissions();
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &target, owner)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target)?;
            own(&target, owner)?;
        } else if kind.is_symlink() {
            link(&fs::read_link(entry.path())?, &target)?;
            own(&target, owner)?;
        }
    }
    fs::set_permissions(to, mode)?;
    own(to, owner)
}

#[cfg(unix)]
fn link(to: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

#[cfg(unix)]
fn own(path: &Path, (user, group): (u32, u32)) -> io::Result<()> {
    match std::os::unix::fs::lchown(path, Some(user), Some(group)) {
        // Who is not root can give nothing away; the folder is theirs then.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

/// The root lets no other user of the machine in: a renter is root in their container, and what they leave here may be
/// a program that runs as root.
#[cfg(unix)]
fn make_private(root: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(root)?;
    let mode = fs::metadata(root)?.permissions().mode();
    if mode & 0o007 == 0 {
        return Ok(());
    }
    tracing::warn!(root = %root.display(), "closed to other users: what renters leave there could run as root");
    fs::set_permissions(root, fs::Permissions::from_mode(mode & 0o770))
}

#[cfg(not(unix))]
fn make_private(root: &Path) -> io::Result<()> {
    fs::create_dir_all(root)
}

/// Lets everything written so far survive a power cut.
#[cfg(unix)]
fn settle(folder: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(fs::File::open(folder)?)?)
}

#[cfg(not(unix))]
fn link(_to: &Path, _at: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn own(_path: &Path, _owner: (u32, u32)) -> io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn settle(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn workspace(renter: &str) -> Workspace {
        Workspace { folder: WorkspaceFolder::of(&renter.parse().unwrap()), mount: MountPath::default() }
    }

    fn template(directory: &Path) -> PathBuf {
        let template = directory.join("template");
        fs::create_dir_all(template.join("sub")).unwrap();
        fs::write(template.join("sub/file"), "from the template").unwrap();
        fs::set_permissions(template.join("sub/file"), fs::Permissions::from_mode(0o750)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", template.join("link")).unwrap();
        template
    }

    #[tokio::test]
    async fn it_begins_as_the_template_and_is_never_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let root = WorkspaceRoot::new(&directory.path().join("root")).unwrap();
        let root = root.with_template(&template(directory.path())).unwrap().owned_by(1234, 1235);
        root.ensure(&workspace("user1")).await.unwrap();
        let place = root.path(&workspace("user1").folder);
        assert_eq!(fs::read_to_string(place.join("sub/file")).unwrap(), "from the template");
        let found = fs::metadata(place.join("sub/file")).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (1234, 1235, 0o750));
        assert_eq!(fs::metadata(&place).unwrap().uid(), 1234);
        assert_eq!(fs::read_link(place.join("link")).unwrap(), Path::new("/etc/passwd"), "a link is not followed");
        assert_eq!(fs::metadata("/etc/passwd").unwrap().uid(), 0, "nor given away");
        fs::write(place.join("sub/file"), "the renter's").unwrap();
        root.ensure(&workspace("user1")).await.unwrap();
        assert_eq!(fs::read_to_string(place.join("sub/file")).unwrap(), "the renter's");
    }

    /// A crash while it is made leaves what begins with a dot, and no workspace's name does.
    #[tokio::test]
    async fn what_a_crash_left_is_made_again_whole() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("root");
        let half = place.join(".making-user1/sub");
        fs::create_dir_all(&half).unwrap();
        fs::write(half.join("half"), "").unwrap();
        let root = WorkspaceRoot::new(&place).unwrap().with_template(&template(directory.path())).unwrap();
        assert!(!half.exists());
        // Also where it happens while the process lives on.
        fs::create_dir_all(&half).unwrap();
        root.ensure(&workspace("user1")).await.unwrap();
        let names: Vec<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["user1"]);
        assert!(!place.join("user1/sub/half").exists());
    }

    #[test]
    fn nobody_else_on_the_machine_gets_in() {
        let directory = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        let new = directory.path().join("new");
        WorkspaceRoot::new(&new).unwrap();
        assert_eq!(mode(&new), 0o700);
        let old = directory.path().join("old");
        fs::create_dir(&old).unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).unwrap();
        WorkspaceRoot::new(&old).unwrap();
        assert_eq!(mode(&old), 0o750);
    }

    #[tokio::test]
    async fn many_at_once_make_it_once() {
        let directory = tempfile::tempdir().unwrap();
        let root = WorkspaceRoot::new(directory.path()).unwrap();
        let all = (0..20).map(|_| {
            let root = root.clone();
            tokio::spawn(async move { root.ensure(&workspace("user1")).await })
        });
        for made in futures_util::future::join_all(all).await {
            made.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_no_folder_is_not_taken_for_one() {
        let directory = tempfile::tempdir().unwrap();
        let root = WorkspaceRoot::new(directory.path()).unwrap();
        std::os::unix::fs::symlink("/etc", directory.path().join("user1")).unwrap();
        assert!(root.ensure(&workspace("user1")).await.is_err());
    }
}
