//! A Docker Engine of a test's own, to be killed and started again. It lives in a network namespace of its own,
//! since a second engine in one namespace wipes the first one's firewall rules.

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::thread::{UnshareFlags, unshare_unsafe};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// Runs a test in a network namespace of its own: its processes inherit it, and loopback is its own too.
pub fn in_a_network_of_its_own<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: this thread has no other namespace's file descriptors that it would confuse, and ends with
        // the test.
        #[expect(unsafe_code, reason = "a thread enters a namespace in no other way")]
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("tests run as root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().await.unwrap();
            assert!(up.success());
            test().await;
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub struct Engine {
    directory: TempDir,
    live_restore: bool,
    dockerd: Option<Child>,
}

impl Engine {
    pub async fn start(live_restore: bool) -> Self {
        let mut this = Self { directory: tempfile::tempdir().unwrap(), live_restore, dockerd: None };
        this.go_on().await;
        // Nothing can be pulled here.
        let load = format!("docker save gpurent-test/busybox:1 | docker -H {} load", this.address());
        assert!(Command::new("sh").args(["-c", &load]).output().await.unwrap().status.success());
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn address(&self) -> String {
        format!("unix://{}", self.path("socket").display())
    }

    /// The id of the engine's process.
    pub fn pid(&self) -> u32 {
        self.dockerd.as_ref().and_then(Child::id).expect("it runs")
    }

    /// What the engine's own client says.
    pub async fn docker(&self, args: &[&str]) -> String {
        super::docker(&[&["-H", &self.address()], args].concat()).await
    }

    /// Starts it, and waits until it answers.
    pub async fn go_on(&mut self) {
        // What a killed one leaves behind.
        drop(std::fs::remove_file(self.path("pid")));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let mut dockerd = Command::new("dockerd");
        dockerd
            .args([
                "--data-root",
                &self.path("data").to_string_lossy(),
                "--exec-root",
                &self.path("exec").to_string_lossy(),
            ])
            .args(["--pidfile", &self.path("pid").to_string_lossy(), "-H", &self.address()])
            .args(self.live_restore.then_some("--live-restore"))
            .stdout(std::process::Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        self.dockerd = Some(dockerd.spawn().unwrap());
        let begun = Instant::now();
        while self.docker(&["version", "--format", "{{.Server.Version}}"]).await.is_empty() {
            let log = std::fs::read_to_string(self.path("log")).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(60), "dockerd does not come up:\n{log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// As the kernel would for want of memory: dockerd and its containerd, and neither says good-bye. Containers
    /// run on.
    pub async fn crash(&mut self) {
        let containerd = std::fs::read_to_string(self.path("exec/containerd/containerd.pid")).unwrap();
        self.dockerd.take().expect("it runs").kill().await.unwrap();
        assert!(Command::new("kill").args(["-9", containerd.trim()]).status().await.unwrap().success());
        // Their numbers may be somebody else's soon.
        for file in ["pid", "exec/containerd/containerd.pid"] {
            drop(std::fs::remove_file(self.path(file)));
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let address = self.address();
        let remove = format!("docker -H {address} ps -aq | xargs -r timeout 20 docker -H {address} rm -f");
        drop(std::process::Command::new("sh").args(["-c", &remove]).output());
        let pid = |file: &str| std::fs::read_to_string(self.path(file)).unwrap_or_default();
        for pid in [pid("pid"), pid("exec/containerd/containerd.pid")] {
            if !pid.trim().is_empty() {
                drop(std::process::Command::new("kill").arg(pid.trim()).output());
            }
        }
        if let Some(mut dockerd) = self.dockerd.take() {
            for _ in 0..100 {
                if !matches!(dockerd.try_wait(), Ok(None)) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        // Namespaces of its sandboxes stay mounted below its folder.
        let unmount = format!(
            "grep -o '{}[^ ]*' /proc/self/mounts | sort -r | xargs -r umount -l",
            self.directory.path().display()
        );
        drop(std::process::Command::new("sh").args(["-c", &unmount]).output());
    }
}
