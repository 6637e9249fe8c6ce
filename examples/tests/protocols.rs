//! Every protocol's own documented requests, kept as data beside this file, sent to a running host on a real engine
//! and a real database; with what is seen from outside of it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use support::{Host, Machine, docker, ssh, text};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

const KEY: &str = "protocol-key-protocol-key";

fn read(file: &str) -> Value {
    let path = format!("{}/tests/protocols/{file}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Puts in what was kept: `{name}` in any text.
fn filled(value: &Value, kept: &BTreeMap<String, String>) -> Value {
    match value {
        Value::String(text) => {
            let fill = |text: String, (name, value): (&String, &String)| text.replace(&format!("{{{name}}}"), value);
            Value::String(kept.iter().fold(text.clone(), fill))
        }
        Value::Array(all) => all.iter().map(|one| filled(one, kept)).collect(),
        Value::Object(fields) => fields.iter().map(|(name, one)| (name.clone(), filled(one, kept))).collect(),
        other => other.clone(),
    }
}

/// What is different from what was promised, if anything. `exactly`: no field more either.
fn difference(promised: &Value, found: &Value, exactly: bool, at: &str) -> Option<String> {
    let differs = || Some(format!("{at}: {found} instead of {promised}"));
    match promised {
        Value::String(kind) => match (kind.as_str(), found) {
            ("<any>", _)
            | ("<text>", Value::String(_))
            | ("<number>", Value::Number(_))
            | ("<list>", Value::Array(_)) => None,
            (kind, Value::String(text)) if kind == text => None,
            _ => differs(),
        },
        Value::Object(fields) => {
            let Value::Object(has) = found else { return differs() };
            if exactly && has.len() != fields.len() {
                return differs();
            }
            let each = |(name, one): (&String, &Value)| {
                difference(one, has.get(name).unwrap_or(&Value::Null), exactly, &format!("{at}.{name}"))
            };
            fields.iter().find_map(each)
        }
        Value::Array(all) => {
            let Value::Array(has) = found else { return differs() };
            if has.len() != all.len() {
                return differs();
            }
            all.iter()
                .zip(has)
                .enumerate()
                .find_map(|(n, (one, found))| difference(one, found, exactly, &format!("{at}[{n}]")))
        }
        plain if plain == found => None,
        _ => differs(),
    }
}

struct Replay {
    file: Value,
    machine: Machine,
    kept: BTreeMap<String, String>,
}

impl Replay {
    async fn of(file: &str) -> Self {
        let file = read(file);
        for image in file["images"].as_array().unwrap() {
            docker(&["tag", "gpurent-test/busybox:1", image.as_str().unwrap()]).await;
        }
        let mut machine = Machine::new(file["gpus"].as_str().unwrap());
        let settings = file["settings"].as_array().cloned().unwrap_or_default();
        machine.settings = settings.iter().map(|setting| setting.as_str().unwrap().to_owned()).collect();
        if file["key"] == json!(true) {
            machine.environment.push(("GPURENT_API_KEY".to_owned(), KEY.to_owned()));
        }
        Self { file, machine, kept: BTreeMap::new() }
    }

    fn is_keyed(&self) -> bool {
        self.file["key"] == json!(true)
    }

    async fn step(&mut self, step: &Value) {
        let request = filled(&step["request"], &self.kept);
        let method: reqwest::Method = request["method"].as_str().unwrap().parse().unwrap();
        let mut sent = self.machine.client.request(method, self.machine.url(request["path"].as_str().unwrap()));
        if self.is_keyed() && step["without_key"] != json!(true) {
            sent = sent.bearer_auth(KEY);
        }
        if let Some(word) = step["bearer"].as_str() {
            sent = sent.bearer_auth(word);
        }
        if !request["body"].is_null() {
            let kind = step["content_type"].as_str().unwrap_or("application/json");
            sent = sent.header("content-type", kind).body(request["body"].to_string());
        }
        let begun = Instant::now();
        let answer = sent.send().await.unwrap();
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap_or(Value::Null);
        let promised = filled(&step["answer"], &self.kept);
        let about = format!("{}: {status} {body} after {:?}\n{}", step["say"], begun.elapsed(), self.machine.log());
        assert_eq!(difference(&promised["status"], &json!(status), false, "status"), None, "{about}");
        if !promised["body"].is_null() {
            let exactly = promised["exactly"] == json!(true);
            assert_eq!(difference(&promised["body"], &body, exactly, "body"), None, "{about}");
        }
        for (name, path) in step["keep"].as_object().into_iter().flatten() {
            let found = path.as_str().unwrap().split('.').fold(&body, |found, part| &found[part]);
            self.kept.insert(name.clone(), found.as_str().unwrap_or_else(|| panic!("{name} in {about}")).to_owned());
        }
    }

    /// Sends everything, and compares every answer, and what was told meanwhile of the first rental.
    async fn run(&mut self) -> Host<'static> {
        let machine: &'static Machine =
            Box::leak(Box::new(std::mem::replace(&mut self.machine, Machine::new("simulated:1:RTX 5090"))));
        let host = machine.start().await;
        // The same settings; only the running host's are used from here on.
        self.machine.port = machine.port;
        self.machine.host_id.clone_from(&machine.host_id);
        self.machine.access_dir.clone_from(&machine.access_dir);
        self.machine.data_dir.clone_from(&machine.data_dir);
        let promised = self.file["told"].as_array().cloned().unwrap_or_default();
        let mut request = format!("ws://127.0.0.1:{}/ws", machine.port).into_client_request().unwrap();
        if self.is_keyed() {
            request.headers_mut().insert("authorization", format!("Bearer {KEY}").parse().unwrap());
            let gpus = self.machine.client.get(machine.url("/v1/gpus")).bearer_auth(KEY).send().await.unwrap();
            let gpus: Value = gpus.json().await.unwrap();
            self.kept.insert("gpu".to_owned(), gpus["gpus"][0]["uuid"].as_str().unwrap().to_owned());
        }
        let (socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
        let told = Told::listen(socket);
        for step in self.file["steps"].as_array().unwrap().clone() {
            if let Some(status) = step["until"].as_str() {
                told.until(machine, |told| told.iter().any(|message| message["status"] == status)).await;
            } else {
                self.step(&step).await;
            }
        }
        told.until(machine, |told| told.len() >= promised.len()).await;
        let updates = self.file["live_updates"].as_array().cloned().unwrap_or_default();
        let begun = Instant::now();
        while told.1.lock().unwrap().len() < updates.len() {
            assert!(begun.elapsed() < Duration::from_secs(20), "told {:?}", told.1.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let live = told.1.lock().unwrap().clone();
        for (promised, told) in updates.iter().zip(&live) {
            assert_eq!(difference(&filled(promised, &self.kept), told, false, "live_update"), None, "{live:?}");
        }
        let told = told.0.lock().unwrap().clone();
        for (promised, told) in promised.iter().zip(&told) {
            assert_eq!(difference(&filled(promised, &self.kept), told, false, "told"), None, "{told}");
        }
        host
    }
}

/// The messages about the first rental, and the live updates of all but pulls.
struct Told(Arc<Mutex<Vec<Value>>>, Arc<Mutex<Vec<Value>>>);

impl Told {
    fn listen(mut socket: impl StreamExt<Item = Result<Message, Error>> + Unpin + Send + 'static) -> Self {
        let told = Arc::new(Mutex::new(Vec::<Value>::new()));
        let heard = Arc::clone(&told);
        let updates = Arc::new(Mutex::new(Vec::<Value>::new()));
        let live = Arc::clone(&updates);
        tokio::spawn(async move {
            while let Some(Ok(message)) = socket.next().await {
                let Message::Text(text) = message else { continue };
                let message: Value = serde_json::from_str(&text).unwrap();
                let mut heard = heard.lock().unwrap();
                if message["status"] == "live_update" && !message["message"].to_string().contains("Pulling") {
                    live.lock().unwrap().push(message.clone());
                }
                let of_the_first = heard.first().is_none_or(|first| first["instance_uuid"] == message["instance_uuid"]);
                if message["status"] != "live_update" && of_the_first {
                    heard.push(message);
                }
            }
        });
        Self(told, updates)
    }

    async fn until(&self, machine: &Machine, is_so: impl Fn(&[Value]) -> bool) {
        let begun = Instant::now();
        while !is_so(&self.0.lock().unwrap()) {
            assert!(begun.elapsed() < Duration::from_secs(20), "told {:?}\n{}", self.0.lock().unwrap(), machine.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn the_rent_protocol_as_documented() {
    let mut replay = Replay::of("rent").await;
    let _host = replay.run().await;
    let login = replay.file["login"].clone();
    let (user, password) = (login["user"].as_str().unwrap(), login["password"].as_str().unwrap());
    let seen = ssh(login["port"].as_u64().unwrap(), user, password, "echo $PYTHONPATH").await;
    assert_eq!(text(&seen), "/workspace");
    let listed = replay.machine.get("/v1/rentals").await;
    for rental in listed["rentals"].as_array().unwrap() {
        let id = rental["id"].as_str().unwrap();
        replay.machine.cancel(id).await;
        replay.machine.until(id, &["terminated"], Duration::from_secs(30)).await;
    }
    assert!(replay.machine.containers().await.is_empty());
}

/// Values in every form that the original takes, names that are not unique, other words for a key.
#[tokio::test]
async fn the_rent_protocol_as_its_clients_speak_it() {
    let mut replay = Replay::of("rent_clients").await;
    let _host = replay.run().await;
    let listed = replay.machine.get("/v1/rentals").await;
    let rentals = listed["rentals"].as_array().unwrap();
    assert!(rentals.iter().all(|rental| rental["labels"]["rent.instance_name"] == "My test rig"), "{listed}");
    assert_eq!(rentals.len(), 2, "the same request is the same rental");
    for rental in rentals {
        let id = rental["id"].as_str().unwrap();
        replay.machine.cancel(id).await;
        replay.machine.until(id, &["terminated"], Duration::from_secs(30)).await;
    }
}

#[tokio::test]
async fn the_instances_protocol_as_documented() {
    let mut replay = Replay::of("instances").await;
    let _host = replay.run().await;
    assert!(replay.machine.containers().await.is_empty());
}

#[tokio::test]
async fn the_dashboard_protocol_as_documented() {
    let mut replay = Replay::of("dashboard").await;
    let _host = replay.run().await;
    assert!(replay.machine.containers().await.is_empty());
    let workspaces = format!("{}/workspaces", replay.machine.data_dir);
    let mut folders: Vec<_> = std::fs::read_dir(&workspaces)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    folders.sort();
    assert_eq!(folders, ["%2E.%2Fesc%2Fu1", "user1", "user2"], "and nothing outside");
}

/// Each call within the time that its client waits.
#[tokio::test]
async fn the_dashboard_protocol_as_its_clients_speak_it() {
    let mut replay = Replay::of("dashboard_clients").await;
    let _host = replay.run().await;
    let images = replay.machine.get("/get_docker_images").await;
    let rows = images["images"].as_array().unwrap();
    assert!(
        rows.iter().all(|row| row["repository"].is_string() && row["tag"].is_string()),
        "the page lower-cases them"
    );
    assert!(rows.iter().any(|row| row["full_tag"] == "gpu-dev-env-test:latest"), "{images}");
    assert!(replay.machine.containers().await.is_empty());
}

#[tokio::test]
async fn the_cloud_protocol_as_documented() {
    let mut replay = Replay::of("cloud").await;
    let _host = replay.run().await;
    assert!(replay.machine.containers().await.is_empty());
}

/// A manager hears when a host comes and goes.
#[tokio::test]
async fn a_dashboard_manager_is_told_when_the_host_comes_and_goes() {
    let heard = Arc::new(Mutex::new(Vec::<(String, Value)>::new()));
    let told = Arc::clone(&heard);
    let note = move |uri: axum::http::Uri, axum::Json(body): axum::Json<Value>| {
        let told = Arc::clone(&told);
        async move { told.lock().unwrap().push((uri.path().to_owned(), body)) }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let router = axum::Router::new().fallback(axum::routing::post(note));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let mut machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    let own = support::free_port().to_string();
    let own_listener = format!("127.0.0.1:{own}");
    let installers = tempfile::tempdir().unwrap();
    std::fs::write(installers.path().join("viewer.msi"), "an installer").unwrap();
    let offered = installers.path().to_str().unwrap();
    let settings = ["--manager", "127.0.0.1", "--manager-port", &port, "--dashboard-listen", &own_listener];
    let settings = [&settings as &[&str], &["--dashboard-downloads", offered]].concat();
    machine.settings = settings.into_iter().map(str::to_owned).collect();
    let mut host = machine.start().await;
    let begun = Instant::now();
    while heard.lock().unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{}", machine.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The dashboard's own listener has the dashboard and nothing else.
    let status =
        async |path: &str| support::http().get(format!("http://{own_listener}{path}")).send().await.unwrap().status();
    assert_eq!(status("/get_containers").await, 200);
    assert_eq!(status("/health").await, 200);
    assert_eq!(status("/v1/rentals").await, 404);
    assert_eq!(status("/downloads/viewer.msi").await, 200);
    host.signal("TERM").await;
    host.ended(Duration::from_secs(20)).await;
    let told = heard.lock().unwrap().clone();
    let promised = json!({"agent_ip": "127.0.0.1"});
    let expected = ["/api/register_agent", "/api/unregister_agent"].map(|path| (path.to_owned(), promised.clone()));
    assert_eq!(told, expected);
}
