//! The access kit: SSH for any image, also one without a shell.
//!
//! A read-only volume with a static shell, dropbear with its own loader and libraries, and our scripts:
//! `init` is every container's entry point, `session` every login's, `let-in` puts the credential in
//! place, `announce` tells the renter something, `enter` and `hang-up` are the two ends of a terminal without SSH. It is put together once from
//! programs of the host (Debian: `dropbear-bin`, `busybox-static`, `openssh-sftp-server`) and lies in a
//! volume named after its content, so that an upgrade never changes the kit under a running tenant.

pub(crate) mod volume;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bollard::models::ImageConfig;
use gpurent_core::access::{Credential, LoginUser};
use gpurent_core::runtime::RuntimeError;
use sha_crypt::{PasswordHasher, ShaCrypt};
use sha2::{Digest, Sha256};
use tokio::process::Command;

/// Where the kit is mounted.
pub(crate) const MOUNT: &str = "/.gpurent/kit";
/// The last file of the kit: where it exists, all others do.
pub(crate) const MARKER: &str = "/.gpurent/kit/complete";
/// Every container's entry point.
pub(crate) const INIT: &str = "/.gpurent/kit/init";
/// Puts a replaced credential in place.
pub(crate) const LET_IN: &str = "/.gpurent/kit/let-in";
/// Tells the renter something.
pub(crate) const ANNOUNCE: &str = "/.gpurent/kit/announce";
/// Runs something as the rental's user.
pub(crate) const ENTER: &str = "/.gpurent/kit/enter";
/// Ends what that began.
pub(crate) const HANG_UP: &str = "/.gpurent/kit/hang-up";
/// Where a container finds whom to let in, and how.
pub(crate) const ACCESS: &str = "/.gpurent/access";

const SCRIPTS: [(&str, &str); 6] = [
    ("init", include_str!("init")),
    ("let-in", include_str!("let-in")),
    ("session", include_str!("session")),
    ("announce", include_str!("announce")),
    ("enter", include_str!("enter")),
    ("hang-up", include_str!("hang-up")),
];

/// The applets of the static shell that the scripts use, and a shell for images without one.
const APPLETS: [&str; 17] = [
    "sh", "cat", "chmod", "chown", "cp", "cut", "grep", "id", "kill", "ls", "mkdir", "mv", "rm", "sleep", "tail",
    "test", "true",
];

/// Why a kit could not be put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KitError {
    /// A program is missing on this host.
    #[error("{program} is missing on this host: install the package {package}")]
    Missing {
        /// The program.
        program: &'static str,
        /// Debian's name of its package.
        package: &'static str,
    },
    /// A file could not be read.
    #[error("{path} cannot be read")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The kit's files, ready to be put into a volume.
#[derive(Clone)]
pub struct AccessKit {
    archive: Arc<Vec<u8>>,
    digest: String,
}

struct Program {
    name: &'static str,
    package: &'static str,
    paths: &'static [&'static str],
}

const BUSYBOX: Program =
    Program { name: "a static busybox", package: "busybox-static", paths: &["/bin/busybox", "/usr/bin/busybox"] };
const DYNAMIC: [(&str, Program); 6] = [
    ("dropbear", Program { name: "dropbear", package: "dropbear-bin", paths: &["/usr/sbin/dropbear"] }),
    ("dropbearkey", Program { name: "dropbearkey", package: "dropbear-bin", paths: &["/usr/bin/dropbearkey"] }),
    // Start the image's program: with signals as they should be, and as the image's user.
    ("env", Program { name: "env", package: "coreutils", paths: &["/usr/bin/env"] }),
    ("setpriv", Program { name: "setpriv", package: "util-linux", paths: &["/usr/bin/setpriv", "/bin/setpriv"] }),
    ("scp", Program { name: "scp", package: "openssh-client", paths: &["/usr/bin/scp"] }),
    (
        "sftp-server",
        Program {
            name: "sftp-server",
            package: "openssh-sftp-server",
            paths: &["/usr/lib/openssh/sftp-server", "/usr/lib/sftp-server"],
        },
    ),
];

impl AccessKit {
    /// Puts a kit together from this host's programs.
    ///
    /// # Errors
    /// [`KitError::Missing`] names the package to install.
    pub async fn from_host() -> Result<Self, KitError> {
        let mut files = BTreeMap::new();
        files.insert("bin/busybox".to_owned(), busybox().await?);
        for (name, program) in &DYNAMIC {
            let path = find(program)?;
            files.insert(format!("bin/{name}"), read(&path).await?);
            for library in libraries(&path).await?.unwrap_or_default() {
                // The loader is the one library that is named by its full path alone.
                let file = library.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                let file = if file.starts_with("ld-linux") { "loader".to_owned() } else { file };
                files.insert(format!("lib/{file}"), read(&library).await?);
            }
        }
        files.extend(SCRIPTS.map(|(name, script)| (name.to_owned(), script.into())));
        Self::from_files(&files)
    }

    /// A kit of other files, all of them executable; `init` is what containers start with.
    ///
    /// # Errors
    /// [`KitError::Io`] where they make no archive.
    pub fn from_files(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, KitError> {
        let archive = archive(files).map_err(|source| KitError::Io { path: PathBuf::from("the kit"), source })?;
        let digest = Sha256::digest(&archive).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { archive: Arc::new(archive), digest })
    }

    /// The volume that holds this very kit.
    pub(crate) fn volume(&self) -> String {
        format!("gpurent-kit-{}", self.digest)
    }

    /// A tar archive to be unpacked at [`MOUNT`].
    pub(crate) fn archive(&self) -> Vec<u8> {
        self.archive.to_vec()
    }
}

/// The host's static busybox.
pub(crate) async fn busybox() -> Result<Vec<u8>, KitError> {
    let path = find(&BUSYBOX)?;
    if libraries(&path).await?.is_some() {
        return Err(KitError::Missing { program: BUSYBOX.name, package: BUSYBOX.package });
    }
    read(&path).await
}

fn find(program: &Program) -> Result<PathBuf, KitError> {
    let found = program.paths.iter().map(Path::new).find(|path| path.is_file());
    found.map(Path::to_path_buf).ok_or(KitError::Missing { program: program.name, package: program.package })
}

async fn read(path: &Path) -> Result<Vec<u8>, KitError> {
    tokio::fs::read(path).await.map_err(|source| KitError::Io { path: path.to_owned(), source })
}

/// The libraries that a program is linked with; `None` if it is static.
async fn libraries(program: &Path) -> Result<Option<Vec<PathBuf>>, KitError> {
    let output = Command::new("ldd").arg(program).kill_on_drop(true).output().await;
    let output = output.map_err(|source| KitError::Io { path: program.to_owned(), source })?;
    if !output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(Some(text.lines().filter_map(library_in).collect()))
}

/// The path in a line of `ldd`: "libc.so.6 => /lib/.../libc.so.6 (0x...)" or "/lib64/ld-linux... (0x...)".
fn library_in(line: &str) -> Option<PathBuf> {
    let line = line.trim();
    let path = line.split_once("=> ").map_or(line, |(_, path)| path).split(" (").next()?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

fn archive(files: &BTreeMap<String, Vec<u8>>) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for directory in ["bin/", "lib/"] {
        append(&mut tar, directory, tar::EntryType::Directory, 0o755, &[])?;
    }
    for (name, content) in files {
        append(&mut tar, name, tar::EntryType::Regular, 0o755, content)?;
    }
    for applet in APPLETS {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    append(&mut tar, "complete", tar::EntryType::Regular, 0o444, &[])?;
    tar.into_inner()
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    // No time and no names: the same files are always the same archive.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}

fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    content: &[u8],
) -> std::io::Result<()> {
    tar.append_data(&mut header(kind, mode, content.len() as u64), path, content)
}

/// A credential as it goes into a container: never the clear password.
pub(crate) struct HashedCredential {
    kind: &'static str,
    hash: String,
    key: String,
}

impl HashedCredential {
    pub(crate) async fn of(credential: &Credential) -> Result<Self, RuntimeError> {
        Ok(match credential {
            Credential::Password(password) => {
                let hash = hash(password.expose().to_owned()).await;
                let hash = hash.map_err(|error| RuntimeError::Refused(Box::new(error)))?;
                Self { kind: "password", hash, key: String::new() }
            }
            Credential::PublicKey(key) => Self { kind: "key", hash: String::new(), key: key.as_str().to_owned() },
        })
    }
}

/// What one container's `init` is given: whom to let in and how, a file each. Passwords go in hashed
/// (sha512-crypt).
pub(crate) fn access_files(
    user: &LoginUser,
    credential: &HashedCredential,
    image: &ImageConfig,
) -> Vec<(&'static str, String)> {
    let HashedCredential { kind, hash, key } = credential;
    // The image's own words go into our script's files: one line each, whatever the image says.
    let one_line = |text: Option<&str>| text.unwrap_or_default().lines().next().unwrap_or_default().to_owned();
    let signal: String = one_line(image.stop_signal.as_deref()).chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let files = [
        ("user", user.as_str().to_owned()),
        ("image-user", one_line(image.user.as_deref())),
        ("stop-signal", signal.strip_prefix("SIG").unwrap_or(&signal).to_owned()),
        ("password-hash", hash.clone()),
        ("authorized-key", key.clone()),
        // Said, not guessed from the files that are there: the image may have brought some. Last, so that
        // what it names is there.
        ("kind", (*kind).to_owned()),
    ];
    files.into_iter().map(|(name, content)| (name, format!("{content}\n"))).collect()
}

/// The same files as an archive to be unpacked at the root.
pub(crate) fn access_archive(files: &[(&'static str, String)]) -> Result<Vec<u8>, std::io::Error> {
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, ".gpurent/access/", tar::EntryType::Directory, 0o700, &[])?;
    for (name, content) in files {
        append(&mut tar, &format!(".gpurent/access/{name}"), tar::EntryType::Regular, 0o600, content.as_bytes())?;
    }
    tar.into_inner()
}

async fn hash(password: String) -> Result<String, std::io::Error> {
    // Thousands of rounds on purpose: not on the executor's threads.
    let hashed = tokio::task::spawn_blocking(move || {
        // 12 bytes are 16 letters of salt: crypt(3) reads no more, and so cannot verify a longer one.
        let salt: [u8; 12] = rand::random();
        ShaCrypt::default().hash_password_with_salt(password.as_bytes(), &salt).map(|hash| hash.to_string())
    });
    hashed.await.map_err(std::io::Error::other)?.map_err(|error| std::io::Error::other(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_are_the_same_kit() {
        let kit = |content: &str| {
            AccessKit::from_files(&BTreeMap::from([("init".to_owned(), content.as_bytes().to_vec())])).unwrap().volume()
        };
        assert_eq!(kit("a"), kit("a"));
        assert_ne!(kit("a"), kit("b"));
    }

    #[test]
    fn libraries_are_found_in_what_ldd_says() {
        assert_eq!(library_in("\tlinux-vdso.so.1 (0x00007ffd)"), None);
        assert_eq!(library_in("\tlibz.so.1 => /lib/x/libz.so.1 (0x7f)"), Some("/lib/x/libz.so.1".into()));
        assert_eq!(library_in("\t/lib64/ld-linux-x86-64.so.2 (0x7f)"), Some("/lib64/ld-linux-x86-64.so.2".into()));
    }

    #[tokio::test]
    async fn a_password_goes_in_hashed() {
        let password = gpurent_core::access::Password::new("opensesame".to_owned()).unwrap();
        let credential = Credential::Password(password);
        let credential = HashedCredential::of(&credential).await.unwrap();
        let files = access_files(&LoginUser::default(), &credential, &ImageConfig::default());
        let archive = access_archive(&files).unwrap();
        let text = String::from_utf8_lossy(&archive);
        assert!(text.contains("$6$") && !text.contains("opensesame"));
    }
}
