//! Programs and sessions that do not want to end: the paid time is over all the same, to the second. And what a key that was
//! taken away still hears; and who may read what an agent keeps.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Machine, docker, request, ssh, text};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(30);
const STUBBORN: &str = r#"CMD ["/bin/busybox", "sh", "-c", "trap : TERM HUP INT; while :; do busybox sleep 1; done"]"#;
const FLOODS: &str =
    r#"CMD ["/bin/busybox", "sh", "-c", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"]"#;

/// Makes an image of the test's own, with this program.
async fn image(name: &str, program: &str) -> String {
    let name = format!("gpurent-test/{name}:1");
    let build =
        format!(r#"printf 'FROM gpurent-test/busybox:1\n%s\n' "$0" | DOCKER_BUILDKIT=0 docker build -q -t {name} -"#);
    let built = Command::new("sh").args(["-c", &build, program]).output().await.unwrap();
    assert!(built.status.success(), "{built:?}");
    name
}

fn micros(time: &Value) -> i64 {
    time.as_str().unwrap_or_else(|| panic!("{time} is a time")).parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

/// How long after the end of its paid time a rental's program died, in microseconds, by the engine's own record.
fn late(ended: &Value) -> i64 {
    micros(&ended["exit"]["finished_at"]) - micros(&ended["expires_at"])
}

/// A session that ignores every signal that it may; gives what it said before it was cut.
fn session(port: u64) -> tokio::task::JoinHandle<String> {
    tokio::spawn(async move {
        let command = "trap '' TERM HUP INT; echo begun; busybox sleep 100; echo ended";
        text(&ssh(port, "root", "canary-password-4711", command).await)
    })
}

#[tokio::test]
async fn the_end_of_the_paid_time_asks_nobody() {
    let machine = Machine::new("simulated:3:RTX 5090").on_sqlite();
    let _host = machine.start().await;
    let (stubborn, floods) = (image("stubborn", STUBBORN).await, image("floods", FLOODS).await);
    let mut ids = Vec::new();
    for image in [&stubborn, &stubborn, &floods] {
        ids.push(machine.rent(&request(image, "12s")).await);
    }
    for id in &ids {
        machine.until(id, &["ready"], SOON).await;
    }
    let port_of = async |id: &str| machine.get(&format!("/v1/rentals/{id}/access")).await["port"].as_u64().unwrap();
    // One has a session open; of one even the program stands still; the output of the third is read, and not read.
    let cut = session(port_of(&ids[0]).await);
    let stop = "for p in /proc/[0-9]*; do busybox grep -q trap $p/cmdline && kill -STOP ${p#/proc/}; done";
    ssh(port_of(&ids[1]).await, "root", "canary-password-4711", stop).await;
    let mut readers = Vec::new();
    for reads in [true, true, true, false] {
        let asked = machine.client.get(machine.url(&format!("/v1/rentals/{}/logs?follow=true", ids[2]))).send().await;
        let mut stream = asked.unwrap();
        readers.push(tokio::spawn(async move {
            while reads && matches!(stream.chunk().await, Ok(Some(_))) {}
            if !reads {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
        }));
    }
    for id in &ids {
        let ended = machine.until(id, &["expired"], SOON).await;
        assert!((0..1_000_000).contains(&late(&ended)), "{} microseconds late: {ended}", late(&ended));
        assert_eq!(ended["bill"]["used_micros"], 12_000_000, "{ended}");
    }
    let cut = tokio::time::timeout(Duration::from_secs(2), cut).await;
    assert_eq!(cut.expect("it does not outlive the rental").unwrap(), "begun");
    readers.iter().for_each(tokio::task::JoinHandle::abort);
    machine.assert_clean().await;
}

#[tokio::test]
async fn a_cancel_waits_its_grace_and_no_longer() {
    let machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    let _host = machine.start().await;
    let id = machine.rent(&request(&image("stubborn", STUBBORN).await, "1h")).await;
    machine.until(&id, &["ready"], SOON).await;
    let begun = Instant::now();
    machine.cancel(&id).await;
    let ended = machine.until(&id, &["terminated"], SOON).await;
    let took = begun.elapsed();
    assert!((9..16).contains(&took.as_secs()), "{took:?}");
    assert_eq!(ended["exit"]["code"], 137, "{ended}");
    assert_eq!(ended["segments"][0]["ended_at"], ended["exit"]["finished_at"]);
    machine.assert_clean().await;
}

/// Streams that were opened by a key end with it, however much they have to say.
#[tokio::test]
async fn a_key_that_was_taken_away_hears_no_more() {
    let mut machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    let _host = machine.start().await;
    let keys = async |arguments: &[&str]| {
        let mut keys = Command::new(env!("CARGO_BIN_EXE_gpurent-host"));
        let done = keys.args(["keys", "--data-dir", &machine.data_dir]).args(arguments).output().await.unwrap();
        assert!(done.status.success(), "{done:?}");
        serde_json::from_slice::<Value>(&done.stdout).unwrap_or_default()
    };
    let made = keys(&["create", "--renter", "alice", "--json"]).await;
    let mut headers = reqwest::header::HeaderMap::new();
    headers.insert("x-api-key", made["key"].as_str().unwrap().parse().unwrap());
    let client = support::http_with(headers);
    machine.client = client.clone();
    let id = machine.rent(&request(&image("floods", FLOODS).await, "1h")).await;
    machine.until(&id, &["ready"], SOON).await;
    let mut open = Vec::new();
    for path in [format!("/v1/rentals/{id}/logs?follow=true"), "/v1/events".to_owned()] {
        let asked = client.get(machine.url(&path)).header("accept", "text/event-stream, text/plain").send().await;
        let mut stream = asked.unwrap();
        assert_eq!(stream.status(), 200, "{path}");
        open.push(tokio::spawn(async move { while matches!(stream.chunk().await, Ok(Some(_))) {} }));
    }
    let mut revoke = Command::new(env!("CARGO_BIN_EXE_gpurent-host"));
    let revoked = revoke.args(["keys", "--data-dir", &machine.data_dir, "revoke", made["id"].as_str().unwrap()]);
    assert!(revoked.output().await.unwrap().status.success());
    assert_eq!(client.get(machine.url("/v1/rentals")).send().await.unwrap().status(), 401);
    for stream in open {
        let ended = tokio::time::timeout(Duration::from_secs(75), stream).await;
        assert!(ended.is_ok(), "a stream goes on without a key");
    }
    for container in machine.containers().await {
        docker(&["rm", "-f", &container]).await;
    }
}

#[tokio::test]
async fn what_an_agent_keeps_is_its_own_to_read() {
    let machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    let _host = machine.start().await;
    let mut wanted = request("gpurent-test/busybox:1", "1h");
    wanted["workspace"] = json!({});
    let id = machine.rent(&wanted).await;
    machine.until(&id, &["ready"], SOON).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let data = Path::new(&machine.data_dir);
    for file in ["gpurent.db", "gpurent.db-wal", "gpurent.db-shm", "seal.key"] {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
    let mut books = 0;
    for entry in std::fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("deadlines") {
            assert_eq!(mode(&path), 0o600, "{path:?}");
            books += 1;
        }
    }
    assert!(books > 0, "the host's own book is there");
    for folder in [data.join("workspaces").as_path(), Path::new(&machine.access_dir)] {
        assert_eq!(mode(folder), 0o700, "{folder:?}");
    }
    for entry in std::fs::read_dir(&machine.access_dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_eq!(mode(&path), 0o700, "{path:?}");
        }
    }
    machine.cancel(&id).await;
    machine.until(&id, &["terminated"], SOON).await;
}
