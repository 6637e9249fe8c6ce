//! A private image, rented by its owner: fetched with the owner's login, which then shows nowhere.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::time::Duration;

use serde_json::json;
use support::{Machine, database, docker, environment, request};

const LOGIN: &str = "registry-canary-4711";

/// Makes an image that says its version, and gives it to its registry.
async fn publish(name: &str, version: &str) {
    let id = docker(&["create", "gpurent-test/busybox:1", "sh"]).await;
    docker(&["commit", "--change", &format!("LABEL version={version}"), &id, name]).await;
    docker(&["rm", &id]).await;
    docker(&["push", "-q", name]).await;
}

#[tokio::test]
async fn a_pinned_image_is_what_the_tag_means_now_and_another_says_how_old_it_is() {
    let name = format!("{}/moving-{}:latest", environment("GPURENT_TEST_REGISTRY"), std::process::id());
    publish(&name, "1").await;
    let here = docker(&["inspect", "--format", "{{.Id}}", &name]).await;
    publish(&name, "2").await;
    // The tag has moved in the registry, and not on the engine.
    docker(&["tag", &here, &name]).await;

    let machine = Machine::new("simulated:2:RTX 5090");
    let _host = machine.start().await;
    let any = request(&name, "1h");
    let mut pinned = any.clone();
    pinned["pin_image"] = json!(true);
    let version = async |rental: &serde_json::Value| {
        let container = rental["container_id"].as_str().unwrap();
        let image = docker(&["inspect", "--format", "{{.Image}}", container]).await;
        docker(&["inspect", "--format", "{{.Config.Labels.version}}", &image]).await
    };
    let mut digests = Vec::new();
    for (body, meant) in [(&any, "1"), (&pinned, "2")] {
        let id = machine.rent(body).await;
        let ready = machine.until(&id, &["ready"], Duration::from_secs(30)).await;
        assert_eq!(version(&ready).await, meant, "{ready}");
        assert!(ready["image_built_at"].is_string(), "{ready}");
        assert_eq!(ready["image_fetched_at"].is_string(), meant == "1", "{ready}");
        digests.push(ready["image_digest"].as_str().unwrap().to_owned());
        machine.cancel(&id).await;
        machine.until(&id, &["terminated"], Duration::from_secs(30)).await;
    }
    assert_ne!(digests[0], digests[1]);
    // Of what nobody can ask for, the one on the engine does not serve either.
    let away = "127.0.0.1:9/moving:1";
    docker(&["tag", &here, away]).await;
    pinned["image"] = json!(away);
    let id = machine.rent(&pinned).await;
    let waits = async {
        while machine.show(&id).await["waiting"].is_null() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waits).await.expect("it waits for the registry");
    machine.cancel(&id).await;
    machine.until(&id, &["terminated"], Duration::from_secs(30)).await;
    machine.assert_clean().await;
    docker(&["rmi", "-f", away, &name, &here]).await;
}

#[tokio::test]
async fn a_private_image_is_rented_pinned_and_its_login_kept_secret() {
    let (open, private) = (environment("GPURENT_TEST_REGISTRY"), environment("GPURENT_TEST_PRIVATE_REGISTRY"));
    let name = format!("rented-{}", std::process::id());
    docker(&["tag", "gpurent-test/busybox:1", &format!("{open}/{name}:1")]).await;
    docker(&["push", "-q", &format!("{open}/{name}:1")]).await;
    docker(&["rmi", &format!("{open}/{name}:1")]).await;

    let machine = Machine::new("simulated:1:RTX 5090");
    let _host = machine.start().await;
    let mut body = request(&format!("{private}/{name}:1"), "1h");
    body["pin_image"] = json!(true);
    let refused = machine.rent(&body).await;
    let refused = machine.until(&refused, &["failed"], Duration::from_secs(30)).await;
    assert_eq!(refused["end"]["failure"]["kind"], "image_unavailable", "{refused}");

    body["registry"] = json!({"username": "renter", "password": LOGIN});
    let id = machine.rent(&body).await;
    let ready = machine.until(&id, &["ready"], Duration::from_secs(30)).await;
    assert!(ready["image_digest"].as_str().unwrap().starts_with("sha256:"), "{ready}");
    let container = ready["container_id"].as_str().unwrap();
    let made_of = docker(&["inspect", "--format", "{{.Config.Image}}", container]).await;
    assert_eq!(made_of, format!("{private}/{name}@{}", ready["image_digest"].as_str().unwrap()));

    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT body::text FROM gpurent.rental WHERE id = $1::uuid
         UNION ALL SELECT body::text FROM gpurent.event WHERE rental_id = $1::uuid
         UNION ALL SELECT encode(sealed, 'escape') FROM gpurent.credential WHERE rental_id = $1::uuid",
    )
    .bind(&id)
    .fetch_all(&database().await)
    .await
    .unwrap();
    let everything = [
        rows.join("\n"),
        machine.log(),
        docker(&["inspect", container]).await,
        machine.get("/v1/rentals").await.to_string(),
        machine.get("/v1/events?limit=500").await.to_string(),
    ];
    assert!(everything.iter().all(|text| !text.contains(LOGIN)), "the login shows");
    machine.cancel(&id).await;
    machine.until(&id, &["terminated"], Duration::from_secs(30)).await;
    machine.assert_clean().await;
    docker(&["rmi", "-f", made_of.as_str()]).await;
}
