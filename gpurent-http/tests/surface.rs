//! Both surfaces on the fakes: their shapes, and what they refuse.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod host;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use gpurent_core::allocation::PortPools;
use gpurent_core::clock::SystemClock;
use gpurent_core::host::HostBuilder;
use gpurent_core::memory::{MemoryRuntime, MemoryStore};
use gpurent_core::model::SealKey;
use gpurent_core::store::{KeyStore, NewKey, Role};
use gpurent_http::{ApiKey, ApiKeys, ServeError, Server};
use host::{Host, host, host_on, host_with};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

/// The request of the `rent` protocol's own documentation.
fn documented() -> Value {
    json!({
        "host_id": "a7d9397f-23a5-454d-a0f0-5373edf7a1f1",
        "gpu_type": "Tesla V100-SXM2-16GB",
        "os_image": "ubuntu:20.04",
        "duration_hours": 2,
        "auth_type": "password",
        "password": "mySecurePassword123",
        "instance_name": "my-gpu-instance",
        "environment_variables": {"CUDA_VISIBLE_DEVICES": "0", "PYTHONPATH": "/workspace"},
        "port_mappings": {"8080": "8080", "22": "2222"}
    })
}

fn with(body: &Value, changes: &[(&str, Value)]) -> Value {
    let mut body = body.clone();
    for (field, value) in changes {
        body[*field] = value.clone();
    }
    body
}

/// The next message that tells a status.
async fn next_status(socket: &mut (impl StreamExt<Item = Result<Message, Error>> + Unpin)) -> Value {
    loop {
        let Some(Ok(message)) = socket.next().await else { panic!("the socket closed") };
        if let Message::Text(text) = message {
            let message: Value = serde_json::from_str(&text).unwrap();
            if message["status"] != "live_update" {
                return message;
            }
        }
    }
}

fn keys_of(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn the_documented_request_gets_the_documented_answer() {
    let host = host().await;
    let (status, answer) = host.post("/rent", &documented()).await;
    assert_eq!(status, 200);
    assert_eq!(keys_of(&answer), ["container_id", "message", "rental_id", "ssh_port", "success", "web_port"]);
    let id = answer["rental_id"].as_str().unwrap();
    assert_eq!(answer["success"], true);
    assert_eq!(answer["message"], format!("Rental {id} started successfully"));
    assert_eq!((&answer["ssh_port"], &answer["web_port"]), (&json!(2222), &json!(8080)));
    assert!(answer["container_id"].is_string());
    // Sent again it is the same rental.
    assert_eq!(host.post("/rent", &documented()).await.1["rental_id"], answer["rental_id"]);
}

#[tokio::test]
async fn the_websocket_tells_the_documented_story() {
    let host = host().await;
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{}/ws", host.address)).await.unwrap();
    let (_, answer) = host.post("/rent", &documented()).await;
    let told = [next_status(&mut socket).await, next_status(&mut socket).await, next_status(&mut socket).await];
    let id = &answer["rental_id"];
    let container = answer["container_id"].as_str().unwrap();
    assert_eq!(
        told[0],
        json!({"instance_uuid": id, "status": "creating", "message": "Starting container creation..."})
    );
    assert_eq!(
        told[1],
        json!({"instance_uuid": id, "status": "running", "container_id": container,
               "message": format!("Container started with container ID: {container}")})
    );
    assert_eq!(
        told[2],
        json!({
            "instance_uuid": id, "status": "ready", "message": "GPU instance is ready for use", "container_id": container,
            "connection_info": {"ssh_host": "127.0.0.1", "ssh_port": 2222, "username": "root", "password": "mySecurePassword123"},
            "gpu_info": {"gpu_id": "0", "gpu_name": "Tesla V100-SXM2-16GB", "memory_allocated": "16GB"},
            "access_info": {"ssh_command": "ssh -p 2222 root@127.0.0.1", "jupyter_url": null, "vnc_url": null}
        })
    );
    let ended = host.client.delete(host.url(&format!("/v1/rentals/{}", id.as_str().unwrap()))).send().await.unwrap();
    assert_eq!(ended.status(), 202);
    let message = next_status(&mut socket).await;
    assert_eq!(message["status"], "terminated");
    assert!(message.get("connection_info").is_none());
}

#[tokio::test]
async fn no_free_gpu_is_refused_in_the_documented_words() {
    let host = host().await;
    let refused = json!({
        "success": false, "message": "No Tesla V100-SXM2-16GB GPUs available on this host",
        "container_id": null, "ssh_port": null, "web_port": null, "rental_id": null
    });
    for n in 0..2 {
        let body = with(&documented(), &[("instance_name", json!(format!("i{n}"))), ("port_mappings", json!({}))]);
        assert_eq!(host.post("/rent", &body).await.1["success"], true);
    }
    let body = with(&documented(), &[("instance_name", json!("i2"))]);
    assert_eq!(host.post("/rent", &body).await, (StatusCode::OK, refused));
    let unknown = with(&documented(), &[("gpu_type", json!("RTX 5090"))]);
    assert_eq!(host.post("/rent", &unknown).await.1["message"], "No RTX 5090 GPUs available on this host");
}

#[tokio::test]
async fn rent_refuses_bad_values_by_name_and_does_nothing() {
    let host = host().await;
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB9dG4kjRhQTtWTVzd2t27+t0DEHBPW7iOD23TUiYLio";
    let cases: Vec<(Value, &str)> = vec![
        (with(&documented(), &[("duration_hours", json!(0))]), "duration_hours"),
        (with(&documented(), &[("duration_hours", json!(-3))]), "duration_hours"),
        (with(&documented(), &[("duration_hours", json!(i64::MAX))]), "duration_hours"),
        (with(&documented(), &[("os_image", json!("Not An Image"))]), "os_image"),
        (with(&documented(), &[("gpu_type", json!(""))]), "gpu_type"),
        (with(&documented(), &[("instance_name", json!("x".repeat(20_000)))]), "instance_name"),
        (
            with(&documented(), &[("environment_variables", json!({"NVIDIA_VISIBLE_DEVICES": "all"}))]),
            "environment_variables",
        ),
        (with(&documented(), &[("environment_variables", json!({"A=B": "c"}))]), "environment_variables"),
        (with(&documented(), &[("port_mappings", json!({"0": "8080"}))]), "port_mappings"),
        (with(&documented(), &[("port_mappings", json!({"80": "70000"}))]), "port_mappings"),
        (with(&documented(), &[("port_mappings", json!({"80": "9000", "81": "9000"}))]), "port_mappings"),
        (with(&documented(), &[("port_mappings", json!({"80": "80"}))]), "port 80"),
        (with(&documented(), &[("password", json!(null))]), "password"),
        (with(&documented(), &[("password", json!("a\nroot::0"))]), "password"),
        (with(&documented(), &[("auth_type", json!("public_key"))]), "ssh_key"),
        (
            with(
                &documented(),
                &[("auth_type", json!("public_key")), ("ssh_key", json!(format!("command=\"x\" {key}")))],
            ),
            "ssh_key",
        ),
        (
            with(
                &documented(),
                &[("auth_type", json!("public_key")), ("ssh_key", json!(format!("{key}\nroot ALL=(ALL)")))],
            ),
            "ssh_key",
        ),
    ];
    for (body, field) in cases {
        let (status, answer) = host.post("/rent", &body).await;
        assert_eq!((status, &answer["success"]), (StatusCode::OK, &json!(false)), "{body}");
        assert_eq!(keys_of(&answer).len(), 6);
        assert!(answer["message"].as_str().unwrap().contains(field), "{answer} does not name {field}");
    }
    assert!(host.nothing_was_done().await);
}

#[tokio::test]
async fn rent_refuses_malformed_bodies_as_the_original_does() {
    let host = host().await;
    let mut missing = documented();
    missing.as_object_mut().unwrap().remove("os_image");
    let cases = [
        (missing, json!(["body", "os_image"])),
        (with(&documented(), &[("duration_hours", json!("soon"))]), json!(["body", "duration_hours"])),
        (with(&documented(), &[("auth_type", json!(["password"]))]), json!(["body", "auth_type"])),
    ];
    for (body, place) in cases {
        let (status, answer) = host.post("/rent", &body).await;
        assert_eq!((status, &answer["detail"][0]["loc"]), (StatusCode::UNPROCESSABLE_ENTITY, &place), "{answer}");
    }
    for body in ["{", "", "[]", "null", &format!("\"{}\"", "x".repeat(300_000))] {
        let request = host.client.post(host.url("/rent")).header("content-type", "application/json");
        let response = request.body(body.to_owned()).send().await.unwrap();
        assert_eq!(response.status(), 422);
        assert!(response.json::<Value>().await.unwrap()["detail"].is_array());
    }
    assert!(host.nothing_was_done().await);
}

#[tokio::test]
async fn a_database_that_is_down_is_an_answer_not_an_error() {
    let host = host().await;
    host.store.set_available(false);
    let (status, answer) = host.post("/rent", &documented()).await;
    assert_eq!((status, &answer["success"]), (StatusCode::OK, &json!(false)));
    assert_eq!(keys_of(&answer).len(), 6);
    let response = host.client.post(host.url("/v1/rentals")).json(&minimal()).send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(host.get("/health").await.0, 503);
    host.store.set_available(true);
    // What was found out is good for a second.
    while host.get("/health").await.0 != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_engine_that_is_away_is_told_of_and_takes_nobody_in() {
    let host = host().await;
    host.runtime.set_available(false);
    while host.get("/health").await.0 != 503 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let (_, health) = host.get("/health").await;
    let of = |part: &str| health[part].as_str().unwrap().to_owned();
    assert_eq!(["engine", "database", "lease", "disk"].map(of), ["unavailable", "ok", "ok", "ok"]);
    let refused = host.client.post(host.url("/v1/rentals")).json(&minimal()).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "10");
    assert_eq!(refused.json::<Value>().await.unwrap()["type"], "/problems/engine-unavailable");
    assert!(host.nothing_was_done().await, "no GPU is held for it");
    host.runtime.set_available(true);
    while host.get("/health").await.0 != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn minimal() -> Value {
    json!({"gpu": "V100", "image": "busybox", "duration": "90s"})
}

/// As sorted text, such as `9000/udp`, without the host's ports.
fn published(rental: &Value) -> Vec<String> {
    let text = |port: &Value| format!("{}/{}", port["container"], port["transport"].as_str().unwrap_or("tcp"));
    rental["ports"].as_array().unwrap().iter().map(text).collect()
}

#[tokio::test]
async fn ports_for_datagrams_are_asked_for_in_every_way_that_ports_are() {
    let host = host().await;
    let ports = json!(["9000/udp", "9000", 6006, {"container": 7000, "transport": "udp", "host": 30007}]);
    let (status, made) = host.post("/v1/rentals", &with(&minimal(), &[("ports", ports)])).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(published(&made), ["22/tcp", "6006/tcp", "7000/udp", "9000/tcp", "9000/udp"]);
    assert_eq!(made["ports"][2]["host"], 30007);
    let (status, refused) = host.post("/v1/rentals", &with(&minimal(), &[("ports", json!(["9000/sctp"]))])).await;
    assert_eq!(status, 422);
    assert!(refused.to_string().contains("must be tcp or udp"), "{refused}");

    let mappings = json!({"8080": "8080", "9000/udp": "30009"});
    let (status, made) = host.post("/rent", &with(&documented(), &[("port_mappings", mappings)])).await;
    assert_eq!(status, 200, "{made}");
    let (_, listed) = host.get("/v1/rentals").await;
    let rented = listed["rentals"].as_array().unwrap().iter().find(|rental| rental["ports"][2]["host"] == 30009);
    assert_eq!(published(rented.unwrap_or_else(|| panic!("{listed}"))), ["22/tcp", "8080/tcp", "9000/udp"]);
}

#[tokio::test]
async fn a_rental_of_v1_is_made_shown_listed_and_ended() {
    let host = host().await;
    let body = with(
        &minimal(),
        &[
            ("name", json!("one")),
            ("user", json!("gpu-user")),
            ("ports", json!([8888, {"container": 6006, "host": 30000}])),
        ],
    );
    let (status, made) = host.post("/v1/rentals", &body).await;
    assert_eq!(status, 201);
    assert!(
        made["ports"].as_array().unwrap().iter().all(|port| port["transport"].is_null()),
        "as before there was UDP"
    );
    assert_eq!(
        (&made["name"], &made["duration_seconds"], &made["user"]),
        (&json!("one"), &json!(90), &json!("gpu-user"))
    );
    let ports: BTreeMap<u64, u64> = made["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["container"].as_u64().unwrap(), p["host"].as_u64().unwrap()))
        .collect();
    assert_eq!(ports.keys().copied().collect::<Vec<_>>(), [22, 6006, 8888]);
    assert_eq!(ports[&6006], 30000);
    let path = format!("/v1/rentals/{}", made["id"].as_str().unwrap());
    while host.get(&path).await.1["state"] != "ready" {
        tokio::task::yield_now().await;
    }
    let (_, access) = host.get(&format!("{path}/access")).await;
    assert_eq!(access["password"].as_str().unwrap().len(), 24, "generated where none was given");
    let alias = access["host_key_alias"].as_str().unwrap().to_owned();
    assert_eq!(access["ssh_command"], format!("ssh -o HostKeyAlias={alias} -p {} gpu-user@127.0.0.1", ports[&22]));
    let known = access["known_hosts"].as_str().unwrap();
    assert!(known.lines().count() == 2 && known.lines().all(|line| line.starts_with(&*alias)), "{known}");
    assert!(!host.get(&path).await.1.to_string().contains(access["password"].as_str().unwrap()));
    assert_eq!(host.get("/v1/rentals?limit=1&state=ready").await.1["rentals"][0]["id"], made["id"]);
    assert_eq!(host.client.delete(host.url(&path)).send().await.unwrap().status(), 202);
    while host.get(&path).await.1["state"] != "terminated" {
        tokio::task::yield_now().await;
    }
    assert_eq!(host.client.delete(host.url(&path)).send().await.unwrap().status(), 200);
    let (_, access) = host.get(&format!("{path}/access")).await;
    assert_eq!(access["password"], Value::Null, "erased at the end");
}

#[tokio::test]
async fn v1_reads_sizes_and_durations_as_people_write_them() {
    let host = host().await;
    let limits = json!({"memory_bytes": "1.5g", "shm_bytes": "512Mi"});
    let body = with(&minimal(), &[("duration", json!(5400)), ("limits", limits), ("image", json!(" busybox "))]);
    let (status, made) = host.post("/v1/rentals", &body).await;
    assert_eq!((status.as_u16(), &made["duration_seconds"], &made["image"]), (201, &json!(5400), &json!("busybox")));
    let id = made["id"].as_str().unwrap();
    let (status, longer) = host.post(&format!("/v1/rentals/{id}/extend"), &json!({"by": 600})).await;
    assert_eq!((status.as_u16(), &longer["duration_seconds"]), (200, &json!(6000)), "{longer}");
}

#[tokio::test]
async fn v1_refuses_by_problem_and_does_nothing() {
    let host = host().await;
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB9dG4kjRhQTtWTVzd2t27+t0DEHBPW7iOD23TUiYLio";
    let cases: Vec<(Value, u16, &str)> = vec![
        (with(&minimal(), &[("gpu", json!("RTX 9999"))]), 422, "gpu"),
        (with(&minimal(), &[("gpu_count", json!(0))]), 422, "gpu_count"),
        (with(&minimal(), &[("gpu_count", json!(3))]), 422, "gpu"),
        (with(&minimal(), &[("image", json!("a b"))]), 422, "image"),
        (with(&minimal(), &[("duration", json!("0s"))]), 422, "duration"),
        (with(&minimal(), &[("duration", json!("-1h"))]), 422, "duration"),
        (with(&minimal(), &[("duration", json!("P99999999Y"))]), 422, "duration"),
        (with(&minimal(), &[("duration", json!(0))]), 422, "duration"),
        (with(&minimal(), &[("duration", json!(1.5))]), 422, "duration"),
        (with(&minimal(), &[("limits", json!({"memory_bytes": "4 apples"}))]), 422, "limits.memory_bytes"),
        (with(&minimal(), &[("limits", json!({"shm_bytes": "1.5.2g"}))]), 422, "limits.shm_bytes"),
        (with(&minimal(), &[("auth", json!({"password": "x"}))]), 422, "auth.password"),
        (with(&minimal(), &[("auth", json!({"password": "long enough", "ssh_key": key}))]), 422, "auth"),
        (with(&minimal(), &[("auth", json!({"ssh_key": "ssh-rsa AAAA"}))]), 422, "auth.ssh_key"),
        (with(&minimal(), &[("user", json!("Root User"))]), 422, "user"),
        (with(&minimal(), &[("ports", json!([80, 80]))]), 422, "ports"),
        (with(&minimal(), &[("ports", json!([{"container": 80, "host": 22}]))]), 422, "ports"),
        (with(&minimal(), &[("environment", json!({"LD_PRELOAD": "/x"}))]), 422, "environment"),
        (with(&minimal(), &[("limits", json!({"memory_bytes": 1}))]), 422, "memory"),
        (with(&minimal(), &[("limits", json!({"memory_bytes": 1u64 << 40}))]), 422, "memory"),
        (with(&minimal(), &[("limits", json!({"milli_cpus": 1_000_000}))]), 422, "cpus"),
        (with(&minimal(), &[("ports", json!([{"container": 80, "host_port": 9000}]))]), 422, "ports[0]"),
        (with(&minimal(), &[("lables", json!({}))]), 422, "lables"),
        (json!({"gpu": "V100"}), 422, "image"),
    ];
    for (body, status, field) in cases {
        let (got, problem) = host.post("/v1/rentals", &body).await;
        assert_eq!((got.as_u16(), &problem["field"]), (status, &json!(field)), "{body} gave {problem}");
        assert!(problem["type"].as_str().unwrap().starts_with("/problems/"), "{problem}");
    }
    let huge = with(&minimal(), &[("name", json!("x".repeat(300_000)))]);
    assert_eq!(host.post("/v1/rentals", &huge).await.0, 413);
    assert_eq!(host.get("/v1/rentals/not-an-id").await.0, 404);
    assert_eq!(host.get("/v1/rentals?limit=0").await.0, 422);
    assert_eq!(host.get("/v1/nothing").await.0, 404);
    assert_eq!(host.client.put(host.url("/v1/rentals")).send().await.unwrap().status(), 405);
    let typed = host.client.post(host.url("/v1/rentals")).body(minimal().to_string()).send().await.unwrap();
    assert_eq!(typed.status(), 415);
    assert!(host.nothing_was_done().await);
}

#[tokio::test]
async fn a_name_in_use_is_a_conflict_unless_the_request_is_the_same() {
    let host = host().await;
    let body = with(&minimal(), &[("name", json!("same"))]);
    let (_, first) = host.post("/v1/rentals", &body).await;
    let (status, again) = host.post("/v1/rentals", &body).await;
    assert_eq!((status.as_u16(), &again["id"]), (200, &first["id"]));
    let (status, problem) = host.post("/v1/rentals", &with(&body, &[("image", json!("other"))])).await;
    assert_eq!((status.as_u16(), &problem["type"]), (409, &json!("/problems/name-taken")));
}

#[tokio::test]
async fn without_a_key_only_this_machine_is_served() {
    let host = host().await;
    for (name, value) in [("host", "evil.example"), ("origin", "https://evil.example")] {
        let response = host.client.get(host.url("/v1/rentals")).header(name, value).send().await.unwrap();
        assert_eq!(response.status(), 403, "{name}");
    }
    let (rentals, _reconciler) = HostBuilder::new(
        "other".parse().unwrap(),
        Arc::new(MemoryStore::default()),
        Arc::new(MemoryRuntime::with_clock(Arc::new(SystemClock::new()))),
        Arc::new(SealKey::generate().0),
        Vec::new(),
        PortPools::new("1-2".parse().unwrap(), "3-4".parse().unwrap()).unwrap(),
    )
    .build();
    let refused = Server::bind("0.0.0.0:0".parse().unwrap(), rentals, ApiKeys::default()).await;
    assert!(matches!(refused, Err(ServeError::KeylessOffLoopback(_))));
}

#[tokio::test]
async fn renters_see_and_end_their_own_rentals_only() {
    let keys = ["a-key-of-renter-one", "a-key-of-renter-two", "a-key-of-the-platform"];
    let host = host_with(ApiKeys::new(vec![
        ApiKey::renter(keys[0], "one".parse().unwrap()).unwrap(),
        ApiKey::renter(keys[1], "two".parse().unwrap()).unwrap(),
        ApiKey::platform(keys[2], "platform".parse().unwrap()).unwrap(),
    ]))
    .await;
    let listen = async |key: &str| {
        let mut request = format!("ws://{}/ws", host.address).into_client_request().unwrap();
        request.headers_mut().insert("x-api-key", key.parse().unwrap());
        tokio_tungstenite::connect_async(request).await.unwrap().0
    };
    let (mut two, mut platform) = (listen(keys[1]).await, listen(keys[2]).await);
    let made = host.client.post(host.url("/v1/rentals")).bearer_auth(keys[0]).json(&minimal()).send().await.unwrap();
    let made: Value = made.json().await.unwrap();
    let path = format!("/v1/rentals/{}", made["id"].as_str().unwrap());
    for (key, status, listed) in [(keys[0], 200, 1), (keys[1], 404, 0), (keys[2], 200, 1)] {
        for path in [path.clone(), format!("{path}/access")] {
            let response = host.client.get(host.url(&path)).bearer_auth(key).send().await.unwrap();
            assert_eq!(response.status(), status, "{path}");
        }
        let list = host.client.get(host.url("/v1/rentals")).bearer_auth(key).send().await.unwrap();
        let list: Value = list.json().await.unwrap();
        assert_eq!(list["rentals"].as_array().unwrap().len(), listed);
    }
    let ended = host.client.delete(host.url(&path)).bearer_auth(keys[1]).send().await.unwrap();
    assert_eq!(ended.status(), 404);
    assert_eq!(next_status(&mut platform).await["instance_uuid"], made["id"]);
    // The first thing that renter two hears of is their own.
    let own = host.client.post(host.url("/v1/rentals")).bearer_auth(keys[1]).json(&minimal()).send().await.unwrap();
    let own: Value = own.json().await.unwrap();
    assert_eq!(next_status(&mut two).await["instance_uuid"], own["id"]);
}

#[tokio::test]
async fn with_a_key_only_its_holders_are_served() {
    let key = "0123456789abcdef0123456789abcdef";
    let host = host_with(ApiKeys::new(vec![ApiKey::platform(key, "platform".parse().unwrap()).unwrap()])).await;
    assert_eq!(host.get("/v1/rentals").await.0, 401);
    assert_eq!(host.post("/rent", &documented()).await.0, 401);
    let url = format!("ws://{}/ws", host.address);
    let shows = |first: Value| {
        let url = url.clone();
        async move {
            let mut socket = tokio_tungstenite::connect_async(url).await.unwrap().0;
            socket.send(Message::Text(first.to_string().into())).await.unwrap();
            socket
        }
    };
    for wrong in [json!({"api_key": "0123456789abcdef0123456789abcdeX"}), json!({"hello": 1}), json!("x")] {
        let closed = shows(wrong).await.next().await;
        assert!(
            matches!(&closed, Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 1008),
            "{closed:?}"
        );
    }
    let mut late = shows(json!({"api_key": key})).await;
    let wrong = host.client.get(host.url("/v1/rentals")).bearer_auth("0123456789abcdef0123456789abcdeX");
    assert_eq!(wrong.send().await.unwrap().status(), 401);
    let right = host.client.get(host.url("/v1/rentals")).bearer_auth(key).send().await.unwrap();
    assert_eq!(right.status(), 200);
    assert_eq!(host.get("/health").await.0, 200, "health needs no key");
    let made = host.client.post(host.url("/v1/rentals")).bearer_auth(key).json(&minimal()).send().await.unwrap();
    assert_eq!(made.status(), 201);
    assert_eq!(next_status(&mut late).await["status"], "creating", "who has shown a key later hears as much");
}

/// A host whose container engine can be told what to do.
async fn until(host: &Host, id: &str, state: &str) -> Value {
    for _ in 0..2000 {
        let (_, rental) = host.get(&format!("/v1/rentals/{id}")).await;
        if rental["state"] == state {
            return rental;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    panic!("never {state}")
}

fn v1_request() -> Value {
    json!({"gpu": "V100", "image": "ubuntu:22.04", "duration": "1h"})
}

async fn rent_with_key(host: &Host, key: &str, body: &Value) -> (StatusCode, Value) {
    let request = host.client.post(host.url("/v1/rentals")).header("Idempotency-Key", key).json(body);
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_makes_one_rental_however_often_it_is_sent() {
    let host = host().await;
    let body = v1_request();
    let answers = futures_util::future::join_all((0..1000).map(|_| rent_with_key(&host, "\"key 1\"", &body)));
    // A space is no part of a key.
    assert!(answers.await.iter().all(|(status, _)| *status == 422));
    let answers = futures_util::future::join_all((0..1000).map(|_| rent_with_key(&host, "key-1", &body))).await;
    let made: Vec<_> = answers.iter().filter(|(status, _)| *status == 201).collect();
    assert_eq!(made.len(), 1);
    assert!(answers.iter().all(|(status, rental)| status.is_success() && rental["id"] == made[0].1["id"]));
    let (status, problem) = rent_with_key(&host, "key-1", &with(&body, &[("duration", json!("2h"))])).await;
    assert_eq!((status.as_u16(), &problem["type"]), (422, &json!("/problems/idempotency-key-reused")));
    assert_eq!(rent_with_key(&host, "\"key-1\"", &body).await.1["id"], made[0].1["id"], "quoted, as the draft has it");
    assert_eq!(host.get("/v1/rentals").await.1["rentals"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_rental_is_extended_by_and_to_a_duration() {
    let host = host().await;
    let id = host.post("/v1/rentals", &v1_request()).await.1["id"].as_str().unwrap().to_owned();
    let before = until(&host, &id, "ready").await;
    let path = format!("/v1/rentals/{id}/extend");
    let (status, extended) = host.post(&path, &json!({"by": "30m"})).await;
    assert_eq!((status.as_u16(), &extended["duration_seconds"]), (200, &json!(5400)));
    let at = |rental: &Value| rental["expires_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(at(&extended).duration_since(at(&before)).as_mins(), 30);
    for _ in 0..2 {
        assert_eq!(host.post(&path, &json!({"to": "3h"})).await.1["duration_seconds"], 10_800);
    }
    for (body, field) in [
        (json!({"to": "1h"}), "to"),
        (json!({"by": "370d"}), "by"),
        (json!({}), "by"),
        (json!({"by": "1h", "to": "9h"}), "by"),
        (json!({"by": "soon"}), "by"),
    ] {
        let (status, problem) = host.post(&path, &body).await;
        assert_eq!((status.as_u16(), &problem["field"]), (422, &json!(field)), "{body} {problem}");
    }
    host.client.delete(host.url(&format!("/v1/rentals/{id}"))).send().await.unwrap();
    let (status, problem) = host.post(&path, &json!({"by": "1h"})).await;
    assert_eq!((status.as_u16(), &problem["type"]), (409, &json!("/problems/rental-over")));
}

#[tokio::test]
async fn access_is_changed_while_the_rental_runs() {
    let host = host().await;
    let id = host.post("/v1/rentals", &v1_request()).await.1["id"].as_str().unwrap().to_owned();
    until(&host, &id, "ready").await;
    let path = format!("/v1/rentals/{id}/access");
    let first = host.get(&path).await.1;
    let put = async |body: Value| {
        let response = host.client.put(host.url(&path)).json(&body).send().await.unwrap();
        (response.status(), response.json::<Value>().await.unwrap())
    };
    let made_up = put(json!({})).await.1;
    assert_ne!(made_up["password"], first["password"]);
    assert_eq!(put(json!({"password": "another-one"})).await.1["password"], "another-one");
    assert_eq!(put(json!({"password": "a-b-c", "ssh_key": "x"})).await.0, 422);
    for _ in 0..1000 {
        if host.get(&path).await.1["pending"] == false {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert_eq!(host.get(&path).await.1["pending"], false);
}

#[tokio::test]
async fn gpus_are_shown_with_who_has_them() {
    let host = host().await;
    let id = host.post("/v1/rentals", &v1_request()).await.1["id"].clone();
    let gpus = host.get("/v1/gpus").await.1;
    let state = |n: usize| gpus["gpus"][n]["state"].as_str().unwrap().to_owned();
    let mut states = [state(0), state(1)];
    states.sort();
    assert_eq!(states, ["free", "rented"]);
    assert!(gpus["gpus"].as_array().unwrap().iter().any(|gpu| gpu["rental_id"] == id && gpu["model"].is_string()));
}

#[tokio::test]
async fn lists_are_filtered_by_the_words_that_they_show() {
    let host = host().await;
    let named = with(&v1_request(), &[("name", json!("mine")), ("labels", json!({"team": "a=b"}))]);
    let id = host.post("/v1/rentals", &named).await.1["id"].as_str().unwrap().to_owned();
    until(&host, &id, "ready").await;
    let other = host.post("/v1/rentals", &v1_request()).await.1["id"].as_str().unwrap().to_owned();
    host.client.delete(host.url(&format!("/v1/rentals/{other}"))).send().await.unwrap();
    until(&host, &other, "terminated").await;
    for (query, expected) in [
        ("state=ready", vec![&id]),
        ("state=terminated", vec![&other]),
        ("state=terminated,ready", vec![&other, &id]),
        ("state=expired", vec![]),
        ("name=mine", vec![&id]),
        ("label=team=a%3Db", vec![&id]),
        ("label=team=x", vec![]),
        ("renter=local&limit=1", vec![&other]),
    ] {
        let (status, page) = host.get(&format!("/v1/rentals?{query}")).await;
        let ids: Vec<_> = page["rentals"].as_array().unwrap_or_else(|| panic!("{status} {page}")).iter().collect();
        assert_eq!(ids.iter().map(|rental| rental["id"].as_str().unwrap()).collect::<Vec<_>>(), expected, "{query}");
    }
    let after = host.get("/v1/rentals?limit=1").await.1["next"].as_str().unwrap().to_owned();
    assert_eq!(host.get(&format!("/v1/rentals?after={after}")).await.1["rentals"][0]["id"], id);
    for query in ["state=gone", "label=team", "limit=0", "limit=x", "colour=red", "after=1"] {
        assert_eq!(host.get(&format!("/v1/rentals?{query}")).await.0, 422, "{query}");
    }
}

#[tokio::test]
async fn logs_are_those_of_the_container_and_then_what_was_kept() {
    let host = host().await;
    let id = host.post("/v1/rentals", &v1_request()).await.1["id"].as_str().unwrap().to_owned();
    until(&host, &id, "ready").await;
    let launch = host.runtime.containers()[0];
    for line in ["one", "two", "three"] {
        host.runtime.print(launch, line);
    }
    let path = format!("/v1/rentals/{id}/logs");
    assert_eq!(host.get(&path).await.1, json!({"lines": ["one", "two", "three"], "live": true}));
    assert_eq!(host.get(&format!("{path}?tail=1")).await.1["lines"], json!(["three"]));
    assert_eq!(host.get(&format!("{path}?tail=100000")).await.0, 422);
    host.client.delete(host.url(&format!("/v1/rentals/{id}"))).send().await.unwrap();
    until(&host, &id, "terminated").await;
    assert_eq!(host.get(&format!("{path}?tail=2")).await.1, json!({"lines": ["two", "three"], "live": false}));
}

/// Positions and types of what a stream tells of one rental, until it has ended.
async fn read_sse(host: &Host, path: &str, last_event_id: Option<&str>) -> Vec<(u64, String)> {
    let mut request = host.client.get(host.url(path)).header("Accept", "text/event-stream");
    if let Some(id) = last_event_id {
        request = request.header("Last-Event-ID", id);
    }
    let mut response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let (mut text, mut told) = (String::new(), Vec::new());
    while let Some(chunk) = response.chunk().await.unwrap() {
        text.push_str(&String::from_utf8_lossy(&chunk));
        while let Some(end) = text.find("\n\n") {
            let message: String = text.drain(..end + 2).collect();
            let Some(data) = message.lines().find_map(|line| line.strip_prefix("data: ")) else { continue };
            let event: Value = serde_json::from_str(data).unwrap();
            let Some(position) = event["position"].as_u64() else { continue };
            assert!(message.contains(&format!("id: {position}")), "{message}");
            let kind = event["type"].as_str().unwrap().to_owned();
            told.push((position, kind.clone()));
            if kind == "ended" {
                return told;
            }
        }
    }
    panic!("the stream ended")
}

#[tokio::test]
async fn events_are_told_once_and_in_order_live_and_from_any_position() {
    let host = host().await;
    let live = tokio::spawn({
        let host = host.clone();
        async move { read_sse(&host, "/v1/events", None).await }
    });
    let (mut socket, _) =
        tokio_tungstenite::connect_async(format!("ws://{}/v1/events?after=0", host.address)).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let id = host.post("/v1/rentals", &v1_request()).await.1["id"].as_str().unwrap().to_owned();
    until(&host, &id, "ready").await;
    host.client.delete(host.url(&format!("/v1/rentals/{id}"))).send().await.unwrap();
    until(&host, &id, "terminated").await;

    let live = live.await.unwrap();
    let kinds: Vec<_> = live.iter().map(|(_, kind)| kind.as_str()).collect();
    assert_eq!(kinds, ["claimed", "created", "started", "verified", "end_began", "stopped", "ended"]);
    assert_eq!(live.iter().map(|(position, _)| *position).collect::<Vec<_>>(), (1..=7).collect::<Vec<_>>());
    assert_eq!(read_sse(&host, "/v1/events?after=0", None).await, live, "from the beginning");
    assert_eq!(read_sse(&host, "/v1/events?after=0", Some("4")).await, live[4..], "where a browser resumes");
    assert_eq!(read_sse(&host, &format!("/v1/events?after=2&rental={id}"), None).await, live[2..]);

    let mut told = Vec::new();
    while told.last() != Some(&"ended".to_owned()) {
        let Some(Ok(Message::Text(text))) = socket.next().await else { panic!("the socket closed") };
        let event: Value = serde_json::from_str(&text).unwrap();
        if event["position"].is_u64() {
            told.push(event["type"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(told, kinds);

    let page = host.get("/v1/events?after=5&limit=1").await.1;
    assert_eq!((&page["events"][0]["type"], &page["next"]), (&json!("stopped"), &json!(6)));
    let (status, problem) = host.get("/v1/events?after=99").await;
    assert_eq!((status.as_u16(), &problem["type"]), (410, &json!("/problems/unknown-cursor")));
}

#[tokio::test]
async fn events_of_others_are_not_told() {
    let keys = ["0123456789abcdef-one", "0123456789abcdef-two"];
    let renter = |n: usize, name: &str| ApiKey::renter(keys[n], name.parse().unwrap()).unwrap();
    let host = host_with(ApiKeys::new(vec![renter(0, "one"), renter(1, "two")])).await;
    for key in keys {
        let body = v1_request();
        let made = host.client.post(host.url("/v1/rentals")).bearer_auth(key).json(&body).send().await.unwrap();
        assert_eq!(made.status(), 201);
    }
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    for (key, renter) in keys.into_iter().zip(["one", "two"]) {
        let page = host.client.get(host.url("/v1/events")).bearer_auth(key).send().await.unwrap();
        let page: Value = page.json().await.unwrap();
        let claims: Vec<_> =
            page["events"].as_array().unwrap().iter().filter(|event| event["type"] == "claimed").collect();
        assert_eq!(claims.len(), 1);
        assert_eq!(claims[0]["data"]["renter"], renter);
        let gpus = host.client.get(host.url("/v1/gpus")).bearer_auth(key).send().await.unwrap();
        let gpus: Value = gpus.json().await.unwrap();
        let named = gpus["gpus"].as_array().unwrap().iter().filter(|gpu| gpu["rental_id"].is_string()).count();
        assert_eq!(named, 1, "all are rented, one of them by this renter");
    }
}

#[tokio::test]
async fn keys_of_the_store_come_and_go_while_the_server_runs() {
    let store = Arc::new(MemoryStore::default());
    let host = host_on(store.clone(), ApiKeys::default().with_store(store.clone())).await;
    assert_eq!(host.get("/v1/rentals").await.0, 200, "as long as there is no key");
    let new = NewKey::generate("one".parse().unwrap(), Role::Renter, jiff::Timestamp::now());
    store.add_key(&new.record).await.unwrap();
    assert_eq!(host.get("/v1/rentals").await.0, 401);
    let with_key = async || {
        host.client.get(host.url("/v1/rentals")).bearer_auth(new.expose()).send().await.unwrap().status().as_u16()
    };
    assert_eq!(with_key().await, 200);
    store.set_available(false);
    assert_eq!(with_key().await, 503);
    store.set_available(true);
    store.revoke_key(&new.record.id).await.unwrap();
    assert_eq!(with_key().await, 401);
}

#[tokio::test]
async fn without_a_key_a_proxy_on_this_machine_is_not_this_machine() {
    let host = host().await;
    let get =
        |name: &'static str, value: &'static str| host.client.get(host.url("/v1/rentals")).header(name, value).send();
    assert_eq!(get("accept", "*/*").await.unwrap().status(), 200);
    for (name, value) in [("x-forwarded-for", "203.0.113.7"), ("forwarded", "for=203.0.113.7"), ("x-real-ip", "::1")] {
        assert_eq!(get(name, value).await.unwrap().status(), 403, "{name}");
    }
}

#[tokio::test]
async fn the_last_key_revoked_opens_nothing() {
    let store = Arc::new(MemoryStore::default());
    let new = NewKey::generate("one".parse().unwrap(), Role::Renter, jiff::Timestamp::now());
    store.add_key(&new.record).await.unwrap();
    let host = host_on(store.clone(), ApiKeys::default().with_store(store.clone())).await;
    assert_eq!(host.get("/v1/rentals").await.0, 401);
    store.revoke_key(&new.record.id).await.unwrap();
    assert_eq!(host.get("/v1/rentals").await.0, 401);
}

#[tokio::test]
async fn a_renter_does_not_take_all_places_to_listen() {
    let keys = ["0123456789abcdef-one", "0123456789abcdef-all"];
    let host = host_with(ApiKeys::new(vec![
        ApiKey::renter(keys[0], "one".parse().unwrap()).unwrap(),
        ApiKey::platform(keys[1], "all".parse().unwrap()).unwrap(),
    ]))
    .await;
    let listen = |key: &'static str| {
        host.client.get(host.url("/v1/events")).header("accept", "text/event-stream").bearer_auth(key).send()
    };
    let mut open = Vec::new();
    for _ in 0..32 {
        let stream = listen(keys[0]).await.unwrap();
        assert_eq!(stream.status(), 200);
        open.push(stream);
    }
    assert_eq!(listen(keys[0]).await.unwrap().status(), 503);
    assert_eq!(listen(keys[1]).await.unwrap().status(), 200);
    // Whoever leaves makes room.
    open.clear();
    for _ in 0..500 {
        if listen(keys[0]).await.unwrap().status() == 200 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("places are not given back")
}
