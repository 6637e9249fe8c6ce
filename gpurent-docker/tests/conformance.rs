//! Docker passes the suite that the fake engine passes.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use gpurent_core::model::Credential;
use gpurent_core::runtime::LaunchSpec;
use gpurent_core::testing::runtime_suite::{Fixture, RenterView};
use support::{docker, is_among, text};
use tokio::process::Command;

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(test);
}

/// The longest time that a container may take to show what was done in it.
const SHOWN_WITHIN: Duration = Duration::from_secs(3);

/// Sees a container as its renter does by SSH, and as Docker's own client tells.
struct ByOthers;

async fn ssh(launch: &LaunchSpec, credential: &Credential) -> Output {
    let Credential::Password(password) = credential else { panic!("the suite logs in by passwords") };
    let port = launch.ssh_port().unwrap().to_string();
    let to = format!("{}@127.0.0.1", launch.login.as_str());
    let options = ["-e", "ssh", "-o", "PubkeyAuthentication=no", "-o", "StrictHostKeyChecking=no", "-o"];
    let mut ssh = Command::new("sshpass");
    ssh.env("SSHPASS", password.expose()).args(options);
    ssh.args(["UserKnownHostsFile=/dev/null", "-p", &port, &to, "true"]).output().await.unwrap()
}

async fn container(launch: &LaunchSpec) -> String {
    docker(&["ps", "-q", "--filter", &format!("label=io.gpurent.rental={}", launch.id.rental)]).await
}

/// Whether what Docker's client prints becomes so within [`SHOWN_WITHIN`].
async fn soon(command: &[&str], is_so: fn(&str, &str) -> bool, line: &str) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < SHOWN_WITHIN {
        let output = Command::new("docker").args(command).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        if is_so(&text(&output), line) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

fn has_line(printed: &str, line: &str) -> bool {
    printed.lines().any(|printed| printed == line)
}

#[async_trait]
impl RenterView for ByOthers {
    async fn gets_in(&self, launch: &LaunchSpec, credential: &Credential) -> bool {
        let output = ssh(launch, credential).await;
        match output.status.code() {
            Some(0) => true,
            // sshpass(1): the password was refused.
            Some(5) => false,
            _ => panic!("nobody can tell: {output:?}"),
        }
    }

    async fn reads(&self, launch: &LaunchSpec) -> String {
        docker(&["exec", &container(launch).await, "cat", "/.gpurent/notice"]).await
    }

    async fn program_ends(&self, launch: &LaunchSpec) -> bool {
        let container = container(launch).await;
        soon(&["top", &container, "-eo", "pid,args"], |printed, program| !is_among(printed, program), "sh").await
    }

    async fn print(&self, launch: &LaunchSpec, line: &str) {
        let container = container(launch).await;
        docker(&["exec", &container, "sh", "-c", &format!("echo {line} >/proc/1/fd/1")]).await;
        assert!(soon(&["logs", &container], has_line, line).await, "{line} was printed");
    }
}

gpurent_core::runtime_suite!(block_on, || async {
    Fixture {
        runtime: Arc::new(support::runtime().await),
        image: "gpurent-test/busybox:1".parse().unwrap(),
        ssh_port: support::free_port(),
        renter: Arc::new(ByOthers),
    }
});
