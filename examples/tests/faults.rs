//! The fault catalogue on real parts: what breaks, and what must follow. The table of all rows and their tests
//! is in ARCHITECTURE.md.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use support::postgres::Postgres;
use support::{Machine, docker, environment, request, ssh, text};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(40);
/// What the end of a rental says whose container is gone.
const LOST: &str = "The container disappeared from the host";

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap_or_else(|| panic!("{value} is a time")).parse().unwrap()
}

/// A rental that is ready, by its id and its container.
async fn ready(machine: &Machine, term: &str) -> (String, String, Value) {
    let id = machine.rent(&request("gpurent-test/busybox:1", term)).await;
    let rental = machine.until(&id, &["ready"], SOON).await;
    let container = rental["container_id"].as_str().unwrap().to_owned();
    (id, container, rental)
}

async fn runs(container: &str) -> bool {
    docker(&["inspect", "--format", "{{.State.Running}}", container]).await == "true"
}

/// When Docker says that a container ended; it must not have been removed.
async fn finished(container: &str) -> Timestamp {
    docker(&["inspect", "--format", "{{.State.FinishedAt}}", container]).await.parse().expect("it is still there")
}

/// Waits for the end of the paid time, and checks that the container runs until then.
async fn runs_to_its_end(container: &str, rental: &Value) -> Timestamp {
    let end = time(&rental["expires_at"]);
    while Timestamp::now() < end {
        assert!(runs(container).await || Timestamp::now() >= end, "ended before its time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    end
}

/// Waits for the end of the paid time, and checks that the container ended at it, and is still there.
async fn ends_on_time(container: &str, rental: &Value) {
    let end = runs_to_its_end(container, rental).await;
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let late = finished(container).await.duration_since(end);
    assert!(!late.is_negative() && late.as_millis() < 1000, "ended {late:#} after the end of its paid time");
}

async fn on_its_own_database(gpus: &str) -> (Postgres, Machine) {
    let postgres = Postgres::start().await;
    let mut machine = Machine::new(gpus);
    machine.database = postgres.url();
    (postgres, machine)
}

/// What one rental was billed for, in microseconds, and over how many segments.
fn used(rental: &Value) -> (i64, usize) {
    (rental["bill"]["used_micros"].as_i64().unwrap(), rental["segments"].as_array().unwrap().len())
}

#[tokio::test]
async fn with_the_database_gone_nothing_is_made_and_everything_ends_on_time_and_is_billed_once() {
    let (postgres, machine) = on_its_own_database("simulated:3:RTX 5090").await;
    let _host = machine.start().await;
    let (long, stays, _) = ready(&machine, "1h").await;
    let (short, ends, rental) = ready(&machine, "12s").await;
    postgres.crash().await;

    let begun = Instant::now();
    let refused = machine.client.post(machine.url("/v1/rentals")).json(&request("gpurent-test/busybox:1", "1h"));
    let refused = refused.send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"), "{:?}", refused.headers());
    assert!(begun.elapsed() < Duration::from_secs(15));
    ends_on_time(&ends, &rental).await;
    assert_eq!(machine.containers().await.len(), 2, "nothing was made, nothing removed");

    // Past the lease, in which nobody acts.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(runs(&stays).await, "{}", machine.log());
    assert_eq!(machine.containers().await.len(), 2);
    let stopped_at = finished(&ends).await;
    postgres.go_on().await;
    let ended = machine.until(&short, &["expired"], SOON).await;
    assert_eq!(used(&ended), (12_000_000, 1), "{ended}");
    assert_eq!(time(&ended["exit"]["finished_at"]).as_microsecond(), stopped_at.as_microsecond());
    let still = machine.show(&long).await;
    assert_eq!((&still["state"], used(&still).1, runs(&stays).await), (&json!("ready"), 1, true));
    machine.cancel(&long).await;
    machine.until(&long, &["terminated"], SOON).await;
    machine.assert_clean().await;
}

#[tokio::test]
async fn a_database_that_hangs_delays_no_end() {
    let (postgres, machine) = on_its_own_database("simulated:2:RTX 5090").await;
    let _host = machine.start().await;
    let (long, stays, _) = ready(&machine, "1h").await;
    let (short, ends, rental) = ready(&machine, "25s").await;
    postgres.signal("STOP").await;
    ends_on_time(&ends, &rental).await;
    assert!(runs(&stays).await);
    let health = machine.client.get(machine.url("/health")).timeout(Duration::from_secs(10)).send().await.unwrap();
    assert_eq!(health.status(), 503, "it says that something is wrong");
    postgres.signal("CONT").await;
    let ended = machine.until(&short, &["expired"], SOON).await;
    assert_eq!(used(&ended), (25_000_000, 1));
    assert_eq!(machine.show(&long).await["state"], "ready");
    machine.cancel(&long).await;
    machine.until(&long, &["terminated"], SOON).await;
    machine.assert_clean().await;
}

#[tokio::test]
async fn an_agent_that_starts_without_its_database_ends_what_is_over() {
    let (postgres, machine) = on_its_own_database("simulated:2:RTX 5090").await;
    let mut host = machine.start().await;
    let (long, stays, _) = ready(&machine, "1h").await;
    let (short, ends, rental) = ready(&machine, "10s").await;
    host.kill().await;
    postgres.crash().await;
    let host = machine.start_at_once();
    ends_on_time(&ends, &rental).await;
    assert!(runs(&stays).await);
    assert_eq!(machine.containers().await.len(), 2);
    postgres.go_on().await;
    host.wait_until_up().await;
    assert_eq!(used(&machine.until(&short, &["expired"], SOON).await), (10_000_000, 1));
    assert_eq!(machine.show(&long).await["state"], "ready");
    machine.cancel(&long).await;
    machine.until(&long, &["terminated"], SOON).await;
    machine.assert_clean().await;
}

#[tokio::test]
async fn what_will_never_work_ends_the_start_unless_there_are_tenants_to_watch_over() {
    let (_postgres, mut machine) = on_its_own_database("simulated:1:RTX 5090").await;
    let right = machine.database.clone();
    let wrong = right.replace("gpurent@", "nobody@");
    for (database, says) in [
        (&*wrong, "pg_hba.conf"),
        ("mysql://me@here/there", "sqlite:PATH"),
        ("sqlite:/proc/nowhere/db", "/proc/nowhere"),
    ] {
        machine.database = database.to_owned();
        assert_eq!(machine.run_to_end().await.code(), Some(1), "{database}");
        assert!(machine.log().contains(says), "{database}: {}", machine.log());
    }
    machine.database = right.clone();
    let docker = std::mem::replace(&mut machine.docker, "unix:///nowhere.sock".to_owned());
    assert_eq!(machine.run_to_end().await.code(), Some(1));
    assert!(machine.log().contains("--docker names another"), "{}", machine.log());

    machine.docker = docker;
    let mut host = machine.start().await;
    let (short, ends, rental) = ready(&machine, "10s").await;
    host.kill().await;
    drop(host);
    machine.database = wrong;
    let mut host = machine.start_at_once();
    ends_on_time(&ends, &rental).await;
    assert!(machine.log().contains("waiting for somebody to mend that"), "{}", machine.log());
    host.kill().await;
    drop(host);
    machine.database = right;
    let _host = machine.start().await;
    assert_eq!(used(&machine.until(&short, &["expired"], SOON).await), (10_000_000, 1));
    machine.assert_clean().await;
}

/// The store has forgotten a rental: its container goes on, and so does its bill.
async fn is_adopted(machine: &Machine, id: &str, container: &str, rental: &Value) {
    assert!(runs(container).await);
    let adopted = machine.until(id, &["ready"], SOON).await;
    for same in ["name", "renter", "expires_at", "started_at", "container_id", "gpus", "ports"] {
        assert_eq!(adopted[same], rental[same], "{same}");
    }
    let (status, _) = machine.post("/v1/rentals", &request("gpurent-test/busybox:1", "1h")).await;
    assert_eq!(status, 409, "its GPU is nobody else's");
    let port = rental["ports"].as_array().unwrap().iter().find(|port| port["container"] == 22).unwrap();
    let port = port["host"].as_u64().unwrap();
    assert_eq!(text(&ssh(port, "root", "canary-password-4711", "echo in").await), "in");
    machine.cancel(id).await;
    let ended = machine.until(id, &["terminated"], SOON).await;
    assert_eq!(ended["segments"][0]["started_at"], rental["started_at"]);
    machine.assert_clean().await;
}

#[tokio::test]
async fn a_rental_that_a_restored_database_does_not_know_is_adopted() {
    let (postgres, machine) = on_its_own_database("simulated:1:RTX 5090").await;
    let mut host = machine.start().await;
    let dump = postgres.dump().await;
    let (id, container, rental) = ready(&machine, "1h").await;
    host.terminate().await;
    postgres.restore(&dump).await;
    let plan = Command::new(env!("CARGO_BIN_EXE_gpurent-host"))
        .args(["reconcile", "--dry-run", "--host-id", &machine.host_id, "--database", &machine.database])
        .args(["--docker", &environment("DOCKER_HOST")])
        .output()
        .await
        .unwrap();
    assert!(text(&plan).contains("adopt"), "{plan:?}");
    let _host = machine.start().await;
    is_adopted(&machine, &id, &container, &rental).await;
}

#[tokio::test]
async fn a_database_that_is_set_back_under_a_running_agent_kills_nobody() {
    let (postgres, machine) = on_its_own_database("simulated:1:RTX 5090").await;
    let mut host = machine.start().await;
    let dump = postgres.dump().await;
    let (id, container, rental) = ready(&machine, "1h").await;
    postgres.restore(&dump).await;
    // It may find that somebody else holds the host by now, and end; a supervisor starts it again.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(runs(&container).await);
    host.kill().await;
    let _host = machine.start().await;
    is_adopted(&machine, &id, &container, &rental).await;
}

#[tokio::test]
async fn a_lost_sqlite_file_costs_no_tenant() {
    let machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    let mut host = machine.start().await;
    let (id, container, rental) = ready(&machine, "1h").await;
    host.kill().await;
    machine.forget_everything().await;
    let _host = machine.start().await;
    is_adopted(&machine, &id, &container, &rental).await;
}

#[tokio::test]
async fn of_two_agents_only_the_one_that_holds_the_host_acts() {
    let first = Machine::new("simulated:1:RTX 5090");
    let mut one = first.start().await;
    let mut refused = first.start_at_once();
    assert!(!refused.ended(SOON).await.success(), "one lock, one agent");
    let (id, container, rental) = ready(&first, "20s").await;

    // Another lock folder: a mistake that only the epoch can catch. The first one hangs meanwhile.
    one.signal("STOP").await;
    let elsewhere = tempfile::tempdir().unwrap();
    let mut second = Machine::new("simulated:1:RTX 5090");
    second.host_id.clone_from(&first.host_id);
    second.access_dir.clone_from(&first.access_dir);
    second.lock_dir = elsewhere.path().to_string_lossy().into_owned();
    std::fs::copy(format!("{}/seal.key", first.data_dir), format!("{}/seal.key", second.data_dir)).unwrap();
    let _two = second.start().await;
    let extended = second.post(&format!("/v1/rentals/{id}/extend"), &json!({"by": "1h"})).await;
    assert_eq!(extended.0, 200, "{}", extended.1);
    // The end that the first one knows of, and a second.
    let known = time(&rental["expires_at"]).duration_since(Timestamp::now()).as_millis();
    tokio::time::sleep(Duration::from_millis(u64::try_from(known).unwrap_or(0) + 1000)).await;
    // It wakes up after the end that it knew of, and past its lease.
    one.signal("CONT").await;
    assert!(!one.ended(SOON).await.success(), "it finds the host taken over");
    assert!(runs(&container).await, "and did nothing: {}", first.log());
    assert_eq!(second.show(&id).await["state"], "ready");
    second.cancel(&id).await;
    second.until(&id, &["terminated"], SOON).await;
    second.assert_clean().await;
}

#[tokio::test]
async fn a_container_that_is_removed_by_hand_is_lost_and_billed_to_when_it_was_seen() {
    let machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    let _host = machine.start().await;
    let (id, container, rental) = ready(&machine, "1h").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let removed_at = Timestamp::now();
    docker(&["rm", "-f", &container]).await;
    let begun = Instant::now();
    let ended = machine.until(&id, &["terminated"], SOON).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "the GPU is free: {:?}", begun.elapsed());
    assert_eq!(ended["end"]["message"], LOST, "{ended}");
    let lived = removed_at.duration_since(time(&rental["started_at"])).as_micros();
    let (used, _) = used(&ended);
    assert!(i128::from(used) <= lived + 500_000 && i128::from(used) >= lived - 3_000_000, "{used} of {lived}");
    machine.assert_clean().await;
}

#[tokio::test]
async fn a_container_that_eats_its_memory_ends_as_out_of_memory() {
    let machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    let _host = machine.start().await;
    let mut body = request("gpurent-test/eats:1", "1h");
    body["limits"] = json!({"memory_bytes": 64 * 1024 * 1024});
    let id = machine.rent(&body).await;
    let ended = machine.until(&id, &["terminated", "failed"], SOON).await;
    assert_eq!((&ended["exit"]["code"], &ended["exit"]["out_of_memory"]), (&json!(137), &json!(true)), "{ended}");
    machine.assert_clean().await;
}

/// The files that a kernel tells its boot by, in front of the real ones for one program and its children.
fn booted_anew(machine: &mut Machine, uptime: &str) {
    let (boot, up) = (format!("{}/boot_id", machine.data_dir), format!("{}/uptime", machine.data_dir));
    std::fs::write(&boot, "00000000-0000-4000-8000-000000000001\n").unwrap();
    std::fs::write(&up, uptime).unwrap();
    let script =
        format!("mount --bind {boot} /proc/sys/kernel/random/boot_id && mount --bind {up} /proc/uptime && exec \"$@\"");
    machine.wrapper = ["unshare", "-m", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
}

#[tokio::test]
async fn after_a_reboot_a_rental_is_billed_to_the_end_that_the_engine_recorded() {
    let mut machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    let mut host = machine.start().await;
    let (id, container, _) = ready(&machine, "1h").await;
    host.kill().await;
    drop(host);
    docker(&["stop", "-t", "1", &container]).await;
    let finished = finished(&container).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    booted_anew(&mut machine, "1.00 1.00\n");
    let _host = machine.start().await;
    let ended = machine.until(&id, &["terminated"], SOON).await;
    assert_eq!(time(&ended["segments"][0]["ended_at"]).as_microsecond(), finished.as_microsecond(), "{ended}");
    machine.assert_clean().await;
}

#[tokio::test]
async fn after_a_power_cut_a_rental_is_billed_to_when_it_was_last_seen() {
    let mut machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    let mut host = machine.start().await;
    let (id, container, rental) = ready(&machine, "1h").await;
    host.kill().await;
    drop(host);
    let killed_at = Timestamp::now();
    tokio::time::sleep(Duration::from_secs(3)).await;
    // The engine comes up after the machine did, and makes up an end: later than the boot.
    docker(&["kill", &container]).await;
    booted_anew(&mut machine, "100.00 100.00\n");
    let _host = machine.start().await;
    let ended = machine.until(&id, &["terminated"], SOON).await;
    assert_eq!(ended["end"]["message"], LOST, "{ended}");
    let until = time(&ended["segments"][0]["ended_at"]);
    assert!(until >= time(&rental["started_at"]) && until <= killed_at, "{ended}");
    machine.assert_clean().await;
}

#[tokio::test]
async fn a_wall_clock_that_jumps_a_day_either_way_ends_nothing_early_and_gives_nothing_away() {
    for jump in ["+86400", "-86400"] {
        let mut machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
        let offset = format!("{}/offset", machine.data_dir);
        std::fs::write(&offset, "+0").unwrap();
        machine.environment = vec![
            ("LD_PRELOAD".to_owned(), libfaketime()),
            ("FAKETIME_TIMESTAMP_FILE".to_owned(), offset.clone()),
            ("FAKETIME_NO_CACHE".to_owned(), "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
        ];
        let _host = machine.start().await;
        let (id, _, rental) = ready(&machine, "12s").await;
        std::fs::write(&offset, jump).unwrap();
        let begun = Instant::now();
        let ended = machine.until(&id, &["expired"], SOON).await;
        assert!(begun.elapsed() > Duration::from_secs(9), "{jump}: ended after {:?}", begun.elapsed());
        let end = time(&ended["exit"]["finished_at"]).duration_since(time(&rental["started_at"]));
        assert!(end.as_millis() >= 12_000 && end.as_millis() < 13_000, "{jump}: ran {end:#}");
        assert_eq!(used(&ended).0, 12_000_000, "{jump}: {ended}");
        // The agent really saw another time.
        let events = machine.get(&format!("/v1/events?rental={id}&limit=500")).await;
        let last = time(&events["events"].as_array().unwrap().last().unwrap()["at"]);
        let seen = last.duration_since(Timestamp::now()).as_secs();
        assert!((seen.abs() - 86_400).abs() < 60, "{jump}: {seen}");
        machine.assert_clean().await;
    }
}

fn libfaketime() -> String {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1")).find(|path| path.exists());
    found.expect("scripts/services installs it").to_string_lossy().into_owned()
}

#[tokio::test]
async fn a_shutdown_under_load_has_a_deadline_and_a_kill_during_it_loses_nothing() {
    let machine = Machine::new("simulated:4:RTX 5090").on_sqlite();
    let mut host = machine.start().await;
    let bodies: Vec<_> = (0..4)
        .map(|n| {
            let mut body = request("gpurent-test/busybox:1", "1h");
            body["name"] = json!(format!("tenant-{n}"));
            body
        })
        .collect();
    for body in &bodies {
        machine.rent(body).await;
    }
    // All of them are being made.
    let begun = Instant::now();
    host.terminate().await;
    assert!(begun.elapsed() < Duration::from_secs(25), "it took {:?}", begun.elapsed());
    drop(host);
    let mut host = machine.start().await;
    let listed = machine.get("/v1/rentals").await;
    let ids: Vec<_> =
        listed["rentals"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 4, "{listed}");
    for id in &ids {
        machine.until(id, &["ready"], SOON).await;
        machine.cancel(id).await;
    }
    // All of them are being taken down, and nobody waits for it.
    host.signal("TERM").await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    host.kill().await;
    drop(host);
    let _host = machine.start().await;
    for id in &ids {
        let ended = machine.until(id, &["terminated"], SOON).await;
        assert_eq!(used(&ended).1, 1);
    }
    machine.assert_clean().await;
}

#[tokio::test]
async fn below_the_reserve_nobody_new_is_taken_in() {
    let mut machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    machine.settings = ["--disk-reserve-mib", "1000000000"].map(str::to_owned).to_vec();
    let host = machine.start_at_once();
    let (status, health) = host.wait_for_health(|_, health| health["reconciler"] == "ok").await;
    assert_eq!((status, &health["disk"], &health["database"]), (503, &json!("full"), &json!("ok")), "{health}");
    let (status, problem) = machine.post("/v1/rentals", &request("gpurent-test/busybox:1", "1h")).await;
    assert_eq!((status.as_u16(), &problem["type"]), (503, &json!("/problems/disk-full")), "{problem}");
    machine.assert_clean().await;
}

/// A small file system, gone with the test.
struct SmallDisk(String);

impl SmallDisk {
    async fn at(folder: &str) -> Self {
        let mount = ["-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", folder];
        assert!(Command::new("mount").args(mount).status().await.unwrap().success());
        Self(folder.to_owned())
    }

    fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(format!("{}/ballast", self.0)).unwrap();
        // Until it refuses, to the last byte.
        for block in [64 * 1024, 1] {
            while file.write_all(&vec![1; block]).is_ok() {}
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").args(["-l", &self.0]).output());
    }
}

#[tokio::test]
async fn on_a_full_disk_what_runs_is_still_stopped_and_billed() {
    let mut machine = Machine::new("simulated:2:RTX 5090").on_sqlite();
    machine.settings = ["--disk-reserve-mib", "0"].map(str::to_owned).to_vec();
    let data_dir = format!("{}/small", machine.data_dir);
    std::fs::create_dir(&data_dir).unwrap();
    let disk = SmallDisk::at(&data_dir).await;
    machine.data_dir = data_dir;
    let mut host = machine.start().await;
    let (one, _, _) = ready(&machine, "1h").await;
    let (two, ends, rental) = ready(&machine, "12s").await;
    disk.fill();
    // It is started anew just then.
    host.kill().await;
    drop(host);
    let _host = machine.start().await;
    ends_on_time_and_goes(&ends, &rental).await;
    assert_eq!(used(&machine.until(&two, &["expired"], SOON).await), (12_000_000, 1));
    machine.cancel(&one).await;
    assert_eq!(used(&machine.until(&one, &["terminated"], SOON).await).1, 1);
    machine.assert_clean().await;
}

/// As [`ends_on_time`], where the store is there to let it be removed.
async fn ends_on_time_and_goes(container: &str, rental: &Value) {
    runs_to_its_end(container, rental).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!runs(container).await);
}

#[tokio::test]
async fn a_port_that_somebody_else_has_is_found_out_at_the_start_and_another_is_taken() {
    let mut machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    machine.settings = ["--ssh-ports", "23100-23103"].map(str::to_owned).to_vec();
    // Only on IPv6: our own look at the ports, which are asked for on IPv4, does not see them; the engine does.
    let taken: Vec<_> = (23100..23103).map(|port| std::net::TcpListener::bind(("::1", port)).unwrap()).collect();
    let _host = machine.start().await;
    let id = machine.rent(&request("gpurent-test/busybox:1", "1h")).await;
    let rental = machine.until(&id, &["ready", "failed"], SOON).await;
    assert_eq!(rental["state"], "ready", "{rental}");
    let port = rental["ports"].as_array().unwrap().iter().find(|port| port["container"] == 22).unwrap();
    assert_eq!(port["host"], 23103, "the only one that was free");
    let attempt = rental["attempt"].as_u64().unwrap();
    assert!((1..=4).contains(&attempt), "{attempt}");
    assert_eq!(machine.containers().await.len(), 1, "of the launches before nothing is left");
    drop(taken);
    machine.cancel(&id).await;
    machine.until(&id, &["terminated"], SOON).await;
    machine.assert_clean().await;
}
