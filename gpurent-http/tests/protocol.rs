//! A protocol of an embedder's own: behind the same guard as ours, with its own words for what it refuses, and its labels
//! kept from renters.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use gpurent_core::memory::MemoryStore;
use gpurent_core::store::AuditLog;
use gpurent_http::protocols::instances::Instances;
use gpurent_http::{ApiKey, ApiKeys, AppState, Caller, HttpApi, HttpLimits, Protocol};
use serde_json::json;

mod host;

const KEY: &str = "a-renters-key-0123456789abcdef0123456789";
const PLATFORM: &str = "a-platforms-key-0123456789abcdef0123456789";

fn mine(state: &AppState) -> Protocol {
    let rentals = state.rentals().clone();
    let whose = async |Extension(caller): Extension<Caller>| caller.renter.to_string();
    let count = async move || rentals.live().await.map(|live| live.len().to_string()).map_err(|_| busy());
    let routes = Router::new().route("/mine/me", get(whose)).route("/mine/secret", get(count)).route(
        "/mine/slow",
        post(async || {
            tokio::time::sleep(std::time::Duration::from_secs(30)).await;
        }),
    );
    Protocol::new(routes)
        .with_offered(Router::new().route("/mine/news", get(async || "for everybody")))
        .with_busy(busy)
        .revealing(|path| path == "/mine/secret")
        .with_labels(&["mine."])
}

fn busy() -> Response {
    (StatusCode::IM_A_TEAPOT, "come back later").into_response()
}

async fn host() -> (host::Host, Arc<MemoryStore>) {
    let key = ApiKey::renter(KEY, "me".parse().unwrap()).unwrap();
    let platform = ApiKey::platform(PLATFORM, "them".parse().unwrap()).unwrap();
    let store = Arc::new(MemoryStore::default());
    let log = store.clone();
    let host = host::host_as(store.clone(), ApiKeys::new(vec![key, platform]), |api| {
        api.with_limits(HttpLimits::default().requests(8)).with_audit(log).with("mine", mine)
    });
    (host.await, store)
}

#[tokio::test]
async fn its_routes_need_a_key_and_are_told_whose() {
    let (host, _) = host().await;
    let without = host.client.get(host.url("/mine/me")).send().await.unwrap();
    assert_eq!(without.status(), StatusCode::UNAUTHORIZED);
    let with = host.client.get(host.url("/mine/me")).bearer_auth(KEY).send().await.unwrap();
    assert_eq!((with.status(), with.text().await.unwrap().as_str()), (StatusCode::OK, "me"));
    let open = host.client.get(host.url("/mine/news")).send().await.unwrap();
    assert_eq!(open.text().await.unwrap(), "for everybody");
}

#[tokio::test]
async fn whoever_reads_its_secrets_is_written_down() {
    let (host, store) = host().await;
    for path in ["/mine/me", "/mine/secret"] {
        host.client.get(host.url(path)).bearer_auth(KEY).send().await.unwrap();
    }
    let entries = loop {
        let entries = store.entries(None, 10).await.unwrap();
        if !entries.is_empty() {
            break entries;
        }
        tokio::task::yield_now().await;
    };
    let actions: Vec<_> = entries.iter().map(|numbered| numbered.entry.action.as_str()).collect();
    assert_eq!(actions, ["GET /mine/secret"]);
}

#[tokio::test]
async fn no_renter_sets_the_labels_of_any_protocol() {
    let (host, _) = host().await;
    for label in ["mine.x", "rent.host_id", "instances.gpu", "dashboard.gpu", "cloud.template"] {
        let body = json!({"image": "ubuntu:22.04", "duration": 3600, "labels": {label: "1"}});
        let request = host.client.post(host.url("/v1/rentals")).json(&body);
        let refused = request.bearer_auth(KEY).send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY, "{label}");
        let problem: serde_json::Value = refused.json().await.unwrap();
        assert_eq!(problem["field"], "labels", "{label}: {problem}");
    }
}

#[tokio::test]
async fn what_is_too_much_at_once_is_refused_in_the_words_of_each() {
    let (host, _) = host().await;
    let slow: Vec<_> = (0..8)
        .map(|_| host.client.post(host.url("/mine/slow")).bearer_auth(PLATFORM).send())
        .map(tokio::spawn)
        .collect();
    let status = async |path: &str| {
        let request = host.client.get(host.url(path)).bearer_auth(PLATFORM);
        request.send().await.unwrap().status()
    };
    while status("/mine/me").await != StatusCode::IM_A_TEAPOT {
        tokio::task::yield_now().await;
    }
    assert_eq!(status("/v1/gpus").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(status("/get_containers").await, StatusCode::BAD_REQUEST);
    slow.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn what_is_left_out_stays_out_however_it_is_mounted() {
    let host = host::host_as(Arc::new(MemoryStore::default()), ApiKeys::default(), |api| {
        api.without("instances").without("mine").with_instances(Instances::default()).with("mine", mine)
    });
    let host = host.await;
    for path in ["/start_instance", "/mine/me", "/mine/news"] {
        assert_eq!(host.client.get(host.url(path)).send().await.unwrap().status(), StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(host.client.get(host.url("/v1/gpus")).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_word_in_the_place_of_a_key_is_none_where_none_is_needed() {
    let host = host::host().await;
    let says = async |path: &str| host.client.get(host.url(path)).bearer_auth("word").send().await.unwrap().status();
    assert_eq!(says("/get_containers").await, StatusCode::OK);
    assert_eq!(says("/get_something_new").await, StatusCode::NOT_FOUND, "as without the word");
    assert_eq!(says("/v1/gpus").await, StatusCode::UNAUTHORIZED, "only where clients send words");
}

#[tokio::test]
async fn routes_of_an_application_are_behind_the_same_guard() {
    use tower::ServiceExt;

    let host = host::host().await;
    let origin = "https://console.example.org";
    let api =
        HttpApi::new(host.rentals.clone(), ApiKeys::new(vec![ApiKey::renter(KEY, "me".parse().unwrap()).unwrap()]))
            .allow_origins(vec![origin.parse().unwrap()]);
    let router = api.protect(Router::new().route("/mine", get(async || "mine")));
    let ask = async |method: &str, path: &str, key: Option<&str>| {
        let request = axum::http::Request::builder().method(method).uri(path).header("origin", origin);
        let request = request.header("access-control-request-method", "GET");
        let request =
            key.into_iter().fold(request, |request, key| request.header("authorization", format!("Bearer {key}")));
        router.clone().oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap()
    };
    assert_eq!(ask("GET", "/mine", None).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(ask("GET", "/mine", Some(KEY)).await.status(), StatusCode::OK);
    let missing = ask("GET", "/other", Some(KEY)).await;
    assert_eq!(missing.headers()["content-type"], "application/problem+json");
    let preflight = ask("OPTIONS", "/mine", None).await;
    assert_eq!(
        (preflight.status(), &preflight.headers()["access-control-allow-origin"]),
        (StatusCode::OK, &origin.parse().unwrap())
    );
}
