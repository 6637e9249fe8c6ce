//! A PostgreSQL of a test's own, to be stopped, halted and set back without others noticing.

use std::path::{Path, PathBuf};
use std::process::Output;

use tempfile::TempDir;
use tokio::process::Command;

pub struct Postgres {
    directory: TempDir,
    port: u16,
}

/// Where Debian keeps the newest version's programs.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("scripts/services installs PostgreSQL");
    let newest = versions.map(|version| version.unwrap().path()).max().unwrap();
    newest.join("bin")
}

/// PostgreSQL refuses to run as root.
async fn as_postgres(program: &str, args: &[&str]) -> Output {
    let program = programs().join(program);
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]).arg(program).args(args);
    command.current_dir("/").output().await.unwrap()
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Postgres {
    pub async fn start() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let this = Self { directory, port: super::free_port() };
        let data = this.data();
        succeeded(
            &as_postgres(
                "initdb",
                &["-D", &data, "-U", "gpurent", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"],
            )
            .await,
        );
        this.go_on().await;
        succeeded(
            &as_postgres("createdb", &["-h", "127.0.0.1", "-p", &this.port.to_string(), "-U", "gpurent", "gpurent"])
                .await,
        );
        this
    }

    fn data(&self) -> String {
        self.directory.path().join("data").to_string_lossy().into_owned()
    }

    pub fn url(&self) -> String {
        format!("postgres://gpurent@127.0.0.1:{}/gpurent", self.port)
    }

    /// Starts it, and waits until it answers.
    pub async fn go_on(&self) {
        let options = format!("-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories=''", self.port);
        let (data, log) = (self.data(), format!("{}/log", self.directory.path().display()));
        succeeded(&as_postgres("pg_ctl", &["-D", &data, "-l", &log, "-w", "-s", "-o", &options, "start"]).await);
    }

    /// As a crash: without a shutdown checkpoint, in the middle of whatever it did.
    pub async fn crash(&self) {
        succeeded(&as_postgres("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-s", "-w", "stop"]).await);
    }

    /// Stops all of its processes where they are, or lets them go on.
    pub async fn signal(&self, signal: &str) {
        let pid_file = std::fs::read_to_string(Path::new(&self.data()).join("postmaster.pid")).unwrap();
        let postmaster = pid_file.lines().next().unwrap().to_owned();
        let children = Command::new("pgrep").args(["-P", &postmaster]).output().await.unwrap();
        let children = String::from_utf8_lossy(&children.stdout).into_owned();
        for pid in std::iter::once(postmaster.as_str()).chain(children.lines()) {
            // One that has just ended needs no signal.
            drop(Command::new("kill").args([&format!("-{signal}"), pid]).output().await.unwrap());
        }
    }

    /// Everything of ours, as SQL that makes it again.
    pub async fn dump(&self) -> String {
        succeeded(
            &as_postgres("pg_dump", &["--dbname", &self.url(), "--schema", "gpurent", "--clean", "--if-exists"]).await,
        )
    }

    /// Sets everything back to a dump.
    pub async fn restore(&self, dump: &str) {
        let file = self.directory.path().join("dump.sql");
        std::fs::write(&file, format!("DROP SCHEMA gpurent CASCADE;\n{dump}")).unwrap();
        let file = file.to_string_lossy().into_owned();
        succeeded(&as_postgres("psql", &["--dbname", &self.url(), "-q", "-v", "ON_ERROR_STOP=1", "-f", &file]).await);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A test may have failed while it was halted.
        let pid_file = std::fs::read_to_string(Path::new(&self.data()).join("postmaster.pid")).unwrap_or_default();
        if let Some(postmaster) = pid_file.lines().next() {
            drop(std::process::Command::new("pkill").args(["-CONT", "-P", postmaster]).output());
            drop(std::process::Command::new("kill").args(["-CONT", postmaster]).output());
        }
        let pg_ctl = programs().join("pg_ctl");
        let mut stop = std::process::Command::new("setpriv");
        stop.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]).arg(pg_ctl);
        // It may be stopped already; the folder goes either way.
        drop(stop.args(["-D", &self.data(), "-m", "immediate", "-s", "stop"]).current_dir("/").output());
    }
}
