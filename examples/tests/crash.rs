//! kill -9 at every boundary between an effect and its record, then a restart: the same container goes
//! on, or a clean end; never two, never a leak.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::time::Duration;

use serde_json::json;
use support::{Machine, docker, request, ssh, text};

const SOON: Duration = Duration::from_secs(30);

/// Dies on the way up; after the restart the rental becomes ready with one container.
async fn on_the_way_up(failpoint: &str, machine: Machine) {
    let mut host = machine.start_doomed(failpoint).await;
    let body = {
        let mut body = request("gpurent-test/busybox:1", "1h");
        body["name"] = json!("survivor");
        body
    };
    // The answer may be lost with the process; a retry under the same name finds the rental.
    drop(machine.client.post(machine.url("/v1/rentals")).json(&body).send().await);
    host.died().await;
    let before = machine.containers().await;
    assert!(before.len() <= 1, "{before:?}");

    let _host = machine.start().await;
    let (status, rental) = machine.post("/v1/rentals", &body).await;
    assert_eq!(status, 200, "a retry is not a second rental: {rental}");
    let id = rental["id"].as_str().unwrap();
    let ready = machine.until(id, &["ready"], SOON).await;
    let after = machine.containers().await;
    assert_eq!(after.len(), 1, "{after:?}");
    if !before.is_empty() {
        assert_eq!(before, after, "the same container goes on");
    }
    let started =
        docker(&["inspect", "--format", "{{.State.StartedAt}}", ready["container_id"].as_str().unwrap()]).await;
    let started: jiff::Timestamp = started.parse().unwrap();
    let billed: jiff::Timestamp = ready["segments"][0]["started_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(billed.as_microsecond(), started.as_microsecond(), "billing starts with the container");
    machine.cancel(id).await;
    machine.until(id, &["terminated"], SOON).await;
    machine.assert_clean().await;
}

/// Dies on the way down; after the restart the end is finished, and billed by Docker's record.
async fn on_the_way_down(failpoint: &str, machine: Machine) {
    let mut host = machine.start_doomed(failpoint).await;
    let id = machine.rent(&request("gpurent-test/busybox:1", "1h")).await;
    machine.until(&id, &["ready"], SOON).await;
    machine.cancel(&id).await;
    host.died().await;

    let _host = machine.start().await;
    let ended = machine.until(&id, &["terminated"], SOON).await;
    assert_eq!(ended["segments"].as_array().unwrap().len(), 1);
    assert_eq!(ended["segments"][0]["ended_at"], ended["exit"]["finished_at"]);
    machine.assert_clean().await;
}

/// Dies while a running rental is told or changed something; after the restart that is done, to the same
/// container.
async fn while_it_runs(failpoint: &str, machine: Machine) {
    let mut host = machine.start_doomed(failpoint).await;
    // Long enough to be warned while we look, short enough to be warned soon: at a quarter before the end.
    let duration = if failpoint.starts_with("warned") { "40s" } else { "1h" };
    let id = machine.rent(&request("gpurent-test/busybox:1", duration)).await;
    let ready = machine.until(&id, &["ready"], SOON).await;
    let path = format!("/v1/rentals/{id}/access");
    if failpoint.starts_with("access") {
        let change = machine.client.put(machine.url(&path)).json(&json!({"password": "another-canary-4712"}));
        // The answer may be lost with the process.
        drop(change.send().await);
    }
    host.died().await;
    let before = machine.containers().await;

    let _host = machine.start().await;
    assert_eq!(machine.containers().await, before);
    if failpoint.starts_with("access") {
        let port = ready["ports"][0]["host"].as_u64().unwrap();
        let begun = std::time::Instant::now();
        while machine.get(&path).await["pending"] == true {
            assert!(begun.elapsed() < SOON, "{}", machine.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(text(&ssh(port, "root", "another-canary-4712", "echo in").await), "in");
        assert_ne!(text(&ssh(port, "root", "canary-password-4711", "echo in").await), "in");
        machine.cancel(&id).await;
    } else {
        let events = machine.get(&format!("/v1/events?rental={id}&limit=500")).await;
        let told = |kind: &str| events["events"].as_array().unwrap().iter().filter(|e| e["type"] == kind).count();
        assert!(told("warned") <= 1);
        let port = ready["ports"][0]["host"].as_u64().unwrap();
        let notice = ssh(port, "root", "canary-password-4711", "cat /.gpurent/notice").await;
        assert!(text(&notice).starts_with("This rental ends at"), "{notice:?}");
    }
    let ended = machine.until(&id, &["terminated", "expired"], Duration::from_secs(60)).await;
    assert_eq!(ended["segments"].as_array().unwrap().len(), 1);
    machine.assert_clean().await;
}

/// Dies while it adopts what its database has lost; after the restart the same container goes on.
async fn while_it_adopts(failpoint: &str, machine: Machine) {
    let mut host = machine.start().await;
    let id = machine.rent(&request("gpurent-test/busybox:1", "1h")).await;
    let ready = machine.until(&id, &["ready"], SOON).await;
    let before = machine.containers().await;
    host.kill().await;
    machine.forget_everything().await;
    machine.start_doomed_at_once(failpoint).died().await;
    assert_eq!(machine.containers().await, before);

    let _host = machine.start().await;
    let adopted = machine.until(&id, &["ready"], SOON).await;
    assert_eq!((&adopted["container_id"], &adopted["segments"]), (&ready["container_id"], &ready["segments"]));
    assert_eq!(machine.containers().await, before);
    machine.cancel(&id).await;
    machine.until(&id, &["terminated"], SOON).await;
    machine.assert_clean().await;
}

/// Dies while it suspends or resumes; after the restart that is done, and what is left of its time is kept.
async fn while_it_pauses(failpoint: &str, machine: Machine) {
    let mut host = machine.start_doomed(failpoint).await;
    let id = machine.rent(&request("gpurent-test/busybox:1", "1h")).await;
    let ready = machine.until(&id, &["ready"], SOON).await;
    let (suspend, resume) = (format!("/v1/rentals/{id}/suspend"), format!("/v1/rentals/{id}/resume"));
    machine.post(&suspend, &json!({})).await;
    if failpoint == "resumed" {
        machine.until(&id, &["suspended"], SOON).await;
        // The answer is lost with the process.
        drop(machine.client.post(machine.url(&resume)).send().await);
    }
    host.died().await;

    let _host = machine.start().await;
    if failpoint != "resumed" {
        let suspended = machine.until(&id, &["suspended"], SOON).await;
        assert_eq!(suspended["gpus"], json!([]), "its GPU is free");
        assert_eq!(suspended["suspension"]["files_kept"], true, "{suspended}");
    }
    let (status, rental) = machine.post(&resume, &json!({})).await;
    assert!(status == 200 || status == 202, "{rental}");
    let again = machine.until(&id, &["ready"], SOON).await;
    assert_eq!((&again["container_id"], &again["files"]), (&ready["container_id"], &json!("same")), "{again}");
    assert_eq!(again["segments"].as_array().unwrap().len(), 2, "{again}");
    assert_eq!(again["attempt"], 2);
    assert_eq!(machine.containers().await.len(), 1);
    machine.cancel(&id).await;
    machine.until(&id, &["terminated"], SOON).await;
    machine.assert_clean().await;
}

macro_rules! crashes {
    ($($way:ident: $($name:ident $failpoint:literal),*;)*) => {
        mod on_postgres {
            use super::*;
            $($(
                #[tokio::test]
                async fn $name() {
                    $way($failpoint, Machine::new("simulated:1:RTX 5090")).await;
                }
            )*)*
        }

        mod on_sqlite {
            use super::*;
            $($(
                #[tokio::test]
                async fn $name() {
                    $way($failpoint, Machine::new("simulated:1:RTX 5090").on_sqlite()).await;
                }
            )*)*
        }
    };
}

crashes! {
    on_the_way_up:
        claimed "claimed",
        created_unrecorded "created-unrecorded",
        created "created",
        started_unrecorded "started-unrecorded",
        started "started",
        ready_unrecorded "ready-unrecorded",
        ready "ready";
    while_it_runs:
        access_unrecorded "access-unrecorded",
        access "access",
        warned_unrecorded "warned-unrecorded",
        warned "warned";
    on_the_way_down:
        stopped_unrecorded "stopped-unrecorded",
        stopped "stopped",
        removed_unrecorded "removed-unrecorded",
        removed "removed";
    while_it_pauses:
        suspended_unrecorded "suspended-unrecorded",
        suspended "suspended",
        resumed "resumed";
    while_it_adopts:
        adopted_unrecorded "adopted-unrecorded",
        adopted "adopted";
}
