//! Canaries: every secret that a host is ever told is looked for everywhere it must not be.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::postgres::Postgres;
use support::{Machine, docker, environment, request};

const SOON: Duration = Duration::from_secs(40);

const PASSWORD: &str = "canary-first-password-4711";
const CHANGED: &str = "canary-changed-password-4712";
const REFUSED: &str = "canary-refused-password-4713";
const API_KEY: &str = "canary-api-key-4714-0123456789abcdef0123456789abcdef";
const SEAL_KEY: &str = "ca11ab1e4715000000000000000000000000000000000000000000000000cafe";
const VARIABLE: &str = "canary-variable-4716";
/// What the services' private registry takes.
const REGISTRY: &str = "registry-canary-4711";

/// What other processes can be asked for by anybody on the machine (arguments) or by root (environments): of the
/// host, the engine, and everything in the containers.
fn processes() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let path = process.path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // The test itself has all of them in its own memory, but not there.
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            for file in ["cmdline", "environ"] {
                // A process may have ended meanwhile.
                let text = std::fs::read(path.join(file)).unwrap_or_default();
                found.push((format!("{}/{file}", path.display()), String::from_utf8_lossy(&text).into_owned()));
            }
        }
    }
    found
}

#[tokio::test]
async fn secrets_show_nowhere() {
    let (open, private) = (environment("GPURENT_TEST_REGISTRY"), environment("GPURENT_TEST_PRIVATE_REGISTRY"));
    let image = "canaries";
    docker(&["tag", "gpurent-test/busybox:1", &format!("{open}/{image}:1")]).await;
    docker(&["push", "-q", &format!("{open}/{image}:1")]).await;
    docker(&["rmi", &format!("{open}/{image}:1")]).await;

    let postgres = Postgres::start().await;
    let mut machine = Machine::new("simulated:2:RTX 5090");
    machine.database = postgres.url();
    let key_file = format!("{}/api-key", machine.data_dir);
    std::fs::write(&key_file, API_KEY).unwrap();
    std::fs::write(format!("{}/seal.key", machine.data_dir), SEAL_KEY).unwrap();
    machine.settings = ["--api-key-file", &key_file].map(str::to_owned).to_vec();
    let mut headers = reqwest::header::HeaderMap::new();
    headers.insert("x-api-key", API_KEY.parse().unwrap());
    machine.client = support::http_with(headers);
    machine.environment = vec![("RUST_LOG".to_owned(), "trace".to_owned())];
    let _host = machine.start().await;

    let mut said = Vec::new();
    let mut refused = request("gpurent-test/busybox:1", "1h");
    refused["auth"] = json!({"password": REFUSED, "ssh_key": REFUSED});
    said.push(machine.post("/v1/rentals", &refused).await.1.to_string());
    let unpullable = json!({"gpu": "RTX 5090", "image": format!("{private}/{image}:none"), "duration": "1h",
        "auth": {"password": PASSWORD}, "registry": {"username": "renter", "password": REGISTRY}});
    let failed = machine.rent(&unpullable).await;
    said.push(machine.until(&failed, &["failed"], SOON).await.to_string());
    let mut body = request(&format!("{private}/{image}:1"), "1h");
    body["auth"] = json!({"password": PASSWORD});
    // A variable is the container's own; but whoever lists containers reads labels.
    body["environment"] = json!({"TOKEN": VARIABLE});
    body["registry"] = json!({"username": "renter", "password": REGISTRY});
    let id = machine.rent(&body).await;
    let ready = machine.until(&id, &["ready"], SOON).await;
    let container = ready["container_id"].as_str().unwrap().to_owned();
    let changed = machine.client.put(machine.url(&format!("/v1/rentals/{id}/access")));
    let changed = changed.json(&json!({"password": CHANGED})).send().await.unwrap();
    assert!(changed.status().is_success(), "{changed:?}");
    tokio::time::sleep(Duration::from_secs(3)).await;

    for path in ["/v1/rentals", "/v1/events?limit=500", "/v1/gpus", "/health", &format!("/v1/rentals/{id}")] {
        said.push(machine.get(path).await.to_string());
    }
    said.push(machine.get(&format!("/v1/rentals/{id}/logs")).await.to_string());
    said.push(docker(&["inspect", &container]).await);
    let labels = docker(&["inspect", "--format", "{{json .Config.Labels}}", &container]).await;
    assert!(labels.contains("io.gpurent.claim") && !labels.contains(VARIABLE), "{labels}");
    said.push(docker(&["logs", &container]).await);
    said.push(docker(&["image", "ls", "-a"]).await);
    said.push(machine.log());
    said.push(postgres.dump().await);
    let book = std::fs::read_dir(&machine.data_dir).unwrap().flatten().map(|file| file.path());
    let book = book.filter(|path| path.to_string_lossy().contains("deadlines")).collect::<Vec<_>>();
    assert_eq!(book.len(), 1, "{book:?}");
    said.push(std::fs::read_to_string(&book[0]).unwrap());

    let mut everywhere: Vec<_> = said.into_iter().map(|text| ("said".to_owned(), text)).collect();
    everywhere.extend(processes());
    for canary in [PASSWORD, CHANGED, REFUSED, API_KEY, SEAL_KEY, REGISTRY] {
        // As it is, as PostgreSQL prints bytes, and as a header would carry it.
        let hex: String = canary.bytes().map(|byte| format!("{byte:02x}")).collect();
        for form in [canary, &hex, &base64(canary)] {
            for (place, text) in &everywhere {
                let shown = text.split(form).next().filter(|before| before.len() < text.len());
                let shown = shown.map(|before| before.chars().rev().take(200).collect::<Vec<_>>());
                let shown: Option<String> = shown.map(|letters| letters.into_iter().rev().collect());
                assert_eq!(shown, None, "{form} shows in {place} after this");
            }
        }
    }
    // What the owner may see, the owner sees: the canary was really there.
    let access = machine.get(&format!("/v1/rentals/{id}/access")).await;
    assert!(access.to_string().contains(CHANGED), "{access}");

    machine.cancel(&id).await;
    machine.until(&id, &["terminated"], SOON).await;
    let dump = postgres.dump().await;
    assert_eq!(credentials(&dump), 0, "what was sealed is erased with the end");
    assert!(!dump.contains(VARIABLE), "and so is the environment");
    let access: Value = machine.get(&format!("/v1/rentals/{id}/access")).await;
    assert!(!access.to_string().contains(CHANGED), "{access}");
    machine.assert_clean().await;
}

/// The letters that a text has in base64 wherever it begins at a multiple of three bytes.
fn base64(text: &str) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let whole = text.as_bytes().chunks_exact(3);
    let letters = whole.flat_map(|three| {
        let bits = u32::from(three[0]) << 16 | u32::from(three[1]) << 8 | u32::from(three[2]);
        [18, 12, 6, 0].map(|shift| char::from(LETTERS[(bits >> shift & 63) as usize]))
    });
    letters.collect()
}

/// How many sealed credentials a dump holds.
fn credentials(dump: &str) -> usize {
    let table = dump.split("COPY gpurent.credential ").nth(1).expect("the table is in the dump");
    table.lines().skip(1).take_while(|line| *line != "\\.").count()
}
