//! Many at once.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]
#![allow(clippy::print_stdout, reason = "what the run came to is a part of the result")]

mod support;

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::json;
use support::{Machine, environment, request};

#[tokio::test]
async fn two_hundred_requests_for_two_gpus_have_two_winners() {
    let machine = Machine::new("simulated:2:RTX 5090");
    let _host = machine.start().await;
    let log = environment("GPURENT_POSTGRES_LOG");
    let before = std::fs::read_to_string(&log).unwrap().len();
    let bodies: Vec<_> = (0..200)
        .map(|n| {
            let mut body = request("gpurent-test/busybox:1", "1h");
            body["name"] = json!(format!("r{n}"));
            body
        })
        .collect();
    let answers = join_all(bodies.iter().map(|body| machine.post("/v1/rentals", body))).await;
    let winners: Vec<_> = answers.iter().filter(|(status, _)| *status == 201).map(|(_, made)| made).collect();
    assert_eq!(winners.len(), 2);
    for (status, problem) in answers.iter().filter(|(status, _)| *status != 201) {
        assert_eq!((status.as_u16(), &problem["type"]), (409, &json!("/problems/no-gpu-free")), "{problem}");
    }
    assert_ne!(winners[0]["gpus"][0]["uuid"], winners[1]["gpus"][0]["uuid"]);
    for winner in winners {
        let id = winner["id"].as_str().unwrap();
        machine.until(id, &["ready"], Duration::from_secs(30)).await;
        machine.cancel(id).await;
        machine.until(id, &["terminated"], Duration::from_secs(30)).await;
    }
    machine.assert_clean().await;
    let news = std::fs::read_to_string(&log).unwrap().split_off(before);
    assert!(!news.contains("deadlock"), "{news}");
}

#[tokio::test]
async fn a_second_agent_for_the_same_engine_and_directory_is_refused() {
    let machine = Machine::new("simulated:1:RTX 5090");
    let _host = machine.start().await;
    let mut second = Machine::new("simulated:1:RTX 5090");
    second.lock_dir.clone_from(&machine.lock_dir);
    assert!(!second.run_to_end().await.success());
    assert!(second.log().contains("another agent already acts for this engine"), "{}", second.log());
}

#[tokio::test]
async fn keyless_off_loopback_is_refused() {
    let mut machine = Machine::new("simulated:1:RTX 5090");
    machine.listen = "0.0.0.0".to_owned();
    assert!(!machine.run_to_end().await.success());
    assert!(machine.log().contains("without an API key the server listens on loopback only"), "{}", machine.log());
}

#[tokio::test]
async fn one_key_a_thousand_times_at_once_is_one_rental() {
    let machine = Machine::new("simulated:2:RTX 5090");
    let _host = machine.start().await;
    let body = request("gpurent-test/busybox:1", "1h");
    let send = async |body: serde_json::Value| {
        let post = machine.client.post(machine.url("/v1/rentals")).header("Idempotency-Key", "order-4711").json(&body);
        let response = post.send().await.unwrap();
        (response.status().as_u16(), response.json::<serde_json::Value>().await.unwrap())
    };
    let answers = join_all((0..1000).map(|_| send(body.clone()))).await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == 201).count(), 1);
    let id = answers[0].1["id"].as_str().unwrap();
    for (status, rental) in &answers {
        assert!(matches!(status, 200 | 201) && rental["id"] == id, "{status} {rental}");
    }
    let mut other = body;
    other["duration"] = json!("2h");
    let (status, problem) = send(other).await;
    assert_eq!((status, &problem["type"]), (422, &json!("/problems/idempotency-key-reused")));
    assert_eq!(machine.get("/v1/rentals").await["rentals"].as_array().unwrap().len(), 1);
    machine.until(id, &["ready"], Duration::from_secs(30)).await;
    assert_eq!(machine.containers().await.len(), 1);
    machine.cancel(id).await;
    machine.until(id, &["terminated"], Duration::from_secs(30)).await;
    machine.assert_clean().await;
}

/// The most that the host's process had in memory, in KiB.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches("kB").trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_have_as_many_winners_as_gpus_and_health_answers_throughout() {
    let machine = Machine::new("simulated:2:RTX 5090");
    let host = machine.start().await;
    let before = peak_memory(host.pid());
    let done = std::sync::atomic::AtomicBool::new(false);
    let health = async {
        let mut slowest = Duration::ZERO;
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            let begun = std::time::Instant::now();
            let answer = machine.client.get(machine.url("/health")).send().await.unwrap();
            let status = answer.status();
            assert_eq!(status, 200, "{}", answer.text().await.unwrap());
            slowest = slowest.max(begun.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        slowest
    };
    let burst = async {
        let requests = futures_util::stream::iter(0..10_000).map(|n| {
            let mut body = request("gpurent-test/busybox:1", "1h");
            body["name"] = json!(format!("r{n}"));
            let machine = &machine;
            async move { machine.post("/v1/rentals", &body).await }
        });
        let answers: Vec<_> = requests.buffer_unordered(1000).collect().await;
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        answers
    };
    let (answers, slowest) = futures_util::join!(burst, health);
    let count = |wanted: u16| answers.iter().filter(|(status, _)| status.as_u16() == wanted).count();
    let (made, conflict, busy) = (count(201), count(409), count(429));
    println!("{made} made, {conflict} refused, {busy} told to wait; health within {slowest:?}");
    assert_eq!(
        (made, conflict + busy),
        (2, 9_998),
        "{:?}",
        answers.iter().find(|(status, _)| status.is_server_error())
    );
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let grown = peak_memory(host.pid()) - before;
    assert!(grown < 256 * 1024, "it took {grown} KiB more");
    for (_, winner) in answers.iter().filter(|(status, _)| *status == 201) {
        let id = winner["id"].as_str().unwrap();
        machine.until(id, &["ready"], Duration::from_secs(60)).await;
        machine.cancel(id).await;
        machine.until(id, &["terminated"], Duration::from_secs(60)).await;
    }
    machine.assert_clean().await;
}
