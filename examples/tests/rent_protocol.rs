//! The `rent` protocol's own documented request, end to end on real parts.

mod support;

use serde_json::json;
use support::{Machine, docker, environment, next_status, ssh, text};

#[tokio::test]
async fn the_documented_request_becomes_a_container_one_can_log_in_to() {
    let machine = Machine::new("simulated:1:Tesla V100-SXM2-16GB");
    let _host = machine.start().await;
    let mut socket = machine.listen().await;
    let hook_log = environment("GPURENT_HOOK_LOG");
    let hooks_before = std::fs::read_to_string(&hook_log).unwrap_or_default().len();
    let body = json!({
        "host_id": "a7d9397f-23a5-454d-a0f0-5373edf7a1f1",
        "gpu_type": "Tesla V100-SXM2-16GB",
        "os_image": "gpurent-test/debian:12",
        "duration_hours": 2,
        "auth_type": "password",
        "password": "mySecurePassword123",
        "instance_name": "my-gpu-instance",
        "environment_variables": {"CUDA_VISIBLE_DEVICES": "0", "PYTHONPATH": "/workspace"},
        "port_mappings": {"8080": "8080", "22": "2222"}
    });
    let (status, answer) = machine.post("/rent", &body).await;
    assert_eq!((status.as_u16(), &answer["success"]), (200, &json!(true)), "{answer}");
    assert_eq!((&answer["ssh_port"], &answer["web_port"]), (&json!(2222), &json!(8080)));
    let container = answer["container_id"].as_str().expect("the container has started").to_owned();

    let told = [next_status(&mut socket).await, next_status(&mut socket).await, next_status(&mut socket).await];
    assert_eq!(told.each_ref().map(|message| message["status"].as_str().unwrap()), ["creating", "running", "ready"]);
    assert!(told.iter().all(|message| message["instance_uuid"] == answer["rental_id"]));
    assert_eq!(told[2]["connection_info"]["password"], "mySecurePassword123");
    assert_eq!(told[2]["access_info"]["jupyter_url"], json!(null), "nothing answers on the web port");

    let seen = ssh(2222, "root", "mySecurePassword123", "echo $PYTHONPATH $CUDA_VISIBLE_DEVICES $RENTAL_ID").await;
    assert_eq!(text(&seen), format!("/workspace 0 {}", answer["rental_id"].as_str().unwrap()), "{seen:?}");
    assert!(!ssh(2222, "root", "mySecurePassword12", "echo in").await.status.success());

    let id = answer["rental_id"].as_str().unwrap();
    let gpu = machine.show(id).await["gpus"][0]["uuid"].as_str().unwrap().to_owned();
    let requests = docker(&["inspect", "--format", "{{json .HostConfig.DeviceRequests}}", &container]).await;
    assert!(requests.contains(&format!(r#""DeviceIDs":["{gpu}"]"#)), "{requests}");
    assert!(std::fs::read_to_string(&hook_log).unwrap().len() > hooks_before, "NVIDIA's hook was called");

    // None left.
    let second = machine
        .post("/rent", &{
            let mut b = body.clone();
            b["instance_name"] = json!("other");
            b
        })
        .await
        .1;
    assert_eq!(second["message"], "No Tesla V100-SXM2-16GB GPUs available on this host");

    machine.cancel(id).await;
    let last = next_status(&mut socket).await;
    assert_eq!((&last["status"], &last["container_id"]), (&json!("terminated"), &json!(container)));
    machine.assert_clean().await;
}
