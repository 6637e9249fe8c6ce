//! kill -9 at every boundary between an effect and its record, then a restart: the same container goes
//! on, or a clean end; never two, never a leak.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::time::Duration;

use serde_json::json;
use support::{Machine, docker, request};

const SOON: Duration = Duration::from_secs(30);

/// Dies on the way up; after the restart the rental becomes ready with one container.
async fn on_the_way_up(failpoint: &str) {
    let machine = Machine::new("simulated:1:RTX 5090");
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
async fn on_the_way_down(failpoint: &str) {
    let machine = Machine::new("simulated:1:RTX 5090");
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

macro_rules! crashes {
    ($($way:ident: $($name:ident $failpoint:literal),*;)*) => {
        $($(
            #[tokio::test]
            async fn $name() {
                $way($failpoint).await;
            }
        )*)*
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
    on_the_way_down:
        stopped_unrecorded "stopped-unrecorded",
        stopped "stopped",
        removed_unrecorded "removed-unrecorded",
        removed "removed";
}
