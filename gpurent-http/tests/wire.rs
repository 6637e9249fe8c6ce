//! Bytes that no honest client sends: requests that two readers would understand in two ways, frames that are none, values
//! beyond their types. The server answers with an error or hangs up, does nothing, and serves others.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod host;

use std::time::Duration;

use gpurent_http::{ApiKey, ApiKeys};
use host::{Host, host, host_with};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const READ_TIMEOUT: Duration = Duration::from_secs(5);
const KEY: &str = "platform-platform-platform";

/// Sends bytes, and reads what comes until the server hangs up.
async fn said(host: &Host, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(&host.address).await.unwrap();
    // The server may hang up before it has read everything.
    drop(stream.write_all(bytes).await);
    let mut heard = Vec::new();
    let read = tokio::time::timeout(READ_TIMEOUT, stream.read_to_end(&mut heard)).await;
    assert!(read.is_ok(), "stays open after {:?}: {}", String::from_utf8_lossy(bytes), String::from_utf8_lossy(&heard));
    String::from_utf8_lossy(&heard).into_owned()
}

fn post(headers: &str, body: &str) -> Vec<u8> {
    let head =
        "POST /v1/rentals HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n";
    format!("{head}{headers}\r\n{body}").into_bytes()
}

fn status(said: &str) -> &str {
    said.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test]
async fn a_body_has_one_length() {
    let host = host().await;
    let smuggled = "0\r\n\r\nGET /v1/gpus HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    let long = format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "a".repeat(20_000));
    for (headers, body) in [
        ("Content-Length: 2\r\nContent-Length: 3\r\n", "{} "),
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", smuggled),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"),
        ("Content-Length: +2\r\n", "{}"),
        ("Content-Length: 2, 2\r\n", "{}"),
        ("Content-Length: 99999999999999999999\r\n", "{}"),
        ("X-A: b\r\n c: d\r\nContent-Length: 2\r\n", "{}"),
        ("X-A: a\0b\r\nContent-Length: 2\r\n", "{}"),
        ("Transfer-Encoding: chunked\r\n", "FFFFFFFFFFFFFFFFF\r\n{}"),
        ("Transfer-Encoding: chunked\r\n", "-1\r\n{}"),
        ("Transfer-Encoding: chunked\r\n", "0x2\r\n{}\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "2 2\r\n{}\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "2;a\nb\r\n{}\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", &long),
    ] {
        let said = said(&host, &post(headers, body)).await;
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{headers:?} {body:?}: {said}");
        assert!(matches!(status(&said), "400" | "422"), "{headers:?}: {said}");
    }
    assert!(host.nothing_was_done().await);
}

#[tokio::test]
async fn methods_and_forms_of_proxies_lead_nowhere() {
    let host = host().await;
    let continued = said(&host, &post("Expect: 100-continue\r\nContent-Length: 2\r\n", "{}")).await;
    assert!(continued.starts_with("HTTP/1.1 100") && continued.contains("HTTP/1.1 422"), "{continued}");
    let h2 = said(&host, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(!h2.contains(" 200 "), "{h2}");
    let both = "GET /v1/gpus HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /v1/nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    let both = said(&host, both.as_bytes()).await;
    assert!(both.contains("HTTP/1.1 200") && both.contains("HTTP/1.1 404"), "{both}");
    let line = |line: &str, host: &str| {
        format!("{line} HTTP/1.1\r\nHost: {host}\r\nX-Secret: s3cret\r\nConnection: close\r\n\r\n")
    };
    let connect = said(&host, line("CONNECT 10.0.0.5:22", "127.0.0.1").as_bytes()).await;
    assert!(status(&connect).starts_with('4'), "{connect}");
    let trace = said(&host, line("TRACE /v1/gpus", "127.0.0.1").as_bytes()).await;
    assert!(status(&trace) == "405" && !trace.contains("s3cret"), "{trace}");
    let other = said(&host, line("GET http://127.0.0.1/v1/gpus", "evil.example").as_bytes()).await;
    assert_eq!(status(&other), "403", "{other}");
}

#[tokio::test]
async fn a_body_may_have_so_many_bytes_and_not_one_more() {
    let host = host().await;
    let body = json!({"gpu": "V100", "image": "busybox", "duration": "90s"}).to_string();
    for (bytes, expected) in [(262_145, 413), (262_144, 201)] {
        let padded = format!("{body}{}", " ".repeat(bytes - body.len()));
        let request = host.client.post(host.url("/v1/rentals")).header("content-type", "application/json");
        assert_eq!(request.body(padded).send().await.unwrap().status(), expected, "{bytes}");
    }
}

#[tokio::test]
async fn bodies_of_other_kinds_are_not_read() {
    let host = host().await;
    let body = json!({"gpu": "V100", "image": "busybox", "duration": "90s"}).to_string();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let request = host.client.post(host.url("/v1/rentals")).header("content-type", kind).body(body.clone());
        assert_eq!(request.send().await.unwrap().status(), 415, "{kind}");
    }
    let untold = host.client.post(host.url("/v1/rentals")).body(body.clone());
    assert_eq!(untold.send().await.unwrap().status(), 415, "a page may leave out the type, too");
    // A page elsewhere may send this without asking first.
    let page = host.client.post(host.url("/api/containers")).header("content-type", "text/plain");
    let page = page.header("origin", "https://evil.example").body(r#"{"username":"x","image":"busybox"}"#);
    assert_eq!(page.send().await.unwrap().status(), 403);
    assert!(host.nothing_was_done().await);
}

#[tokio::test]
async fn with_a_key_nobody_has_to_say_that_a_body_is_json() {
    let host = host_with(ApiKeys::new(vec![ApiKey::platform(KEY, "platform".parse().unwrap()).unwrap()])).await;
    let body = json!({"gpu": "V100", "image": "busybox", "duration": "90s"}).to_string();
    for (header, key) in [("authorization", format!("Bearer {KEY}")), ("x-api-key", KEY.to_owned())] {
        for kind in [None, Some("application/x-www-form-urlencoded")] {
            let mut request = host.client.post(host.url("/v1/rentals")).header(header, &key).body(body.clone());
            if let Some(kind) = kind {
                request = request.header("content-type", kind);
            }
            let answer = request.send().await.unwrap();
            assert!([201, 409].contains(&answer.status().as_u16()), "{header} {kind:?}: {}", answer.status());
        }
    }
    let text = host.client.post(host.url("/v1/rentals")).bearer_auth(KEY).header("content-type", "text/plain");
    assert_eq!(text.body(body).send().await.unwrap().status(), 415);
}

#[tokio::test]
async fn values_beyond_their_types_are_refused() {
    let host = host().await;
    let with = |field: &str, value: &str| {
        format!(r#"{{"gpu":"V100","image":"busybox","duration":"90s","{field}":{value}}}"#).into_bytes()
    };
    let mut bodies: Vec<(Vec<u8>, &str)> = Vec::new();
    for (field, value, about) in [
        ("gpu_count", "256", "gpu_count"),
        ("gpu_count", "-1", "gpu_count"),
        ("gpu_count", "1.5", "gpu_count"),
        ("gpu_count", "18446744073709551616", "gpu_count"),
        ("gpu_count", "1e999", ""),
        ("ports", "[65536]", "ports[0]"),
        ("ports", "[-1]", "ports[0]"),
        ("ports", r#"[{"container":80,"host":65536}]"#, "ports[0]"),
        ("limits", r#"{"milli_cpus":4294967296}"#, "limits.milli_cpus"),
        ("limits", r#"{"processes":-1}"#, "limits.processes"),
        ("limits", r#"{"memory_bytes":-1}"#, "limits.memory_bytes"),
        ("name", r#""a\u0000b""#, "name"),
        ("name", "\"\u{202e}txt\"", "name"),
        ("name", r#""\ud800""#, ""),
        ("user", "\"\u{202e}root\"", "user"),
        ("labels", r#"{"a":"b\u0000"}"#, "labels"),
        ("labels", r#"{"io.gpurent.rental":"x"}"#, "labels"),
        ("labels", r#"{"io.gpurent":"x"}"#, "labels"),
        ("duration", r#""366d""#, ""),
    ] {
        bodies.push((with(field, value), about));
    }
    for duration in ["9223372036854775807s", "PT99999999999999999999S", "-PT1H"] {
        bodies
            .push((format!(r#"{{"gpu":"V100","image":"busybox","duration":"{duration}"}}"#).into_bytes(), "duration"));
    }
    let plain = br#"{"gpu":"V100","image":"busybox","duration":"90s"}"#;
    bodies.push((br#"{"gpu":"V100","image":"ubuntu\u0000","duration":"90s"}"#.to_vec(), "image"));
    bodies.push((b"{\"gpu\":\"V100\",\"image\":\"\xff\xfe\",\"duration\":\"1h\"}".to_vec(), ""));
    bodies.push((plain[..20].to_vec(), ""));
    bodies.push((plain.iter().flat_map(|byte| [*byte, 0]).collect(), ""));
    bodies.push((br#"{"gpu":"V100","image":"busybox","duration":"90s","auth":{"password":"one-password","password":"two-password"}}"#.to_vec(), ""));
    for (body, about) in bodies {
        let text = String::from_utf8_lossy(&body).into_owned();
        let request = host.client.post(host.url("/v1/rentals")).header("content-type", "application/json").body(body);
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let problem: Value = answer.json().await.unwrap();
        assert!(status == 400 || status == 422, "{text}: {status} {problem}");
        assert!(about.is_empty() || problem["field"] == about, "{text}: {problem}");
    }
    assert!(host.nothing_was_done().await);
}

#[tokio::test]
async fn positions_and_preconditions_in_odd_forms() {
    let host = host().await;
    let made = host.post("/v1/rentals", &json!({"gpu": "V100", "image": "busybox", "duration": "1h"})).await.1;
    let id = made["id"].as_str().unwrap();
    host.until(id, "ready").await;
    for (after, expected) in
        [("18446744073709551615", 410), ("18446744073709551616", 422), ("-1", 422), ("x", 422), ("1.5", 422)]
    {
        assert_eq!(host.get(&format!("/v1/events?after={after}")).await.0, expected, "{after}");
    }
    for last in ["x", "-1", "18446744073709551616", ""] {
        let asked = host.client.get(host.url("/v1/events")).header("last-event-id", last).send().await.unwrap();
        assert_eq!(asked.status(), 200, "Last-Event-ID: {last:?} says nothing");
    }
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    assert_eq!(host.get(&format!("/v1/rentals?after={unknown}")).await.0, 422, "it may have been deleted: begin again");
    let extend = async |tag: &str| {
        let request = host.client.post(host.url(&format!("/v1/rentals/{id}/extend"))).json(&json!({"by": "1h"}));
        request.header("if-match", tag).send().await.unwrap().status()
    };
    for tag in ["W/\"1\"", "\"1\", \"2\"", "\"x\"", "\"\"", "1", "\"-1\"", "\"18446744073709551616\""] {
        assert_eq!(extend(tag).await, 422, "{tag}");
    }
    assert_eq!(extend("\"18446744073709551615\"").await, 412);
}

#[tokio::test]
async fn commands_of_a_terminal_in_odd_forms() {
    let host = host().await;
    let made = host.post("/v1/rentals", &json!({"gpu": "V100", "image": "busybox", "duration": "1h"})).await.1;
    let path = format!("/v1/rentals/{}/terminal", made["id"].as_str().unwrap());
    let many = format!("[{}]", vec!["\"a\""; 257].join(","));
    let long = format!("[\"{}\"]", "a".repeat(32_769));
    for command in ["ls", "[]", "[\"\"]", "[1]", "\"sh\"", "{}", "null", "[\"a\\u0000\"]", &many, &long] {
        let escaped: String = command
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_string() } else { format!("%{:02X}", u32::from(c)) })
            .collect();
        let asked = host.client.get(host.url(&format!("{path}?command={escaped}"))).send().await.unwrap();
        assert!(
            matches!(asked.status().as_u16(), 414 | 422 | 431),
            "{}: {}",
            &command[..command.len().min(40)],
            asked.status()
        );
    }
    for query in ["columns=0", "columns=1001", "columns=70000", "command=[]&command=[]", "x=1"] {
        assert_eq!(host.get(&format!("{path}?{query}")).await.0, 422, "{query}");
    }
}

#[tokio::test]
async fn a_page_elsewhere_opens_no_socket() {
    let host = host().await;
    for path in ["/ws", "/v1/events", "/v1/rentals/01890a5d-ac96-774b-bcce-b302099a8057/terminal"] {
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("origin", "http://127.0.0.1:1"),
            ("sec-fetch-site", "cross-site"),
            ("host", "evil.example"),
        ] {
            let mut request = format!("ws://{}{path}", host.address).into_client_request().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
            let refused = tokio_tungstenite::connect_async(request).await;
            assert!(matches!(&refused, Err(Error::Http(answer)) if answer.status() == 403), "{path} {name}: {value}");
        }
    }
    let mut own = format!("ws://{}/ws", host.address).into_client_request().unwrap();
    own.headers_mut().insert("origin", format!("http://{}", host.address).parse().unwrap());
    tokio_tungstenite::connect_async(own).await.unwrap();
}

/// Frames, each masked with zeros where it is masked at all.
fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let masked = |head: &[u8], content: &[u8]| [head, &[0; 4], content].concat();
    vec![
        ("a reserved bit", masked(&[0xc1, 0x80], b"")),
        ("an unknown kind", masked(&[0x83, 0x80], b"")),
        ("an unknown kind of control", masked(&[0x8b, 0x80], b"")),
        ("2^63 bytes", masked(&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], b"")),
        ("more than 64 KiB", masked(&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0x11, 0x70], &[0; 70_000])),
        ("no mask", vec![0x81, 0x01, b'x']),
        ("a ping in parts", masked(&[0x09, 0x80], b"")),
        ("a ping of 126 bytes", masked(&[0x89, 0xfe, 0, 126], &[0; 126])),
        ("the rest of nothing", masked(&[0x80, 0x80], b"")),
        ("two beginnings", [masked(&[0x01, 0x80], b""), masked(&[0x01, 0x80], b"")].concat()),
        ("no UTF-8", masked(&[0x81, 0x82], &[0xff, 0xfe])),
        ("a close of one byte", masked(&[0x88, 0x81], &[0])),
    ]
}

#[tokio::test]
async fn frames_that_are_none_end_their_connection_alone() {
    let host = host().await;
    let upgrade = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    for path in ["/v1/events", "/ws"] {
        for (what, frame) in frames() {
            let mut stream = TcpStream::connect(&host.address).await.unwrap();
            stream.write_all(upgrade(path).as_bytes()).await.unwrap();
            let mut answer = [0; 1024];
            let n = stream.read(&mut answer).await.unwrap();
            assert!(answer[..n].starts_with(b"HTTP/1.1 101"), "{path}");
            // The server may hang up before it has read everything.
            drop(stream.write_all(&frame).await);
            let mut rest = Vec::new();
            let closed = tokio::time::timeout(READ_TIMEOUT, stream.read_to_end(&mut rest)).await;
            assert!(closed.is_ok(), "{path}: stays open after {what}");
        }
    }
    assert_eq!(host.get("/v1/gpus").await.0, 200);
}
