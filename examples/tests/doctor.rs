//! The doctor: what keeps a machine from renting out well, and what mends it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::Value;
use support::{Machine, request};
use tokio::process::Command;

/// The exit code and the findings, but for those of the kernel, which is the machine's that the tests run on.
async fn doctor(machine: &Machine, more: &[&str]) -> (i32, Vec<Value>) {
    let doctor = Command::new(env!("CARGO_BIN_EXE_gpurent-host"))
        .args(["doctor", "--json", "--database", &machine.database, "--docker", &machine.docker])
        .args(["--gpus", &machine.gpus, "--host-id", &machine.host_id, "--data-dir", &machine.data_dir])
        .args(more)
        .envs(machine.environment.iter().cloned())
        .kill_on_drop(true)
        .output();
    let doctor = tokio::time::timeout(Duration::from_secs(60), doctor).await.expect("it ends in time").unwrap();
    let said: Value = serde_json::from_slice(&doctor.stdout).unwrap_or_else(|error| panic!("{error}: {doctor:?}"));
    let findings = said["findings"].as_array().unwrap();
    assert_eq!(doctor.status.code(), Some(if findings.is_empty() { 0 } else { 9 }), "{doctor:?}");
    let of_the_host = findings.iter().filter(|finding| finding["part"] != "kernel").cloned().collect();
    (doctor.status.code().unwrap(), of_the_host)
}

#[tokio::test]
async fn each_fault_is_found_with_its_remedy_and_a_machine_that_is_well_has_none() {
    let mut machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    assert_eq!(doctor(&machine, &[]).await.1, Vec::<Value>::new());
    assert!(!std::path::Path::new(&machine.data_dir).join("gpurent.db").exists(), "nothing is set up");

    machine.gpus = "nvml:GPU-00000000-0000-0000-0000-000000000000".to_owned();
    machine.docker = "unix:///nowhere/docker.sock".to_owned();
    machine.database = "postgres://gpurent@127.0.0.1:1/gpurent".to_owned();
    machine.environment = vec![("DOCKER_MEM_SWAP".to_owned(), "8g".to_owned())];
    std::fs::set_permissions(&machine.data_dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    let (code, findings) = doctor(
        &machine,
        &[
            "--manager",
            "127.0.0.1",
            "--templates",
            "/nowhere",
            "--tls-certificate",
            "/nowhere",
            "--tls-key",
            "/nowhere",
        ],
    )
    .await;
    assert_eq!(code, 9);
    for (part, found, remedy) in [
        ("settings", "DOCKER_MEM_SWAP is set and not read", "no swap"),
        ("settings", "the manager calls port 8510", "--dashboard-listen"),
        ("settings", "/nowhere", "--templates"),
        ("settings", "/nowhere", "--tls-certificate"),
        ("gpus", "no GPUs to rent out", "--gpus"),
        ("engine", "does not serve", "--docker"),
        ("files", "can be written by everybody", "--data-dir"),
        ("database", "the database cannot be used", "--database"),
    ] {
        let says = |finding: &&Value, key: &str, text: &str| finding[key].as_str().unwrap().contains(text);
        let told = findings.iter().filter(|finding| finding["part"] == part);
        let told = told.filter(|finding| says(finding, "found", found) && says(finding, "remedy", remedy)).count();
        assert_eq!(told, 1, "{part}: {findings:#?}");
    }
    assert_eq!(findings.len(), 8, "{findings:#?}");
}

#[tokio::test]
async fn a_database_that_grows_is_told_of() {
    let machine = Machine::new("simulated:1:RTX 5090");
    let _host = machine.start().await;
    let id = machine.rent(&request("gpurent-test/busybox:1", "20m")).await;
    machine.cancel(&id).await;
    machine.until(&id, &["terminated"], Duration::from_secs(30)).await;
    assert_eq!(doctor(&machine, &[]).await.1, Vec::<Value>::new());
    machine.age(&id, 366).await;
    let (_, findings) = doctor(&machine, &[]).await;
    assert_eq!((findings.len(), &findings[0]["part"]), (1, &"database".into()), "{findings:?}");
    assert!(findings[0]["remedy"].as_str().unwrap().contains("--keep-ended"), "{findings:?}");
    assert_eq!(doctor(&machine, &["--keep-ended", "400d"]).await.1, Vec::<Value>::new(), "it is moved out some day");
}
