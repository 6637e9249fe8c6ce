//! Images as people bring them, made for a test: a file system of a few files, and what a Dockerfile would say.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// An image that is being put together.
pub struct Image {
    name: String,
    tar: tar::Builder<Vec<u8>>,
    dockerfile: String,
    architecture: Option<&'static str>,
}

fn header(kind: tar::EntryType, mode: u32, owner: u64, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_size(size as u64);
    header
}

impl Image {
    /// An image without any file.
    pub fn empty(name: &str) -> Self {
        let name = format!("gpurent-test/way-in-{name}:1");
        Self { name, tar: tar::Builder::new(Vec::new()), dockerfile: String::new(), architecture: None }
    }

    /// An image with busybox and its usual names.
    pub fn busybox(name: &str) -> Self {
        let busybox = std::fs::read("/bin/busybox").unwrap();
        let mut image = Self::empty(name).file("bin/busybox", 0o755, &busybox);
        for applet in
            ["sh", "sleep", "id", "cat", "echo", "env", "ls", "nc", "kill", "pwd", "grep", "ps", "printf", "stat"]
        {
            image = image.link(&format!("bin/{applet}"), "busybox");
        }
        image
    }

    /// Adds a file.
    pub fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = header(tar::EntryType::Regular, mode, 0, content.len());
        self.tar.append_data(&mut header, path, content).unwrap();
        self
    }

    /// Adds a folder with an owner.
    pub fn folder(mut self, path: &str, mode: u32, owner: u64) -> Self {
        let mut header = header(tar::EntryType::Directory, mode, owner, 0);
        self.tar.append_data(&mut header, path, [].as_slice()).unwrap();
        self
    }

    /// Adds a symbolic link.
    pub fn link(mut self, path: &str, to: &str) -> Self {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0, 0);
        self.tar.append_link(&mut header, path, to).unwrap();
        self
    }

    /// Adds a line as a Dockerfile has it.
    pub fn says(mut self, line: &str) -> Self {
        self.dockerfile.push_str(line);
        self.dockerfile.push('\n');
        self
    }

    /// Says that it is for another kind of processor.
    pub fn for_architecture(mut self, architecture: &'static str) -> Self {
        self.architecture = Some(architecture);
        self
    }

    /// Makes the image; gives its name.
    pub async fn made(self) -> String {
        let base = format!("{}-base", self.name);
        let layer = self.tar.into_inner().unwrap();
        pipe(Command::new("docker").args(["import", "-", &base]), &layer).await;
        let dockerfile = format!("FROM {base}\n{}", self.dockerfile);
        let mut build = Command::new("docker");
        build.env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", &self.name, "-"]);
        pipe(&mut build, dockerfile.as_bytes()).await;
        if let Some(architecture) = self.architecture {
            // The engine makes images for itself alone; what it saved can be told to be for another.
            let saved = pipe(Command::new("docker").args(["save", &self.name]), b"").await;
            pipe(Command::new("docker").args(["rmi", &self.name]), b"").await;
            pipe(Command::new("docker").args(["load", "-q"]), &said_to_be_for(&saved, architecture)).await;
        }
        self.name
    }
}

/// A saved image whose configuration names another kind of processor.
fn said_to_be_for(saved: &[u8], architecture: &str) -> Vec<u8> {
    let mut changed = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(saved).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        if path.extension().is_some_and(|kind| kind == "json") {
            let text = String::from_utf8(content).unwrap();
            content = text.replace(r#""architecture":"amd64""#, &format!(r#""architecture":"{architecture}""#)).into();
        }
        let mut header = entry.header().clone();
        header.set_size(content.len() as u64);
        changed.append_data(&mut header, path, content.as_slice()).unwrap();
    }
    changed.into_inner().unwrap()
}

async fn pipe(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input).await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A key pair in a folder: the path of the private half, and the public one.
pub async fn key_pair(folder: &std::path::Path, kind: &[&str]) -> (PathBuf, String) {
    let path = folder.join(format!("id-{}", kind.join("-")));
    let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-t"]).args(kind).arg("-f").arg(&path).output().await;
    let made = made.unwrap();
    assert!(made.status.success(), "{made:?}");
    let public = std::fs::read_to_string(path.with_extension("pub")).unwrap();
    (path, public)
}
