//! The command line against a running agent, as an operator or a script uses it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use support::{Machine, text};
use tokio::process::Command;

impl Machine {
    fn cli(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gpurent-host"));
        command.env("GPURENT_URL", self.url("")).env_remove("GPURENT_API_KEY").kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let run = self.cli().args(arguments).output();
        tokio::time::timeout(Duration::from_secs(90), run).await.expect("it ends in time").unwrap()
    }

    /// What a command that succeeds prints with `--json`.
    async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat()).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_suspended_rental_says_what_it_is_and_comes_back_as_it_was() {
    let machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    let _host = machine.start().await;
    let rent = ["rent", "--gpu", "RTX 5090", "--image", "gpurent-test/busybox:1", "--duration", "20m"];
    let rented = machine.json(&[&rent[..], &["--name", "mine"]].concat()).await;
    let id = rented["rental"]["id"].as_str().unwrap();
    let inside = async |rented: &Value, command: &str| {
        let mut ssh = Command::new("sshpass");
        ssh.env("SSHPASS", rented["access"]["password"].as_str().unwrap()).env("GPURENT_URL", machine.url(""));
        text(
            &ssh.arg("-e")
                .arg(env!("CARGO_BIN_EXE_gpurent-host"))
                .args(["ssh", "mine", command])
                .output()
                .await
                .unwrap(),
        )
    };
    inside(&rented, "echo forty-two > /root/thesis.txt").await;
    machine.json(&["suspend", "mine"]).await;
    machine.until(id, &["suspended"], Duration::from_secs(30)).await;
    let table = text(&machine.run(&["ps"]).await);
    assert!(table.lines().nth(1).is_some_and(|row| row.contains("suspended") && row.contains("19m")), "{table}");
    let shown = text(&machine.run(&["show", "mine"]).await);
    assert!(shown.contains("MiB of files, until 20") && shown.contains("left"), "{shown}");
    let refused = machine.run(&["ssh", "mine"]).await;
    assert_eq!((refused.status.code(), said(&refused).contains("gpurent-host resume mine")), (Some(4), true));
    let extended = text(&machine.run(&["extend", "mine", "--by", "40m"]).await);
    assert!(extended.contains("59m") && extended.contains("from when it is resumed"), "{extended}");
    let resumed = text(&machine.run(&["resume", "mine"]).await);
    assert!(resumed.contains("ssh       ssh ") && resumed.contains("as they were before"), "{resumed}");
    assert_eq!(inside(&rented, "cat /root/thesis.txt").await, "forty-two");
    machine.run(&["stop", "mine"]).await;
    machine.until(id, &["terminated"], Duration::from_secs(30)).await;
    machine.assert_clean().await;
}

#[tokio::test]
async fn a_rentals_life_on_the_command_line() {
    let machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    let _host = machine.start().await;
    assert_eq!(machine.json(&["gpus"]).await["gpus"][0]["state"], "free");

    let key = ["--idempotency-key", "once", "--name", "mine", "--label", "team=a", "-p", "8888", "-e", "GREETING=hi"];
    let rent = ["rent", "--gpu", "RTX 5090", "--image", "gpurent-test/busybox:1", "--duration", "20m"];
    let rented = machine.json(&[&rent[..], &key[..]].concat()).await;
    let id = rented["rental"]["id"].as_str().unwrap();
    assert_eq!(rented["rental"]["state"], "ready");
    assert!(rented["access"]["password"].is_string());
    assert_eq!(machine.json(&[&rent[..], &key[..]].concat()).await["rental"]["id"], id, "the same request");

    let refused = machine.run(&[&rent[..], &["--name", "other"]].concat()).await;
    assert_eq!(
        (refused.status.code(), said(&refused).contains("RTX 5090 GPU of this host is rented")),
        (Some(4), true)
    );

    let table = text(&machine.run(&["ps"]).await);
    assert!(table.lines().nth(1).is_some_and(|row| row.contains("mine") && row.contains("ready")), "{table}");
    assert_eq!(machine.json(&["ps", "--label", "team=a"]).await["rentals"][0]["id"], id);
    assert_eq!(machine.json(&["ps", "--state", "failed,expired"]).await["rentals"], serde_json::json!([]));
    assert_eq!(machine.json(&["show", &id[..8]]).await["name"], "mine", "the beginning of an id");

    machine.run(&["extend", "mine", "--by", "10m"]).await;
    assert_eq!(machine.json(&["extend", "mine", "--to", "30m"]).await["duration_seconds"], 1800);

    // ssh itself asks for the password; the machine's own client is given it here.
    let mut ssh = Command::new("sshpass");
    ssh.env("SSHPASS", rented["access"]["password"].as_str().unwrap()).env("GPURENT_URL", machine.url(""));
    ssh.arg("-e").arg(env!("CARGO_BIN_EXE_gpurent-host")).args(["ssh", "mine", "echo", "$GREETING", "$IMAGE_VARIABLE"]);
    let inside = ssh.output().await.unwrap();
    assert_eq!(text(&inside), "hi from-image", "{inside:?}");
    // What a program prints is not obeyed by the terminal.
    let logs = machine.run(&["logs", "mine", "-n", "5"]).await;
    assert!(logs.status.success() && !logs.stdout.contains(&0x1b), "{logs:?}");

    let dry_run = ["reconcile", "--dry-run", "--host-id", &machine.host_id, "--data-dir", &machine.data_dir];
    let plan = text(&machine.run(&dry_run).await);
    assert!(plan.lines().nth(1).is_some_and(|row| row.contains(id) && row.contains("runs")), "{plan}");

    assert!(machine.run(&["stop", "mine"]).await.status.success());
    machine.until(id, &["terminated"], Duration::from_secs(30)).await;
    assert_eq!(machine.json(&["ps", "--all"]).await["rentals"][0]["state"], "terminated");
    assert_eq!(machine.json(&["gpus"]).await["gpus"][0]["state"], "free");
}

#[tokio::test]
async fn a_script_can_tell_failures_apart() {
    let machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    let rent = |image: &'static str, more: &[&'static str]| {
        [&["rent", "--gpu", "RTX 5090", "--duration", "10m", "--image", image], more].concat()
    };
    let code = async |arguments: &[&str]| machine.run(arguments).await.status.code().unwrap();
    assert_eq!(code(&["ps"]).await, 7, "nobody answers");
    let _host = machine.start().await;
    assert_eq!(code(&["ps", "--colour"]).await, 2);
    assert_eq!(code(&["show", "nobody"]).await, 3);
    assert_eq!(code(&["stop", "00000000-0000-4000-8000-000000000000"]).await, 3);
    assert_eq!(code(&rent("Not An Image", &[])).await, 5);
    assert_eq!(code(&rent("gpurent-test/exits:1", &[])).await, 8);
    let completions = text(&machine.run(&["completions", "bash"]).await);
    assert!(completions.contains("force-end"));

    // A key that the operator makes counts at once, and so does its end.
    let data = ["--data-dir", machine.data_dir.as_str()];
    let make = [&["keys"], &data[..], &["create", "--renter", "bob"]].concat();
    let made = machine.json(&make).await;
    assert_eq!(code(&["ps"]).await, 6, "without the key");
    let key = made["key"].as_str().unwrap();
    let with_key = machine.cli().arg("ps").env("GPURENT_API_KEY", key).output().await.unwrap();
    assert!(with_key.status.success(), "{with_key:?}");
    let listed = machine.json(&[&["keys"], &data[..], &["list"]].concat()).await;
    assert_eq!(listed["keys"][0]["owner"], "bob");
    assert!(!listed.to_string().contains(key));
    assert!(
        machine.run(&[&["keys"], &data[..], &["revoke", made["id"].as_str().unwrap()]].concat()).await.status.success()
    );
    assert_eq!(code(&["ps"]).await, 6, "the last key gone opens nothing");
    assert!(!machine.log().contains(key));
}

#[tokio::test]
async fn a_rental_whose_engine_is_gone_is_ended_by_force() {
    let machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    let mut host = machine.start().await;
    let id = machine.rent(&support::request("gpurent-test/busybox:1", "1h")).await;
    machine.until(&id, &["ready"], Duration::from_secs(30)).await;
    let force = ["force-end", id.as_str(), "--data-dir", machine.data_dir.as_str()];
    assert_eq!(machine.run(&force).await.status.code(), Some(2), "not without saying so");
    let sure = [&force[..], &["--the-engine-is-gone"]].concat();
    let refused = machine.run(&sure).await;
    assert_eq!((refused.status.code(), said(&refused).contains("agent acted")), (Some(4), true), "{refused:?}");
    host.kill().await;
    let refused = machine.run(&sure).await;
    assert_eq!((refused.status.code(), said(&refused).contains("agent acted")), (Some(4), true), "a moment ago");
    // An agent that ends in order says so.
    machine.start().await.terminate().await;
    let refused = machine.run(&sure).await;
    assert_eq!((refused.status.code(), said(&refused).contains("shows the rental's container")), (Some(4), true));
    assert_eq!(machine.show_stored(&id).await, "ready", "nothing was changed");
    let ended = machine.json(&[&sure[..], &["--docker", "unix:///run/gone.sock"]].concat()).await;
    assert_eq!(ended["bill"]["usage_micros"].as_i64().unwrap_or_default(), 0, "{ended}");
    // The engine is there after all: the agent removes what nobody pays for, and the GPU is free.
    let _host = machine.start().await;
    let ended = machine.show(&id).await;
    assert_eq!(ended["state"], "terminated", "{ended}");
    for _ in 0..500 {
        if machine.containers().await.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(machine.containers().await, Vec::<String>::new());
    // Until it is seen to be gone, its GPU is nobody else's.
    let again = support::request("gpurent-test/busybox:1", "1h");
    let mut made = machine.post("/v1/rentals", &again).await;
    for _ in 0..200 {
        if made.0 != 409 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        made = machine.post("/v1/rentals", &again).await;
    }
    assert_eq!(made.0, 201, "{}", made.1);
    let next = made.1["id"].as_str().unwrap().to_owned();
    machine.until(&next, &["ready"], Duration::from_secs(30)).await;
    machine.cancel(&next).await;
    machine.until(&next, &["terminated"], Duration::from_secs(30)).await;
}

#[tokio::test]
async fn what_ended_long_ago_is_exported_and_deleted() {
    let mut machine = Machine::new("simulated:1:RTX 5090");
    let mut host = machine.start().await;
    let rented = async |name: &str| {
        let rent = ["rent", "--gpu", "RTX 5090", "--image", "gpurent-test/busybox:1", "--duration", "20m"];
        let rented = machine.json(&[&rent[..], &["--name", name, "--env", "WORD=canary-4711"]].concat()).await;
        let id = rented["rental"]["id"].as_str().unwrap().to_owned();
        machine.json(&["stop", name]).await;
        machine.until(&id, &["terminated"], Duration::from_secs(30)).await;
        id
    };
    let (old, young) = (rented("old").await, rented("young").await);
    machine.age(&old, 2).await;
    let output = machine.run(&["archive", "--older-than", "1h"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");

    let printed = machine.run(&["archive", "--older-than", "1d"]).await;
    let file = format!("{}/archive.jsonl", machine.data_dir);
    let done = machine.json(&["archive", "--older-than", "1d", "--output", &file, "--delete"]).await;
    assert_eq!((&done["written"], &done["deleted"]), (&1.into(), &1.into()));
    let lines = std::fs::read_to_string(&file).unwrap();
    assert_eq!(lines, text(&printed) + "\n", "the same as was printed before");
    assert!(!lines.contains("canary-4711"), "{lines}");
    let line: Value = serde_json::from_str(&lines).unwrap();
    assert_eq!(line["rental"]["id"], *old);
    assert!(line["rental"]["bill"]["used_micros"].as_i64().unwrap() > 0, "{line}");
    let names: Vec<&str> = line["events"].as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!((names.first(), names.last()), (Some(&"claimed"), Some(&"ended")), "{names:?}");
    assert_eq!(machine.run(&["show", &old]).await.status.code(), Some(3));
    assert_eq!(machine.json(&["show", &young]).await["state"], "terminated");

    // The host does the same by itself where it was told to.
    machine.age(&young, 2).await;
    host.terminate().await;
    drop(host);
    machine.settings = vec!["--keep-ended=1d".to_owned()];
    let _host = machine.start().await;
    let folder = std::path::Path::new(&machine.data_dir).join("archive");
    let moved = async || {
        let file = std::fs::read_dir(&folder).ok()?.next()?.unwrap().path();
        Some(std::fs::read_to_string(file).unwrap()).filter(|lines| lines.contains(&young))
    };
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while moved().await.is_none() {
        assert!(std::time::Instant::now() < until, "{}", machine.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
