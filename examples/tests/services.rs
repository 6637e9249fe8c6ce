//! Services that come up after the rental is ready, as a notebook does that its renter starts by hand.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use support::{Machine, next_status, request, ssh};

/// Begins a server in the container that says `words` to everybody who connects.
async fn serve(rental: &Value, port: u16, words: &str) {
    let ssh_port = rental["ports"].as_array().unwrap().iter().find(|port| port["container"] == 22).unwrap();
    // An end with a question that nobody has read would cut the answer off.
    let answer = format!("printf '{words}'; read -r question");
    let server = format!(
        "/bin/busybox setsid /bin/busybox nc -ll -p {port} -e /bin/sh -c \"{answer}\" </dev/null >/dev/null 2>&1 &"
    );
    let begun = ssh(ssh_port["host"].as_u64().unwrap(), "root", "canary-password-4711", &server).await;
    assert!(begun.status.success(), "{begun:?}");
}

#[tokio::test]
async fn a_service_is_told_everywhere_when_it_comes_up() {
    let machine = Machine::new("simulated:1:RTX 5090");
    let _host = machine.start().await;
    let mut socket = machine.listen().await;
    let mut body = request("gpurent-test/busybox:1", "1h");
    body["ports"] = json!([{"container": 8888}, {"container": 5900}, {"container": 7000}]);
    let id = machine.rent(&body).await;
    let ready = machine.until(&id, &["ready"], Duration::from_secs(30)).await;
    assert_eq!(ready["services"], json!([]), "the engine's proxy answers for nobody");
    for status in ["creating", "running", "ready"] {
        assert_eq!(next_status(&mut socket).await["status"], status);
    }
    let host_port = |container: u16| {
        let ports = ready["ports"].as_array().unwrap();
        ports.iter().find(|port| port["container"] == container).unwrap()["host"].as_u64().unwrap()
    };

    serve(&ready, 8888, "HTTP/1.0 302 Found\\r\\n\\r\\n").await;
    let url = format!("http://127.0.0.1:{}", host_port(8888));
    let told = async {
        loop {
            let message: Value = match socket.next().await.unwrap().unwrap() {
                message if message.is_text() => serde_json::from_str(message.to_text().unwrap()).unwrap(),
                _ => continue,
            };
            if message["access_info"].is_object() {
                return message;
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(20), told).await.expect("it is told");
    assert_eq!((&told["status"], &told["instance_uuid"]), (&json!("live_update"), &json!(id)));
    assert_eq!(told["message"], format!("Jupyter answers at {url}"));
    assert_eq!(told["access_info"], json!({"jupyter_url": url, "vnc_url": null}));
    let jupyter = json!({"container": 8888, "host": host_port(8888), "protocol": "http", "url": url});
    assert_eq!(machine.show(&id).await["services"], json!([jupyter]));

    serve(&ready, 5900, "RFB 003.008\\n").await;
    let both = async {
        loop {
            let services = machine.show(&id).await["services"].clone();
            if services.as_array().unwrap().len() == 2 {
                return services;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let both = tokio::time::timeout(Duration::from_secs(20), both).await.expect("it is seen");
    assert_eq!(both[1]["url"], format!("vnc://127.0.0.1:{}", host_port(5900)));

    // Also for those who read the journal later.
    let events = machine.get(&format!("/v1/events?rental={id}&limit=500")).await;
    let up = events["events"].as_array().unwrap().iter().filter(|event| event["type"] == "services_up");
    let up: Vec<_> = up.map(|event| event["data"]["services"].clone()).collect();
    assert_eq!(up, [json!([jupyter]), json!([both[1]])]);
    machine.cancel(&id).await;
    machine.until(&id, &["terminated"], Duration::from_secs(30)).await;
    machine.assert_clean().await;
}
