//! What a renter finds after a suspension: files, volumes and access, on the same GPU and on another.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::time::Duration;

use gpurent_core::id::{Attempt, LaunchId};
use gpurent_core::memory::SimulatedGpus;
use gpurent_core::model::port::SSH;
use gpurent_core::model::{Files, PortBinding};
use gpurent_core::runtime::{ContainerRuntime, LaunchSpec, RuntimeError};
use support::image::Image;
use support::{Silent, Tenant, docker, free_port, launch, password, secrets};

const THESIS: &str = "echo forty-two > /root/thesis.txt; echo kept > /data/kept; busybox chown 33:33 /root/thesis.txt";
const READ: &str = "cat /root/thesis.txt /data/kept; busybox stat -c %u /root/thesis.txt";

impl Tenant {
    async fn suspended(&self) {
        self.runtime.stop(self.launch.id, Duration::from_secs(2)).await.unwrap();
        assert!(self.runtime.retain(self.launch.id).await.unwrap().is_some());
    }

    fn next(&self) -> LaunchSpec {
        LaunchSpec { id: self.launch.id.next(), carries_files: true, ..self.launch.clone() }
    }

    async fn resumed(self, launch: LaunchSpec) -> (Self, Files) {
        self.runtime.prepare(&launch, None, &Silent).await.unwrap();
        let created = self.runtime.create(&launch, &secrets(&password())).await.unwrap();
        self.runtime.start(&launch).await.unwrap();
        self.runtime.verify(&launch, Duration::from_secs(20)).await.unwrap();
        (Self { launch, container: created.container.to_string(), ..self }, created.files)
    }
}

/// Another GPU, and other ports.
fn elsewhere(launch: LaunchSpec) -> LaunchSpec {
    let gpus = SimulatedGpus::new(&launch.host, 2, "RTX 5090".parse().unwrap()).gpus()[1..].to_vec();
    LaunchSpec { gpus, ports: vec![PortBinding::tcp(SSH, free_port())], ..launch }
}

async fn comes_back(bind: bool) {
    let name = format!("retained-{bind}");
    let image =
        Image::busybox(&name).folder("data", 0o755, 0).says("VOLUME /data").says("CMD [\"/bin/sh\"]").made().await;
    let tenant = Tenant::up_with(launch(&image), &password(), bind).await;
    tenant.says(THESIS).await;
    let first = tenant.container.clone();
    tenant.suspended().await;
    // Unused images go, and the registry may have forgotten the name.
    docker(&["rmi", "--no-prune", &image]).await;
    docker(&["image", "prune", "--force"]).await;
    let next = tenant.next();
    let (tenant, files) = tenant.resumed(next).await;
    assert_eq!((files, &tenant.container), (Files::Same, &first));
    assert_eq!(tenant.says(READ).await, "forty-two\nkept\n33");
    tenant.suspended().await;
    // Twice elsewhere, so that what was copied is copied again.
    let next = elsewhere(tenant.next());
    let (tenant, files) = tenant.resumed(next).await;
    assert_eq!(files, Files::Copied);
    assert_eq!(tenant.says(READ).await, "forty-two\nkept\n33");
    // As the host does once the new one is recorded.
    tenant.runtime.remove(LaunchId { attempt: Attempt::new(2), ..tenant.launch.id }).await.unwrap();
    assert_eq!(tenant.says(READ).await, "forty-two\nkept\n33", "its volume is not the old one's alone");
    let gpu = docker(&["inspect", "--format", "{{json .HostConfig.DeviceRequests}}", &tenant.container]).await;
    assert!(gpu.contains(tenant.launch.gpus[0].uuid.as_str()), "{gpu}");
    tenant.says("echo more >> /root/thesis.txt").await;
    tenant.suspended().await;
    let next = elsewhere(tenant.next());
    let (tenant, files) = tenant.resumed(LaunchSpec { gpus: Vec::new(), ..next }).await;
    assert_eq!(files, Files::Copied);
    assert_eq!(tenant.says("cat /root/thesis.txt /data/kept").await, "forty-two\nmore\nkept");
    tenant.runtime.remove(LaunchId { attempt: Attempt::new(3), ..tenant.launch.id }).await.unwrap();
    let (rental, volumes) = (tenant.launch.id.rental, docker(&["volume", "ls", "-q"]).await);
    let mine = docker(&["inspect", "--format", "{{range .Mounts}}{{.Name}} {{end}}", &tenant.container]).await;
    let volume = mine.split_whitespace().find(|name| name.len() == 64).unwrap().to_owned();
    assert!(volumes.contains(&volume));
    tenant.gone().await;
    let left = docker(&["ps", "-aq", "--filter", &format!("label=io.gpurent.rental={rental}")]).await;
    assert_eq!(left, "", "no container is left");
    let left = docker(&["images", "-q", "--filter", &format!("label=io.gpurent.files-of={rental}")]).await;
    assert_eq!(left, "", "and no copy");
    assert!(!docker(&["volume", "ls", "-q"]).await.contains(&volume), "and no volume");
}

#[tokio::test]
async fn what_a_renter_wrote_is_there_after_a_suspension() {
    comes_back(true).await;
}

#[tokio::test]
async fn so_it_is_where_credentials_are_uploaded() {
    comes_back(false).await;
}

/// Other programs remove networks and folders in memory that nobody uses at the moment.
#[tokio::test]
async fn a_container_that_cannot_be_started_as_it_is_hands_its_files_on() {
    let tenant = Tenant::up_with(launch("gpurent-test/busybox:1"), &password(), true).await;
    tenant.says("echo forty-two > /root/thesis.txt").await;
    tenant.suspended().await;
    let uploads = support::runtime().await;
    let tenant = Tenant { runtime: uploads, ..tenant };
    let next = tenant.next();
    let (tenant, files) = tenant.resumed(next).await;
    assert_eq!(files, Files::Copied, "the credentials' folder is in it");
    assert_eq!(tenant.says("cat /root/thesis.txt").await, "forty-two");
    tenant.gone().await;
}

/// The engine opens that file at each start; a pipe there would block it for ever, with all that it holds.
#[tokio::test]
async fn a_trap_in_a_suspended_container_is_not_stepped_into() {
    let tenant = Tenant::ready(launch("gpurent-test/busybox:1")).await;
    // Whatever looks up a name now waits for ever: so would the session, if it did more.
    let trap = tenant.says("busybox rm -f /etc/passwd && busybox mkfifo /etc/passwd && echo set").await;
    assert_eq!(trap, "set");
    tenant.suspended().await;
    for next in [tenant.next(), LaunchSpec { id: tenant.launch.id.next().next(), ..elsewhere(tenant.next()) }] {
        let brought_up = async {
            tenant.runtime.prepare(&next, None, &Silent).await?;
            tenant.runtime.create(&next, &secrets(&password())).await
        };
        let refused = brought_up.await;
        assert!(matches!(refused, Err(RuntimeError::NoLogin { by_image: true, .. })), "{refused:?}");
    }
    let copies =
        docker(&["images", "-q", "--filter", &format!("label=io.gpurent.files-of={}", tenant.launch.id.rental)]).await;
    assert_eq!(copies, "", "nothing was copied");
    let last = tenant.launch.id.next().next();
    tenant.runtime.remove(last).await.unwrap();
    assert!(tenant.runtime.observe(&tenant.launch.host).await.unwrap().containers.is_empty());
}

/// A stopped container that somebody starts by hand is stopped again, and is nobody's launch meanwhile.
#[tokio::test]
async fn what_somebody_starts_by_hand_is_put_away_again() {
    let tenant = Tenant::ready(launch("gpurent-test/busybox:1")).await;
    tenant.suspended().await;
    docker(&["start", &tenant.container]).await;
    let seen = tenant.runtime.observe(&tenant.launch.host).await.unwrap();
    assert!(seen.containers.iter().all(|seen| seen.retained), "{seen:?}");
    for _ in 0..3 {
        // The first call says that it was running.
        drop(tenant.runtime.retain(tenant.launch.id).await);
    }
    assert_eq!(docker(&["inspect", "--format", "{{.State.Running}}", &tenant.container]).await, "false");
    tenant.gone().await;
}
