//! The files that an operator offers to everybody by the dashboard protocol.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod host;

use std::sync::Arc;

use gpurent_core::memory::{MemoryMachine, MemoryStore};
use gpurent_http::compat::dashboard::Dashboard;
use gpurent_http::{ApiKey, ApiKeys};
use host::host_as;
use reqwest::StatusCode;
use serde_json::{Value, json};

#[tokio::test]
async fn what_is_offered_for_download_needs_no_key_and_leads_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let offered = folder.path().join("offered");
    std::fs::create_dir_all(offered.join("more")).unwrap();
    std::fs::write(offered.join("more/viewer 11.msi"), "an installer").unwrap();
    std::fs::write(offered.join("page.html"), "<script>").unwrap();
    std::fs::write(folder.path().join("secret"), "not offered").unwrap();
    let keys = || ApiKeys::new(vec![ApiKey::renter("renter-one-renter-one", "one".parse().unwrap()).unwrap()]);
    let host = host_as(Arc::new(MemoryStore::default()), keys(), |surfaces| {
        surfaces.with_dashboard(dashboard().with_downloads(&offered))
    });
    let host = host.await;
    let get = async |path: &str| host.client.get(host.url(path)).send().await.unwrap();
    let file = get("/downloads/more/viewer%2011.msi").await;
    assert_eq!(
        (file.status(), &file.headers()["content-disposition"]),
        (StatusCode::OK, &"attachment".parse().unwrap())
    );
    assert_eq!(file.text().await.unwrap(), "an installer");
    let page = get("/downloads/page.html").await;
    assert_eq!(
        (&page.headers()["content-disposition"], &page.headers()["x-content-type-options"]),
        (&"attachment".parse().unwrap(), &"nosniff".parse().unwrap())
    );
    let part = host.client.get(host.url("/downloads/page.html")).header("range", "bytes=0-2").send().await.unwrap();
    assert_eq!((part.status(), part.text().await.unwrap()), (StatusCode::PARTIAL_CONTENT, "<sc".to_owned()));
    for missing in ["none", "more", "more/", "..%2fsecret", "more/..%2f..%2fsecret", "%2fetc%2fpasswd", "%00"] {
        let answer = get(&format!("/downloads/{missing}")).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{missing}");
        let said: Value = answer.json().await.unwrap();
        assert_eq!((&said["success"], &said["error"]), (&json!(false), &json!("there is no such file")), "{missing}");
    }
    let posted = host.client.post(host.url("/downloads/page.html")).send().await.unwrap();
    assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(get("/downloads/").await.status(), StatusCode::UNAUTHORIZED, "what there is is not listed");
    let elsewhere = keys().allow_from(vec!["192.0.2.0/24".parse().unwrap()]);
    let host = host_as(Arc::new(MemoryStore::default()), elsewhere, |surfaces| {
        surfaces.with_dashboard(dashboard().with_downloads(&offered))
    });
    let host = host.await;
    let barred = host.client.get(host.url("/downloads/page.html")).send().await.unwrap();
    assert_eq!(barred.status(), StatusCode::FORBIDDEN, "from where nobody may call");
}

fn dashboard() -> Dashboard {
    let machine = Arc::new(MemoryMachine::default());
    Dashboard::new(Arc::new(MemoryStore::default()), "9000-9099".parse().unwrap(), machine.clone(), machine)
}
