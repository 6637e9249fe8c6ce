//! The files that an operator offers to everybody by the dashboard protocol.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod host;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gpurent_core::memory::{MemoryMachine, MemoryStore};
use gpurent_http::protocols::dashboard::Dashboard;
use gpurent_http::{ApiKey, ApiKeys, HttpLimits};
use host::{Host, host_as, host_with};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn keys() -> ApiKeys {
    ApiKeys::new(vec![ApiKey::renter("renter-one-renter-one", "one".parse().unwrap()).unwrap()])
}

async fn offering(folder: &Path, keys: ApiKeys, limits: HttpLimits) -> Host {
    let (machine, store) = (Arc::new(MemoryMachine::default()), Arc::new(MemoryStore::default()));
    let dashboard = Dashboard::new(store.clone(), "9000-9099".parse().unwrap(), machine.clone(), machine);
    let dashboard = dashboard.with_downloads(folder);
    host_as(store, keys, |surfaces| surfaces.with_dashboard(dashboard).with_limits(limits)).await
}

async fn get(host: &Host, path: &str) -> reqwest::Response {
    host.client.get(host.url(path)).send().await.unwrap()
}

#[tokio::test]
async fn a_file_is_sent_to_everybody_to_be_kept_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("more")).unwrap();
    std::fs::write(folder.path().join("more/viewer 11.msi"), "an installer").unwrap();
    std::fs::write(folder.path().join("page.html"), "<script>").unwrap();
    let host = offering(folder.path(), keys(), HttpLimits::default()).await;
    for (name, content) in [("more/viewer%2011.msi", "an installer"), ("page.html", "<script>")] {
        let file = get(&host, &format!("/downloads/{name}")).await;
        assert_eq!(file.status(), StatusCode::OK, "{name}");
        assert_eq!(file.headers()["content-disposition"], "attachment");
        assert_eq!(file.headers()["x-content-type-options"], "nosniff");
        assert_eq!(file.headers()["content-length"], content.len().to_string());
        assert_eq!(file.text().await.unwrap(), content);
    }
    let page = host.url("/downloads/page.html");
    let part = host.client.get(&page).header("range", "bytes=0-2").send().await.unwrap();
    assert_eq!((part.status(), part.text().await.unwrap()), (StatusCode::PARTIAL_CONTENT, "<sc".to_owned()));
    let wrong = host.client.get(&page).bearer_auth("a-key-that-nobody-has").send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::OK, "no key is asked for");
    let head = host.client.head(&page).send().await.unwrap();
    assert_eq!((head.status(), &head.headers()["content-length"]), (StatusCode::OK, &"8".parse().unwrap()));
    assert_eq!(host.client.post(&page).send().await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn no_path_leads_out_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let offered = folder.path().join("offered");
    std::fs::create_dir_all(offered.join("more")).unwrap();
    std::fs::write(folder.path().join("secret"), "not offered").unwrap();
    let host = offering(&offered, keys(), HttpLimits::default()).await;
    let long = "x".repeat(300);
    for missing in ["none", "more", "more/", "..%2fsecret", "more/..%2f..%2fsecret", "%2fetc%2fpasswd", "%00", &long] {
        let answer = get(&host, &format!("/downloads/{missing}")).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{missing}");
        let said: Value = answer.json().await.unwrap();
        assert_eq!((&said["success"], &said["error"]), (&json!(false), &json!("there is no such file")), "{missing}");
        let head = host.client.head(host.url(&format!("/downloads/{missing}"))).send().await.unwrap();
        assert_eq!(head.status(), StatusCode::NOT_FOUND, "{missing}");
    }
    // As no client writes it.
    for path in
        ["/downloads/../secret", "/downloads/%2e%2e/secret", "/downloads//secret", "/downloads/more/../../secret"]
    {
        let mut socket = TcpStream::connect(&host.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", host.address);
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404") && !answer.contains("not offered"), "{path}: {answer}");
    }
    assert_eq!(get(&host, "/downloads/").await.status(), StatusCode::UNAUTHORIZED, "what there is is not listed");
    let none = host_with(keys()).await;
    assert_eq!(get(&none, "/downloads/none").await.status(), StatusCode::UNAUTHORIZED, "there is no such route");
}

#[tokio::test]
async fn browsers_come_from_anywhere_in_the_networks_that_may_call_and_not_too_often() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("viewer.msi"), "an installer").unwrap();
    let from = |network: &str| ApiKeys::default().allow_from(vec![network.parse().unwrap()]).without_keys();
    let host = offering(folder.path(), from("127.0.0.0/8"), HttpLimits::default().rate(5)).await;
    let url = host.url("/downloads/viewer.msi");
    // A link on the platform's page, by a name of this host.
    let link = || host.client.get(&url).header("sec-fetch-site", "cross-site").header("host", "gpu1.example.org");
    assert_eq!(link().send().await.unwrap().status(), StatusCode::OK);
    let api = host.client.get(host.url("/v1/rentals")).header("sec-fetch-site", "cross-site").send().await.unwrap();
    assert_eq!(api.status(), StatusCode::FORBIDDEN, "which reaches nothing else");
    let mut refused = None;
    for _ in 0..20 {
        refused = refused.or(Some(link().send().await.unwrap()).filter(|answer| answer.status() != StatusCode::OK));
    }
    let refused = refused.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key("retry-after"));
    let elsewhere = offering(folder.path(), from("192.0.2.0/24"), HttpLimits::default()).await;
    assert_eq!(get(&elsewhere, "/downloads/viewer.msi").await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn so_many_files_are_sent_to_one_address_at_once_and_a_place_that_was_left_is_free() {
    let folder = tempfile::tempdir().unwrap();
    // More than sockets keep for who does not read.
    std::fs::File::create(folder.path().join("large")).unwrap().set_len(1 << 28).unwrap();
    let host = offering(folder.path(), keys(), HttpLimits::default()).await;
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(get(&host, "/downloads/large").await);
    }
    let answer = get(&host, "/downloads/large").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&host, "/health").await.status(), StatusCode::OK);
    open.pop();
    tokio::time::timeout(Duration::from_secs(10), async {
        while get(&host, "/downloads/large").await.status() != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("a place is free");
}
