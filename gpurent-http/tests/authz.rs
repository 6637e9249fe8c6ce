//! What one renter does to another's rental, by every protocol: nothing, and learns nothing of it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod host;

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use gpurent_http::{ApiKey, ApiKeys};
use host::{Host, host_with};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const OPERATOR: &str = "operator-operator-operator";
const PLATFORM: &str = "platform-platform-platform";
const ONE: &str = "renter-one-renter-one";
const TWO: &str = "renter-two-renter-two";
const SSH_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB9dG4kjRhQTtWTVzd2t27+t0DEHBPW7iOD23TUiYLio";

async fn host() -> Host {
    host_with(ApiKeys::new(vec![
        ApiKey::operator(OPERATOR, "operator".parse().unwrap()).unwrap(),
        ApiKey::platform(PLATFORM, "platform".parse().unwrap()).unwrap(),
        ApiKey::renter(ONE, "one".parse().unwrap()).unwrap(),
        ApiKey::renter(TWO, "two".parse().unwrap()).unwrap(),
    ]))
    .await
}

async fn ask(host: &Host, key: &str, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let mut request = host.client.request(method, host.url(path)).bearer_auth(key);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or(Value::Null))
}

async fn get(host: &Host, key: &str, path: &str) -> (u16, Value) {
    ask(host, key, Method::GET, path, None).await
}

async fn post(host: &Host, key: &str, path: &str, body: Value) -> (u16, Value) {
    ask(host, key, Method::POST, path, Some(body)).await
}

async fn rented(host: &Host, key: &str) -> Value {
    let wanted = json!({"image": "ubuntu:22.04", "duration": "1h"});
    let (status, made) = post(host, key, "/v1/rentals", wanted).await;
    assert_eq!(status, 201, "{made}");
    ready(host, key, made["id"].as_str().unwrap()).await
}

async fn ready(host: &Host, key: &str, id: &str) -> Value {
    loop {
        let (_, rental) = get(host, key, &format!("/v1/rentals/{id}")).await;
        if rental["state"] == "ready" {
            return rental;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// All routes of a rental, as a stranger to it would try them.
fn routes(id: &str) -> Vec<(Method, String, Option<Value>)> {
    let rental = format!("/v1/rentals/{id}");
    let fingerprint = format!("SHA256:{}", "a".repeat(43));
    let read = |path: String| (Method::GET, path, None);
    let change = |path: &str, body: Value| (Method::POST, format!("{rental}{path}"), Some(body));
    vec![
        read(rental.clone()),
        read(format!("{rental}/access")),
        read(format!("{rental}/logs")),
        read(format!("{rental}/logs?follow=true")),
        read(format!("{rental}/logs?access=true")),
        read(format!("/v1/events?rental={id}")),
        (Method::PUT, format!("{rental}/access"), Some(json!({}))),
        change("/access/keys", json!({"ssh_key": SSH_KEY})),
        (Method::DELETE, format!("{rental}/access/keys?fingerprint={fingerprint}"), None),
        change("/extend", json!({"by": "1h"})),
        change("/suspend", json!({})),
        change("/resume", json!({})),
        (Method::DELETE, rental, None),
    ]
}

#[tokio::test]
async fn no_route_of_v1_does_anything_for_somebody_else() {
    let host = host().await;
    let theirs = rented(&host, TWO).await;
    let id = theirs["id"].as_str().unwrap();
    for (method, path, body) in routes(id) {
        let (status, problem) = ask(&host, ONE, method.clone(), &path, body).await;
        assert_eq!((status, &problem["type"]), (404, &json!("/problems/not-found")), "{method} {path}: {problem}");
    }
    let after = ready(&host, TWO, id).await;
    assert_eq!(after["revision"], theirs["revision"], "nothing was written");
}

#[tokio::test]
async fn an_id_in_another_form_is_no_other_door() {
    let host = host().await;
    let theirs = rented(&host, TWO).await;
    let id = theirs["id"].as_str().unwrap();
    for form in [id.to_uppercase(), format!("%7B{id}%7D"), format!("urn:uuid:{id}"), id.replace('-', "")] {
        for (method, end) in [(Method::GET, ""), (Method::GET, "/access"), (Method::DELETE, "")] {
            let (status, answer) = ask(&host, ONE, method, &format!("/v1/rentals/{form}{end}"), None).await;
            assert_eq!(status, 404, "{form}{end}: {answer}");
        }
    }
    ready(&host, TWO, id).await;
}

#[tokio::test]
async fn lists_show_ones_own_whatever_is_asked_for() {
    let host = host().await;
    let before = rented(&host, ONE).await;
    let theirs = rented(&host, TWO).await;
    let after = rented(&host, ONE).await;
    let word = |rental: &Value, field: &str| rental[field].as_str().unwrap().to_owned();
    for query in ["renter=two".to_owned(), format!("name={}", word(&theirs, "name"))] {
        let (status, listed) = get(&host, ONE, &format!("/v1/rentals?{query}")).await;
        assert_eq!(status, 200, "{query}: {listed}");
        for rental in listed["rentals"].as_array().unwrap() {
            assert!([&before["id"], &after["id"]].contains(&&rental["id"]), "{query}: {rental}");
        }
    }
    for unknown in [word(&theirs, "id"), "01890a5d-ac96-474b-bcce-b302099a8057".to_owned()] {
        let (status, refused) = get(&host, ONE, &format!("/v1/rentals?after={unknown}")).await;
        assert_eq!((status, &refused["field"]), (422, &json!("after")), "others' are as unknown ones");
    }
    let (_, named) = get(&host, ONE, &format!("/v1/rentals?name={}", word(&theirs, "name"))).await;
    assert_eq!(named["rentals"], json!([]));
}

#[tokio::test]
async fn an_instance_is_ended_by_its_own_renter_alone() {
    let host = host().await;
    let theirs = rented(&host, TWO).await;
    let (id, container) = (theirs["id"].as_str().unwrap(), theirs["container_id"].as_str().unwrap());
    let short = &container[..container.len().min(12)];
    for name in [container, short, id, &id.replace('-', "")] {
        let (status, answer) = post(&host, ONE, "/terminate_instance", json!({"container_id": name})).await;
        // As of nobody's: what is gone is terminated.
        assert_eq!((status, answer), (200, json!({"message": "Instance terminated successfully"})), "{name}");
    }
    ready(&host, TWO, id).await;
}

#[tokio::test]
async fn a_dashboard_shows_and_changes_ones_own_alone() {
    let host = host().await;
    let (status, made) =
        post(&host, TWO, "/api/containers", json!({"username": "two", "image": "busybox", "gpu": "none"})).await;
    assert_eq!(status, 200, "{made}");
    let nobodys = "00000000-0000-4000-8000-000000000000";
    let before = get(&host, TWO, "/api/containers/two/status").await.1;
    for id in ["id", "container_id", "name"].map(|field| made["container"][field].as_str().unwrap().to_owned()) {
        for (method, end) in [
            (Method::GET, "status"),
            (Method::GET, "stats"),
            (Method::GET, "ports"),
            (Method::POST, "stop"),
            (Method::POST, "start"),
            (Method::POST, "restart"),
            (Method::POST, "remove"),
            (Method::POST, "delete"),
            (Method::POST, "recreate"),
            (Method::GET, ""),
        ] {
            // Another's is answered as nobody's is: some of these are successes, with which nothing happens.
            let asked = async |id: &str, method: Method| {
                let path = format!("/api/containers/{id}/{end}");
                let body = (method != Method::GET).then(|| json!({}));
                let (status, answer) = ask(&host, ONE, method, path.trim_end_matches('/'), body).await;
                (status, answer.to_string().replace(id, "ID"))
            };
            let (hers, nobodys) = (asked(&id, method.clone()).await, asked(nobodys, method).await);
            if (id.as_str(), end) == (made["container"]["name"].as_str().unwrap(), "start")
                || (id.as_str(), end) == (made["container"]["name"].as_str().unwrap(), "restart")
            {
                assert!(hers.0 == 400 && hers.1.contains("this key is another user's"), "{hers:?}");
            } else {
                assert_eq!(hers, nobodys, "{end}");
            }
        }
    }
    assert_eq!(get(&host, TWO, "/api/containers/two/status").await.1, before, "nothing happened to hers");
    for (path, body) in [
        ("/api/containers", json!({"username": "two", "image": "busybox", "gpu": "none"})),
        ("/api/ports/deallocate", json!({"username": "two"})),
    ] {
        let (status, answer) = post(&host, ONE, path, body).await;
        assert_eq!((status, &answer["error"]), (400, &json!("this key is another user's")), "{path}");
    }
    assert_eq!(get(&host, ONE, "/get_containers").await.1["containers"], json!([]));
    assert_eq!(get(&host, TWO, "/get_containers").await.1["containers"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_cloud_shows_and_changes_ones_own_alone() {
    let host = host().await;
    let wanted = json!({"template": "pytorch", "gpu": "Tesla V100", "access": ["ssh"]});
    let (status, made) = post(&host, TWO, "/api/gpu/instances", wanted).await;
    assert_eq!(status, 201, "{made}");
    let path = format!("/api/gpu/instances/{}", made["id"].as_str().unwrap());
    for (method, end) in [(Method::GET, ""), (Method::DELETE, ""), (Method::POST, "/stop"), (Method::POST, "/start")] {
        let (status, answer) = ask(&host, ONE, method, &format!("{path}{end}"), None).await;
        assert_eq!((status, answer), (404, json!({"error": "there is no such instance"})), "{end}");
    }
    assert_eq!(get(&host, ONE, "/api/gpu/instances").await.1, json!({"instances": []}));
    assert_eq!(get(&host, TWO, &path).await.0, 200);
}

#[tokio::test]
async fn what_is_the_operators_is_nobody_elses() {
    let host = host().await;
    for key in [ONE, PLATFORM] {
        assert_eq!(get(&host, key, "/v1/audit").await.0, 403);
        let old = "/v1/archive?ended_before=2026-01-01T00:00:00Z";
        assert_eq!(get(&host, key, old).await.0, 403);
        let none = Some(json!({"rentals": []}));
        assert_eq!(ask(&host, key, Method::POST, "/v1/archive/deletions", none).await.0, 403);
        for (method, path) in [
            (Method::GET, "/get_docker_images"),
            (Method::GET, "/get_docker_image_details/busybox:1"),
            (Method::DELETE, "/delete_docker_image/busybox:1"),
        ] {
            let body = (method == Method::DELETE).then(|| json!({}));
            let (status, answer) = ask(&host, key, method, path, body).await;
            assert_eq!((status, &answer["error"]), (400, &json!("only an operator's key may do this")), "{path}");
        }
    }
}

#[tokio::test]
async fn nothing_is_done_without_a_key() {
    let host = host().await;
    let id = rented(&host, TWO).await["id"].as_str().unwrap().to_owned();
    let mut all = routes(&id);
    for path in [
        "/v1/gpus",
        "/v1/rentals",
        "/v1/audit",
        "/v1/archive",
        "/v1/events",
        "/api/gpu/templates",
        "/api/gpu/availability",
        "/api/gpu/instances",
        "/get_system_stats",
        "/get_containers",
        "/get_docker_images",
    ] {
        all.push((Method::GET, path.to_owned(), None));
    }
    for path in [
        "/v1/rentals",
        "/v1/archive/deletions",
        "/rent",
        "/start_instance",
        "/terminate_instance",
        "/api/containers",
        "/api/gpu/instances",
    ] {
        all.push((Method::POST, path.to_owned(), Some(json!({}))));
    }
    for (method, path, body) in all {
        let mut request = host.client.request(method.clone(), host.url(&path));
        if let Some(body) = body {
            request = request.json(&body);
        }
        assert_eq!(request.send().await.unwrap().status(), 401, "{method} {path}");
    }
    for open in ["/health", "/v1/openapi.json", "/v1/docs"] {
        assert_eq!(host.client.get(host.url(open)).send().await.unwrap().status(), 200, "{open}");
    }
}

/// Whether a server refuses whoever says this as the first thing.
async fn is_shut_out(host: &Host, path: &str, first: &str) -> bool {
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{}{path}", host.address)).await.unwrap();
    socket.send(Message::Text(first.into())).await.unwrap();
    matches!(socket.next().await, Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 1008)
}

#[tokio::test]
async fn a_key_in_a_first_message_is_one_field_and_nothing_else() {
    let host = host().await;
    let theirs = rented(&host, TWO).await["id"].as_str().unwrap().to_owned();
    for first in [
        format!(r#"{{"api_key":"{ONE}","x":1}}"#),
        format!(r#"{{"api_key":"wrong","api_key":"{ONE}"}}"#),
        format!(r#"{{"api_key":"{ONE}\r\nx-api-key: {TWO}"}}"#),
        format!(r#"{{"api_key":["{ONE}"]}}"#),
        format!(r#""{ONE}""#),
    ] {
        assert!(is_shut_out(&host, "/v1/events", &first).await, "{first}");
    }
    let right = format!(r#"{{"api_key":"{ONE}"}}"#);
    assert!(is_shut_out(&host, &format!("/v1/events?rental={theirs}"), &right).await, "another's rental");
}

#[tokio::test]
async fn streams_tell_of_ones_own_alone() {
    let host = host().await;
    let mut request = format!("ws://{}/v1/events?after=0", host.address).into_client_request().unwrap();
    request.headers_mut().insert("x-api-key", ONE.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let sse = host.client.get(host.url("/v1/events?after=0")).bearer_auth(ONE).header("accept", "text/event-stream");
    let mut sse = sse.send().await.unwrap();
    let theirs = rented(&host, TWO).await["id"].as_str().unwrap().to_owned();
    let own = rented(&host, ONE).await["id"].as_str().unwrap().to_owned();
    let mut heard = Vec::new();
    while let Ok(Some(Ok(message))) = tokio::time::timeout(Duration::from_millis(500), socket.next()).await {
        heard.push(message.to_text().unwrap_or_default().to_owned());
    }
    let mut text = String::new();
    while let Ok(Ok(Some(part))) = tokio::time::timeout(Duration::from_millis(500), sse.chunk()).await {
        text.push_str(&String::from_utf8_lossy(&part));
    }
    for (how, heard) in [("WebSocket", heard.concat()), ("server-sent events", text)] {
        assert!(heard.contains(&own) && !heard.contains(&theirs), "{how}: {heard}");
    }
}
