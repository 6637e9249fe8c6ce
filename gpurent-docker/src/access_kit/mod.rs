//! The access kit: SSH for any image, also one without a shell.
//!
//! A read-only volume with our own program (`gpurent-access`), which is every container's entry point, and OpenSSH's
//! `sshd` with its own loader and libraries. It is put together once from programs of the host (Debian:
//! `openssh-server`, `busybox-static`) and lies in a volume named after its content, so that an upgrade never changes the
//! kit under a running tenant.
//!
//! The copies of `sshd` and of the C library read their accounts and name services from files of ours
//! ([`gpurent_access::paths::RELOCATED`]): those of an image need not be there, nor be readable, nor be harmless. It is
//! done as package managers move programs that have a path compiled in
//! (<https://docs.conda.io/projects/conda-build/en/latest/resources/make-relocatable.html>).

pub(crate) mod credential;
pub(crate) mod former;
pub(crate) mod volume;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gpurent_access::paths;
use gpurent_access::paths::RELOCATED;
use memchr::memmem;
use sha2::{Digest, Sha256};
use tokio::process::Command;

/// Our own program, built for containers by this crate's build script.
const PROGRAM: &[u8] = include_bytes!(env!("GPURENT_ACCESS_PROGRAM"));

/// The names under which our program is called, beside its own.
const NAMES: [&str; 11] = [
    "session",
    "sshd-session",
    "sshd-auth",
    "sftp-server",
    "merge-path",
    "let-in",
    "announce",
    "notify",
    "access-log",
    "enter",
    "hang-up",
];

/// The tools of the static shell, for images without any.
const APPLETS: [&str; 50] = [
    "sh", "ash", "awk", "basename", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "dirname", "du", "echo",
    "env", "find", "free", "grep", "gunzip", "gzip", "head", "hostname", "id", "kill", "less", "ln", "ls", "mkdir",
    "mktemp", "mv", "ps", "pwd", "rm", "rmdir", "sed", "sleep", "sort", "stat", "tail", "tar", "tee", "test", "touch",
    "true", "uname", "vi", "wc", "wget", "which",
];

/// The configuration of `sshd` in every container; our program adds keys and who may log in.
const SSHD_CONFIG: &str = include_str!("sshd_config");

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
    /// A program of this host cannot be made independent of images, because it is built otherwise than is known.
    #[error("{program} of this host does not name {path}, so that logins would depend on what an image has there")]
    Unknown {
        /// The program or library.
        program: String,
        /// The path that was looked for in it.
        path: &'static str,
    },
    /// The crate was built without the program that runs in containers.
    #[error("this build lacks the program that runs in containers: build it where Cargo can build gpurent-access")]
    NotBuilt,
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

/// The programs that a renter's login takes.
const DYNAMIC: [(&str, Program); 3] = [
    ("sshd", Program { name: "sshd", package: "openssh-server", paths: &["/usr/sbin/sshd"] }),
    ("scp", Program { name: "scp", package: "openssh-client", paths: &["/usr/bin/scp"] }),
    (
        "sftp-server",
        Program {
            name: "sftp-server",
            package: "openssh-sftp-server",
            paths: &["/usr/lib/openssh/sftp-server", "/usr/lib/ssh/sftp-server", "/usr/libexec/openssh/sftp-server"],
        },
    ),
];

/// The programs that are taken where the host has them: the helpers of newer `sshd`, and rsync for images without.
const OPTIONAL: [(&str, &[&str]); 3] = [
    ("sshd-session", &["/usr/lib/openssh/sshd-session", "/usr/libexec/openssh/sshd-session"]),
    ("sshd-auth", &["/usr/lib/openssh/sshd-auth", "/usr/libexec/openssh/sshd-auth"]),
    ("rsync", &["/usr/bin/rsync"]),
];

/// Libraries that the C library loads by itself, on machines where they are not a part of it.
const LOADED: [&str; 2] = ["libnss_files.so.2", "libnss_dns.so.2"];

/// The words that have to be found in each file, or a login would depend on an image.
const NECESSARY: [(&str, &str); 4] = [
    ("lib/libc.so.6", "/etc/nsswitch.conf"),
    ("lib/loader", "/etc/ld.so.preload"),
    ("libexec/sshd", "/run/sshd"),
    ("lib/libc.so.6", "/etc/shadow"),
];

impl AccessKit {
    /// Puts a kit together from this host's programs.
    ///
    /// # Errors
    /// [`KitError::Missing`] names the package to install.
    pub async fn from_host() -> Result<Self, KitError> {
        if PROGRAM.is_empty() {
            return Err(KitError::NotBuilt);
        }
        let mut files = BTreeMap::new();
        files.insert("access".to_owned(), PROGRAM.to_vec());
        files.insert("bin/busybox".to_owned(), busybox().await?);
        let mut config = SSHD_CONFIG.to_owned();
        for (name, program) in &DYNAMIC {
            add(&mut files, name, &find(program)?).await?;
        }
        for (name, paths) in OPTIONAL {
            let Some(path) = paths.iter().map(Path::new).find(|path| path.is_file()) else { continue };
            add(&mut files, name, path).await?;
            let option = match name {
                "sshd-session" => "SshdSessionPath",
                "sshd-auth" => "SshdAuthPath",
                _ => continue,
            };
            config.push_str(&format!("{option} {}/{name}\n", paths::KIT));
        }
        files.insert("sshd_config".to_owned(), config.into_bytes());
        relocate(&mut files)?;
        Self::from_files(&files)
    }

    /// A kit of other files, all of them executable; `access` is what containers start with.
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

    /// A tar archive to be unpacked where the kit is mounted.
    pub(crate) fn archive(&self) -> Vec<u8> {
        self.archive.to_vec()
    }
}

/// The one file of an archive.
pub(crate) fn only_file(archive: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    let first = archive.entries()?.next();
    let mut entry = first.ok_or(std::io::ErrorKind::UnexpectedEof)??;
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut entry, &mut content)?;
    Ok(content)
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

/// Adds a program and the libraries that it is linked with.
async fn add(files: &mut BTreeMap<String, Vec<u8>>, name: &str, path: &Path) -> Result<(), KitError> {
    files.insert(format!("libexec/{name}"), read(path).await?);
    for library in libraries(path).await?.unwrap_or_default() {
        let file = library.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // The loader is the one library that is named by its full path alone.
        let file = if file.starts_with("ld-linux") { "loader".to_owned() } else { file };
        if file == "libc.so.6" {
            for loaded in LOADED {
                let beside = library.with_file_name(loaded);
                if beside.is_file() {
                    files.insert(format!("lib/{loaded}"), read(&beside).await?);
                }
            }
        }
        files.insert(format!("lib/{file}"), read(&library).await?);
    }
    Ok(())
}

/// Lets the kit's programs read what they know of accounts from files of ours.
fn relocate(files: &mut BTreeMap<String, Vec<u8>>) -> Result<(), KitError> {
    for (file, path) in NECESSARY {
        let found = files.get(file).is_some_and(|content| contains(content, &terminated(path)));
        if !found {
            return Err(KitError::Unknown { program: file.to_owned(), path });
        }
    }
    // What looks up accounts: the C library, its loader and services, and sshd itself.
    let looks_up = ["lib/libc.so", "lib/libnss_", "lib/libwrap", "lib/loader", "libexec/sshd"];
    let compiled = |name: &str| looks_up.iter().any(|beginning| name.starts_with(beginning));
    for (_, content) in files.iter_mut().filter(|(name, _)| compiled(name)) {
        for (from, to) in RELOCATED {
            replace(content, &terminated(from), &terminated(to));
        }
    }
    Ok(())
}

/// A path as it stands in a compiled program.
fn terminated(path: &str) -> Vec<u8> {
    [path.as_bytes(), b"\0"].concat()
}

fn contains(content: &[u8], wanted: &[u8]) -> bool {
    memmem::find(content, wanted).is_some()
}

/// Replaces bytes by as many others.
fn replace(content: &mut [u8], from: &[u8], to: &[u8]) {
    let found: Vec<usize> = memmem::find_iter(content, from).collect();
    for at in found {
        content[at..at + to.len()].copy_from_slice(to);
    }
}

fn archive(files: &BTreeMap<String, Vec<u8>>) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for directory in ["bin/", "lib/", "libexec/"] {
        append(&mut tar, directory, tar::EntryType::Directory, 0o755, &[])?;
    }
    for (name, content) in files {
        append(&mut tar, name, tar::EntryType::Regular, 0o755, content)?;
    }
    for applet in APPLETS {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    for name in NAMES {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, name, "access")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_are_the_same_kit() {
        let kit = |content: &str| {
            AccessKit::from_files(&BTreeMap::from([("access".to_owned(), content.as_bytes().to_vec())]))
                .unwrap()
                .volume()
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

    #[test]
    fn a_compiled_path_is_replaced_whole_or_not_at_all() {
        let mut content = b"x\0/etc/passwd\0/etc/passwd-\0/etc/nsswitch.conf\0/etc/shadow\0".to_vec();
        let mut files = BTreeMap::from([
            ("lib/libc.so.6".to_owned(), content.clone()),
            ("lib/loader".to_owned(), b"/etc/ld.so.preload\0".to_vec()),
            ("libexec/sshd".to_owned(), b"/run/sshd\0".to_vec()),
        ]);
        relocate(&mut files).unwrap();
        replace(&mut content, b"/etc/passwd\0", b"/.gp/passwd\0");
        replace(&mut content, b"/etc/nsswitch.conf\0", b"/.gp/nsswitch.conf\0");
        replace(&mut content, b"/etc/shadow\0", b"/.gp/shadow\0");
        assert_eq!(files["lib/libc.so.6"], content);
        assert!(contains(&content, b"/etc/passwd-"));
        assert_eq!(files["lib/loader"], b"/.gp/ld.so.preload\0");
        files.insert("libexec/sshd".to_owned(), Vec::new());
        assert!(matches!(relocate(&mut files), Err(KitError::Unknown { .. })), "another build of sshd");
    }
}
