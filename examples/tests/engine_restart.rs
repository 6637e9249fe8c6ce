//! The engine is killed with its containerd under a running host, and comes back.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::time::Duration;

use serde_json::json;
use support::engine::{Engine, in_a_network_of_its_own};
use support::{Machine, request};

const SOON: Duration = Duration::from_secs(40);

/// A host on this engine, and a rental that is ready.
async fn host_on(engine: &Engine) -> Machine {
    let mut machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    machine.docker = engine.address();
    machine
}

#[test]
fn with_live_restore_a_rental_does_not_notice() {
    in_a_network_of_its_own(|| async {
        let mut engine = Engine::start(true).await;
        let machine = host_on(&engine).await;
        let _host = machine.start().await;
        let id = machine.rent(&request("gpurent-test/busybox:1", "1h")).await;
        let rental = machine.until(&id, &["ready"], SOON).await;
        let container = rental["container_id"].as_str().unwrap().to_owned();
        engine.crash().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(machine.show(&id).await["state"], "ready", "nothing is concluded from silence");
        engine.go_on().await;
        tokio::time::sleep(Duration::from_secs(8)).await;
        let after = machine.show(&id).await;
        assert_eq!(
            (&after["state"], &after["container_id"]),
            (&json!("ready"), &json!(container)),
            "{}",
            machine.log()
        );
        assert_eq!(after["segments"], rental["segments"], "one segment, without a break");
        assert_eq!(engine.docker(&["inspect", "--format", "{{.State.Running}}", &container]).await, "true");
        machine.cancel(&id).await;
        machine.until(&id, &["terminated"], SOON).await;
        machine.assert_clean().await;
    });
}

/// The host's process dies, the engine dies, its GPU is another's: a renter who comes back finds what was left.
#[test]
fn a_suspended_rentals_files_outlive_host_and_engine() {
    in_a_network_of_its_own(|| async {
        let mut engine = Engine::start(false).await;
        let mut machine = Machine::new("simulated:2:RTX 5090").on_sqlite();
        machine.docker = engine.address();
        let mut host = machine.start().await;
        let id = machine.rent(&request("gpurent-test/busybox:1", "1h")).await;
        let ready = machine.until(&id, &["ready"], SOON).await;
        let inside = |rental: &serde_json::Value| rental["container_id"].as_str().unwrap().to_owned();
        let write = ["exec", &inside(&ready), "sh", "-c", "echo forty-two > /root/thesis.txt"];
        engine.docker(&write).await;
        machine.post(&format!("/v1/rentals/{id}/suspend"), &json!({})).await;
        let suspended = machine.until(&id, &["suspended"], SOON).await;
        assert_eq!(suspended["suspension"]["files_kept"], true, "{suspended}");
        host.kill().await;
        engine.crash().await;
        engine.go_on().await;
        let _host = machine.start().await;
        let other = machine.rent(&request("gpurent-test/busybox:1", "1h")).await;
        let other_ready = machine.until(&other, &["ready"], SOON).await;
        assert_eq!(other_ready["gpus"], ready["gpus"], "its GPU is another's by now");
        let (status, resumed) = machine.post(&format!("/v1/rentals/{id}/resume"), &json!({})).await;
        assert!(status == 200 || status == 202, "{resumed}");
        let again = machine.until(&id, &["ready"], SOON).await;
        assert_ne!(again["gpus"], ready["gpus"]);
        assert_eq!(again["files"], "copied", "{again}");
        assert_eq!(engine.docker(&["exec", &inside(&again), "cat", "/root/thesis.txt"]).await, "forty-two");
        for rental in [&id, &other] {
            machine.cancel(rental).await;
            machine.until(rental, &["terminated"], SOON).await;
        }
        machine.assert_clean().await;
    });
}

#[test]
fn without_it_a_rental_ends_when_its_container_did() {
    in_a_network_of_its_own(|| async {
        let mut engine = Engine::start(false).await;
        let machine = host_on(&engine).await;
        let _host = machine.start().await;
        let id = machine.rent(&request("gpurent-test/busybox:1", "1h")).await;
        let rental = machine.until(&id, &["ready"], SOON).await;
        engine.crash().await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        engine.go_on().await;
        let ended = machine.until(&id, &["terminated"], SOON).await;
        assert_eq!(ended["segments"].as_array().unwrap().len(), 1);
        assert_eq!(ended["segments"][0]["started_at"], rental["started_at"]);
        assert_eq!(ended["segments"][0]["ended_at"], ended["exit"]["finished_at"], "{ended}");
        machine.assert_clean().await;
        let again = machine.rent(&request("gpurent-test/busybox:1", "1h")).await;
        machine.until(&again, &["ready"], SOON).await;
        machine.cancel(&again).await;
        machine.until(&again, &["terminated"], SOON).await;
        machine.assert_clean().await;
    });
}
