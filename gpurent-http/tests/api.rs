//! What `/v1` has besides renting: pauses, preconditions, terminals, its own description, rates, the audit log.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod host;

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use gpurent_core::memory::MemoryStore;
use gpurent_http::{ApiKey, ApiKeys, HttpLimits};
use host::{Host, host, host_as, host_with};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const OPERATOR: &str = "operator-operator-operator";
const ONE: &str = "renter-one-renter-one";
const TWO: &str = "renter-two-renter-two";

fn keys() -> ApiKeys {
    ApiKeys::new(vec![
        ApiKey::operator(OPERATOR, "operator".parse().unwrap()).unwrap(),
        ApiKey::renter(ONE, "one".parse().unwrap()).unwrap(),
        ApiKey::renter(TWO, "two".parse().unwrap()).unwrap(),
    ])
}

fn minimal() -> Value {
    json!({"gpu": "V100", "image": "ubuntu:22.04", "duration": "1h"})
}

async fn rented(host: &Host) -> String {
    let (status, made) = host.post("/v1/rentals", &minimal()).await;
    assert_eq!(status, 201, "{made}");
    let id = made["id"].as_str().unwrap().to_owned();
    host.until(&id, "ready").await;
    id
}

#[tokio::test]
async fn a_rental_is_suspended_and_resumed() {
    let host = host().await;
    let id = rented(&host).await;
    let (status, rental) = host.post(&format!("/v1/rentals/{id}/suspend"), &json!({})).await;
    assert!(status == 202 || status == 200, "{rental}");
    let suspended = host.until(&id, "suspended").await;
    assert_eq!((&suspended["gpus"], &suspended["ports"]), (&json!([]), &json!([])));
    assert_eq!(suspended["suspension"]["message"], "Suspended on request");
    let (_, listed) = host.get("/v1/rentals?state=suspended").await;
    assert_eq!(listed["rentals"].as_array().unwrap().len(), 1);
    let others = [host.post("/v1/rentals", &minimal()).await, host.post("/v1/rentals", &minimal()).await];
    assert!(others.iter().all(|(status, _)| *status == 201), "its GPU is free");
    let (status, problem) = host.post(&format!("/v1/rentals/{id}/resume"), &json!({})).await;
    assert_eq!((status.as_u16(), &problem["type"]), (409, &json!("/problems/no-gpu-free")));
    let other = others[0].1["id"].as_str().unwrap();
    host.client.delete(host.url(&format!("/v1/rentals/{other}"))).send().await.unwrap();
    host.until(other, "terminated").await;
    let (status, _) = host.post(&format!("/v1/rentals/{id}/resume"), &json!({})).await;
    assert_eq!(status, 202);
    let again = host.until(&id, "ready").await;
    assert_eq!(again["segments"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_change_is_made_only_of_what_was_seen() {
    let host = host().await;
    let id = rented(&host).await;
    let path = host.url(&format!("/v1/rentals/{id}"));
    let etag = host.client.get(&path).send().await.unwrap().headers()["etag"].clone();
    let extend = |tag: &str| {
        let request = host.client.post(format!("{path}/extend")).json(&json!({"by": "1h"})).header("if-match", tag);
        async move { request.send().await.unwrap() }
    };
    let first = extend(etag.to_str().unwrap()).await;
    assert_eq!(first.status(), 200);
    let stale = extend(etag.to_str().unwrap()).await;
    assert_eq!(stale.status(), 412);
    assert_eq!(stale.json::<Value>().await.unwrap()["type"], "/problems/precondition-failed");
    assert_eq!(extend("*").await.status(), 200);
    assert_eq!(extend("weak").await.status(), 422);
    for verb in ["suspend", "resume"] {
        let stale = host.client.post(format!("{path}/{verb}")).header("if-match", &etag).send().await.unwrap();
        assert_eq!(stale.status(), 412, "{verb}");
    }
    let stale = host.client.put(format!("{path}/access")).json(&json!({})).header("if-match", &etag);
    assert_eq!(stale.send().await.unwrap().status(), 412);
    assert_eq!(host.client.delete(&path).header("if-match", &etag).send().await.unwrap().status(), 412);
    assert_eq!(host.get(&format!("/v1/rentals/{id}")).await.1["state"], "ready");
}

#[tokio::test]
async fn a_shell_answers_on_a_websocket() {
    let host = host().await;
    let id = rented(&host).await;
    let url = format!("ws://{}/v1/rentals/{id}/terminal?columns=100&rows=30", host.address);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    socket.send(Message::Binary(b"ls\n".to_vec().into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_data(), b"ls\n".as_slice());
    socket.send(Message::Text(r#"{"resize":{"columns":133,"rows":44}}"#.into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_data(), b"[133x44]".as_slice());
    let command = "command=%5B%22echo%22%2C%22hi%22%5D";
    let url = format!("ws://{}/v1/rentals/{id}/terminal?{command}", host.address);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_data(), b"echo hi".as_slice());
    let exit: Value = serde_json::from_str(socket.next().await.unwrap().unwrap().to_text().unwrap()).unwrap();
    assert_eq!(exit, json!({"exit_code": 0}));
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
    let (status, problem) = host.get(&format!("/v1/rentals/{id}/terminal")).await;
    assert_eq!((status.as_u16(), &problem["type"]), (426, &json!("/problems/upgrade-required")));
}

#[tokio::test]
async fn a_terminal_is_its_renters_alone() {
    let host = host_with(keys()).await;
    let made = host.client.post(host.url("/v1/rentals")).bearer_auth(ONE).json(&minimal()).send().await.unwrap();
    let id = made.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
    let url = format!("ws://{}/v1/rentals/{id}/terminal", host.address);
    while host.rentals.get(id.parse().unwrap()).await.unwrap().unwrap().segments().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut request = url.as_str().into_client_request().unwrap();
    request.headers_mut().insert("x-api-key", TWO.parse().unwrap());
    assert!(tokio_tungstenite::connect_async(request).await.is_err(), "somebody else's, by header");
    for (key, works) in [(TWO, false), (ONE, true)] {
        let (mut socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
        socket.send(Message::Text(json!({"api_key": key}).to_string().into())).await.unwrap();
        socket.send(Message::Binary(b"x".to_vec().into())).await.unwrap();
        let answer = socket.next().await.unwrap().unwrap();
        assert_eq!(matches!(&answer, Message::Binary(_)), works, "{answer:?}");
    }
}

#[tokio::test]
async fn output_is_followed() {
    let host = host().await;
    let id = rented(&host).await;
    let launch = host.rentals.get(id.parse().unwrap()).await.unwrap().unwrap().launch();
    host.runtime.print(launch, "one");
    host.runtime.print(launch, "two");
    let response =
        host.client.get(host.url(&format!("/v1/rentals/{id}/logs?follow=true&tail=1"))).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(response.text().await.unwrap(), "two\n");
}

#[tokio::test]
async fn the_api_describes_itself_without_anything_from_elsewhere() {
    let host = host_with(keys()).await;
    let (status, api) = host.get("/v1/openapi.json").await;
    assert_eq!((status.as_u16(), api["openapi"].as_str().unwrap()), (200, "3.1.0"));
    let paths = api["paths"].as_object().unwrap();
    for path in ["/v1/rentals", "/v1/rentals/{id}", "/v1/rentals/{id}/resume", "/v1/events", "/v1/audit", "/v1/gpus"] {
        assert!(paths.contains_key(path), "{path}");
    }
    // What is not of `/v1` as well.
    for (path, method) in [
        ("/health", "get"),
        ("/v1/openapi.json", "get"),
        ("/v1/docs", "get"),
        ("/ws", "get"),
        ("/rent", "post"),
        ("/start_instance", "post"),
        ("/terminate_instance", "post"),
        ("/api/containers", "post"),
        ("/api/containers/{id}", "get"),
        ("/get_docker_image_details/{id}", "get"),
        ("/delete_docker_image/{id}", "delete"),
        ("/downloads/{file}", "get"),
        ("/api/gpu/instances", "get"),
        ("/api/gpu/instances", "post"),
        ("/api/gpu/instances/{id}", "delete"),
    ] {
        assert!(paths[path][method]["operationId"].is_string(), "{method} {path}");
    }
    let operations =
        || paths.iter().flat_map(|(path, does)| does.as_object().unwrap().values().map(move |does| (path, does)));
    let mut ids: Vec<_> = operations().map(|(_, does)| does["operationId"].as_str().unwrap()).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
    let open =
        operations().filter(|(_, does)| does["security"] == serde_json::json!([{}])).map(|(path, _)| path.as_str());
    assert_eq!(
        open.collect::<std::collections::BTreeSet<_>>(),
        ["/downloads/{file}", "/health", "/v1/docs", "/v1/openapi.json"].into()
    );
    // What is said to be part of the path is, and nothing else.
    for (path, methods) in paths {
        for parameters in methods.as_object().unwrap().values().filter_map(|does| does["parameters"].as_array()) {
            for parameter in parameters {
                let name = parameter["name"].as_str().unwrap();
                let in_path = path.contains(&format!("{{{name}}}"));
                assert_eq!(parameter["in"] == "path", in_path, "{name} of {path}");
            }
        }
    }
    let no_socket = host.client.get(host.url("/ws")).bearer_auth(ONE).send().await.unwrap();
    assert_eq!(no_socket.status(), 426, "as described");
    let page = host.client.get(host.url("/v1/docs")).send().await.unwrap();
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    let page = page.text().await.unwrap();
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("//cdn"), "works offline");
}

#[tokio::test]
async fn who_calls_too_often_waits_and_others_do_not_notice() {
    let limits = HttpLimits::default().rate(5);
    let host = host_as(Arc::new(MemoryStore::default()), keys(), |surfaces| surfaces.with_limits(limits)).await;
    let call = async |key: &str| host.client.get(host.url("/v1/gpus")).bearer_auth(key).send().await.unwrap();
    let first = call(ONE).await;
    assert_eq!(first.headers()["ratelimit-limit"], "10");
    assert_eq!(first.headers()["ratelimit-remaining"], "9");
    assert!(first.headers().contains_key("ratelimit-reset"));
    let mut last = first;
    for _ in 0..12 {
        last = call(ONE).await;
    }
    assert_eq!(last.status(), 429);
    assert_eq!(last.headers()["retry-after"], "1");
    assert_eq!(call(TWO).await.status(), 200);
    let guess = async || host.client.get(host.url("/v1/gpus")).bearer_auth("wrong-wrong-wrong").send().await.unwrap();
    let mut statuses = Vec::new();
    for _ in 0..12 {
        statuses.push(guess().await.status().as_u16());
    }
    assert_eq!((statuses[0], statuses[11]), (401, 429), "guessing is slow");
}

#[tokio::test]
async fn a_renter_changes_only_so_much_a_minute_by_all_of_their_keys() {
    let limits = HttpLimits::default().rate(0).changes(5);
    let host = host_as(Arc::new(MemoryStore::default()), keys(), |surfaces| surfaces.with_limits(limits)).await;
    let refused = async |key: &str| {
        let made = host.client.post(host.url("/v1/rentals")).bearer_auth(key).json(&json!({})).send().await.unwrap();
        made.status().as_u16()
    };
    for _ in 0..5 {
        assert_eq!(refused(ONE).await, 422);
    }
    assert_eq!(refused(ONE).await, 429);
    let read = host.client.get(host.url("/v1/rentals")).bearer_auth(ONE).send().await.unwrap();
    assert_eq!(read.status(), 200, "reading is counted apart");
    assert_eq!(refused(TWO).await, 422);
    for _ in 0..20 {
        assert_eq!(refused(OPERATOR).await, 422, "whoever asks for many is not counted");
    }
}

#[tokio::test]
async fn a_key_in_a_first_message_is_a_guess_too() {
    let limits = HttpLimits::default().rate(5);
    let host = host_as(Arc::new(MemoryStore::default()), keys(), |surfaces| surfaces.with_limits(limits)).await;
    let mut opened = Vec::new();
    let mut turned_away = 0;
    for _ in 0..40 {
        match tokio_tungstenite::connect_async(host.url("/v1/events").replace("http", "ws")).await {
            Ok((socket, _)) => opened.push(socket),
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
                assert_eq!(answer.status(), 429);
                turned_away += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(turned_away >= 25, "{turned_away} of 40");
}

#[tokio::test]
async fn who_did_what_is_written_down_for_operators() {
    let store = Arc::new(MemoryStore::default());
    let log = store.clone();
    let host = host_as(store, keys(), |surfaces| surfaces.with_audit(log)).await;
    let made = host.client.post(host.url("/v1/rentals")).bearer_auth(ONE).json(&minimal()).send().await.unwrap();
    let id = made.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
    host.client.get(host.url(&format!("/v1/rentals/{id}"))).bearer_auth(ONE).send().await.unwrap();
    host.client.get(host.url(&format!("/v1/rentals/{id}/access?x=1"))).bearer_auth(ONE).send().await.unwrap();
    host.client.delete(host.url(&format!("/v1/rentals/{id}"))).bearer_auth(TWO).send().await.unwrap();
    let asked = async |key: &str| host.client.get(host.url("/v1/audit")).bearer_auth(key).send().await.unwrap();
    assert_eq!(asked(ONE).await.status(), 403);
    let mut entries = Vec::new();
    for _ in 0..200 {
        let page: Value = asked(OPERATOR).await.json().await.unwrap();
        entries = page["entries"].as_array().unwrap().clone();
        if entries.len() == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let told: Vec<_> = entries
        .iter()
        .rev()
        .map(|entry| {
            (entry["renter"].as_str().unwrap(), entry["action"].as_str().unwrap(), entry["status"].as_u64().unwrap())
        })
        .collect();
    let (access, end) = (format!("GET /v1/rentals/{id}/access"), format!("DELETE /v1/rentals/{id}"));
    assert_eq!(told, [("one", "POST /v1/rentals", 201), ("one", access.as_str(), 200), ("two", end.as_str(), 404)]);
    assert_eq!(entries[0]["address"], "127.0.0.1");
}

#[tokio::test]
async fn pages_of_other_origins_may_call_only_where_that_is_configured() {
    let preflight = async |host: &Host| {
        let request = host.client.request(reqwest::Method::OPTIONS, host.url("/v1/rentals"));
        let request =
            request.header("origin", "https://console.example").header("access-control-request-method", "POST");
        request.header("access-control-request-headers", "authorization").send().await.unwrap()
    };
    let closed = host_with(keys()).await;
    assert!(!preflight(&closed).await.headers().contains_key("access-control-allow-origin"));
    let origins = vec!["https://console.example".parse().unwrap()];
    let open = host_as(Arc::new(MemoryStore::default()), keys(), |surfaces| surfaces.allow_origins(origins)).await;
    let allowed = preflight(&open).await;
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://console.example");
    let get = open.client.get(open.url("/v1/gpus")).bearer_auth(ONE).header("origin", "https://evil.example");
    assert!(!get.send().await.unwrap().headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_workspace_is_the_renters_own() {
    let host = host_with(keys()).await;
    let rent = async |key: &str, workspace: Value| {
        let mut body = minimal();
        body["workspace"] = workspace;
        let made = host.client.post(host.url("/v1/rentals")).bearer_auth(key).json(&body).send().await.unwrap();
        (made.status().as_u16(), made.json::<Value>().await.unwrap())
    };
    assert_eq!(rent(ONE, json!({})).await.0, 201);
    assert_eq!(rent(TWO, json!({"name": "one", "mount": "/data"})).await.0, 201);
    for wrong in
        [json!({"name": "../one"}), json!({"mount": "/etc"}), json!({"mount": "/a/../b"}), json!({"path": "/"})]
    {
        assert_eq!(rent(ONE, wrong.clone()).await.0, 422, "{wrong}");
    }
    let folders: Vec<_> = loop {
        let folders = host.runtime.workspaces();
        if folders.len() == 2 {
            break folders.keys().map(ToString::to_string).collect();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(folders, ["one", "two@one"]);
}

#[tokio::test]
async fn customers_of_one_platform_share_no_folder() {
    const PLATFORM: &str = "platform-platform-platform";
    let keys = ApiKeys::new(vec![ApiKey::platform(PLATFORM, "shop".parse().unwrap()).unwrap()]);
    let host = host_with(keys).await;
    for _ in 0..2 {
        let body = json!({"template": "pytorch", "gpu": "Tesla V100", "access": ["ssh"]});
        let made = host.client.post(host.url("/api/gpu/instances")).bearer_auth(PLATFORM).json(&body).send().await;
        let made = made.unwrap();
        assert_eq!(made.status(), 201, "{}", made.text().await.unwrap());
    }
    assert_eq!(host.runtime.workspaces().len(), 2);
}

#[tokio::test]
async fn without_a_gpu_is_rented_where_that_is_asked_for() {
    let host = host().await;
    let (status, made) = host.post("/v1/rentals", &json!({"image": "ubuntu:22.04", "duration": "1h"})).await;
    assert_eq!((status.as_u16(), &made["gpus"]), (201, &json!([])));
    let ready = host.until(made["id"].as_str().unwrap(), "ready").await;
    assert_eq!(ready["bill"]["currency"], "USD");
}
