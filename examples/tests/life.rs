//! How rentals end on real parts, and what they cost.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{Machine, docker, request};

/// Microseconds since 1970 of a time in RFC 3339.
fn micros(time: &Value) -> i64 {
    time.as_str().unwrap_or_else(|| panic!("{time} is a time")).parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn an_interactive_shell_dies_when_its_time_is_over_and_is_billed_by_dockers_clock() {
    let machine = Machine::new("simulated:1:RTX 5090");
    let _host = machine.start().await;
    let since = jiff::Timestamp::now().as_second().to_string();
    let id = machine.rent(&request("gpurent-test/debian:12", "4s")).await;
    let ready = machine.until(&id, &["ready"], SOON).await;
    let container = ready["container_id"].as_str().unwrap().to_owned();
    let started = docker(&["inspect", "--format", "{{.State.StartedAt}}", &container]).await;
    assert_eq!(micros(&ready["started_at"]), micros(&json!(started)), "Docker's own start");
    assert_eq!(micros(&ready["expires_at"]) - micros(&ready["started_at"]), 4_000_000);

    let ended = machine.until(&id, &["expired"], SOON).await;
    machine.assert_clean().await;
    let until = (jiff::Timestamp::now().as_second() + 1).to_string();
    let died = docker(&[
        "events",
        "--since",
        &since,
        "--until",
        &until,
        "--filter",
        &format!("container={container}"),
        "--filter",
        "event=die",
        "--format",
        "{{.TimeNano}}",
    ])
    .await;
    let died = died.parse::<i64>().unwrap() / 1000;
    let late = died - micros(&ended["expires_at"]);
    assert!((0..1_000_000).contains(&late), "dead {late} µs after the end of the paid time");
    let finished = micros(&ended["exit"]["finished_at"]);
    assert!((died - finished).abs() < 500_000, "recorded {finished}, died {died}");

    let segment = &ended["segments"][0];
    assert_eq!(micros(&segment["started_at"]), micros(&json!(started)));
    assert_eq!(micros(&segment["ended_at"]), finished.min(micros(&ended["expires_at"])));
    assert_eq!(ended["bill"]["used_micros"], micros(&segment["ended_at"]) - micros(&segment["started_at"]));
    // 4 s of 3.60 an hour, filled up to a minute.
    assert_eq!(ended["bill"]["total"], 60_000);
}

#[tokio::test]
async fn a_cancel_is_billed_to_dockers_own_finish() {
    let machine = Machine::new("simulated:1:RTX 5090");
    let _host = machine.start().await;
    let id = machine.rent(&request("gpurent-test/shellless:1", "1h")).await;
    let ready = machine.until(&id, &["ready"], SOON).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    machine.cancel(&id).await;
    let ended = machine.until(&id, &["terminated"], SOON).await;
    assert_eq!(ended["segments"][0]["ended_at"], ended["exit"]["finished_at"]);
    assert_eq!(ended["segments"][0]["started_at"], ready["started_at"]);
    assert_eq!(ended["exit"]["code"], 143, "its program was asked, not killed");
    machine.assert_clean().await;
}

#[tokio::test]
async fn what_never_becomes_ready_fails_with_its_reason_and_costs_nothing() {
    let machine = Machine::new("simulated:1:RTX 5090");
    let _host = machine.start().await;
    let id = machine.rent(&request("gpurent-test/exits:1", "1h")).await;
    let failed = machine.until(&id, &["failed", "terminated"], SOON).await;
    // SSH may greet before the program is gone: then the rental was ready for a moment, and ended by itself.
    if failed["state"] == "failed" {
        assert_eq!(failed["end"]["failure"]["kind"], "exited_early");
        assert!(failed["end"]["failure"]["log_tail"].to_string().contains("last words"), "{failed}");
        assert_eq!(failed["bill"]["total"], 0);
    }
    machine.assert_clean().await;

    // A registry that is away is nobody's fault, and may come back.
    let id = machine.rent(&request("127.0.0.1:9/no/such:image", "1h")).await;
    let begun = std::time::Instant::now();
    while machine.show(&id).await["waiting"]["tries"].as_u64().is_none_or(|tries| tries < 2) {
        assert!(begun.elapsed() < SOON, "{}", machine.show(&id).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let waiting = machine.show(&id).await;
    assert_eq!(waiting["state"], "provisioning");
    assert!(waiting["waiting"]["message"].as_str().unwrap().contains("127.0.0.1:9/no/such:image"), "{waiting}");
    machine.cancel(&id).await;
    machine.until(&id, &["terminated"], SOON).await;
    machine.assert_clean().await;
    let registry = std::env::var("GPURENT_TEST_REGISTRY").expect("GPURENT_TEST_REGISTRY: run scripts/test");
    let none = format!("{registry}/no/such:image");
    let id = machine.rent(&request(&none, "1h")).await;
    let failed = machine.until(&id, &["failed"], SOON).await;
    assert_eq!(failed["end"]["failure"]["kind"], "image_unavailable");
    assert!(failed["end"]["message"].as_str().unwrap().contains(&none), "{failed}");
    assert_eq!((&failed["bill"]["total"], &failed["end"]["fault"]), (&json!(0), &json!("renter")));
    machine.assert_clean().await;
    // And the GPU can be had again.
    let id = machine.rent(&request("gpurent-test/busybox:1", "2s")).await;
    machine.until(&id, &["expired"], SOON).await;
    machine.assert_clean().await;
}

#[tokio::test]
async fn ssh_that_never_answers_fails_the_rental_with_its_last_words() {
    let mut machine = Machine::new("simulated:1:RTX 5090");
    machine.access_timeout = "2s".to_owned();
    let _host = machine.start().await;
    let id = machine.rent(&request("gpurent-test/mute:3", "1h")).await;
    let failed = machine.until(&id, &["failed", "ready"], SOON).await;
    assert_eq!(failed["end"]["failure"]["kind"], "access_timeout", "{failed}");
    // With a NUL in its output, which a database would refuse.
    assert!(failed["end"]["failure"]["log_tail"].to_string().contains("last words"), "{failed}");
    assert_eq!((&failed["bill"]["total"], &failed["end"]["fault"]), (&json!(0), &json!("host")));
    machine.assert_clean().await;
}

#[tokio::test]
async fn a_killed_container_ends_its_rental() {
    let machine = Machine::new("simulated:1:RTX 5090");
    let _host = machine.start().await;
    let id = machine.rent(&request("gpurent-test/busybox:1", "1h")).await;
    let ready = machine.until(&id, &["ready"], SOON).await;
    docker(&["kill", ready["container_id"].as_str().unwrap()]).await;
    let ended = machine.until(&id, &["terminated"], Duration::from_secs(5)).await;
    assert_eq!(ended["exit"]["code"], 137);
    machine.assert_clean().await;

    let id = machine.rent(&request("gpurent-test/busybox:1", "1h")).await;
    let ready = machine.until(&id, &["ready"], SOON).await;
    docker(&["rm", "-f", ready["container_id"].as_str().unwrap()]).await;
    let ended = machine.until(&id, &["terminated"], Duration::from_secs(5)).await;
    assert!(ended["end"]["message"].as_str().unwrap().contains("disappeared"), "{ended}");
    machine.assert_clean().await;
}

#[tokio::test]
async fn a_cancel_during_a_stalled_pull_frees_the_gpu() {
    let machine = Machine::new("simulated:1:RTX 5090");
    let _host = machine.start().await;
    let (image, stalling) = support::silent_registry().await;
    let id = machine.rent(&request(&image, "1h")).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(machine.show(&id).await["state"], "provisioning");
    machine.cancel(&id).await;
    machine.until(&id, &["terminated"], Duration::from_secs(2)).await;
    machine.assert_clean().await;
    let next = machine.rent(&request("gpurent-test/busybox:1", "1h")).await;
    machine.until(&next, &["ready"], SOON).await;
    machine.cancel(&next).await;
    machine.until(&next, &["terminated"], SOON).await;
    stalling.abort();
}

#[tokio::test]
async fn a_shutdown_leaves_tenants_running_and_the_next_start_finds_them() {
    let machine = Machine::new("simulated:1:RTX 5090");
    let mut host = machine.start().await;
    let id = machine.rent(&request("gpurent-test/busybox:1", "1h")).await;
    let before = machine.until(&id, &["ready"], SOON).await;
    host.terminate().await;
    assert_eq!(machine.containers().await.len(), 1);
    let _host = machine.start().await;
    let after = machine.show(&id).await;
    assert_eq!((&after["state"], &after["container_id"]), (&json!("ready"), &before["container_id"]));
    machine.cancel(&id).await;
    machine.until(&id, &["terminated"], SOON).await;
    machine.assert_clean().await;
}
