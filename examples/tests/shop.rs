//! `shop`: a customer buys, follows and is billed by an application that has a login of its own.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::time::Duration;

use serde_json::Value;
use support::http;
use tokio::process::Command;

const SHOP: &str = "http://127.0.0.1:8081";

#[tokio::test]
async fn a_customer_buys_follows_and_is_billed_and_others_see_nothing_of_it() {
    let mut shop = Command::new(env!("CARGO_BIN_EXE_shop")).kill_on_drop(true).spawn().unwrap();
    let client = http();
    let buy = || client.post(format!("{SHOP}/buy/ubuntu:22.04"));
    for _ in 0..500 {
        if buy().send().await.is_ok_and(|answer| answer.status() == 401) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(shop.try_wait().unwrap().is_none(), "it is this shop that answers");
    let bought = buy().basic_auth("ada", Some("lovelace")).send().await.unwrap();
    assert_eq!(bought.status(), 200);
    let bought: Value = bought.json().await.unwrap();
    let of = |what: &str| client.get(format!("{SHOP}/rentals/{}/{what}", bought["id"].as_str().unwrap()));
    let mut events = of("events").basic_auth("ada", Some("lovelace")).send().await.unwrap();
    let mut told = String::new();
    while !told.contains("event: verified") {
        told.push_str(std::str::from_utf8(&events.chunk().await.unwrap().unwrap()).unwrap());
    }
    assert!(told.starts_with("event: claimed"), "{told}");
    let told = async |what| -> Value {
        of(what).basic_auth("ada", Some("lovelace")).send().await.unwrap().json().await.unwrap()
    };
    let access = told("access").await;
    assert_eq!((&access["ready"], access["password"].is_string()), (&true.into(), true), "{access}");
    assert!(access["ssh"].as_str().unwrap().starts_with("ssh "), "{access}");
    let bill = told("bill").await;
    assert_eq!((&bill["currency"], bill["total"].as_i64() > Some(0)), (&"USD".into(), true), "{bill}");
    for what in ["access", "bill", "events"] {
        assert_eq!(of(what).basic_auth("grace", Some("hopper")).send().await.unwrap().status(), 404);
    }
    // Two GPUs, and the third customer is told why not.
    assert_eq!(buy().basic_auth("grace", Some("hopper")).send().await.unwrap().status(), 200);
    let refused = buy().basic_auth("grace", Some("hopper")).send().await.unwrap();
    assert_eq!(refused.status(), 409);
    assert_eq!(refused.json::<Value>().await.unwrap()["type"], "/problems/no-gpu-free");
}
