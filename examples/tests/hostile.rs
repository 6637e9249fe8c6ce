//! Clients that are slow, broken or hostile, against a running host: others do not notice.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use support::{Machine, http, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// A host whose requests are not limited, on a database of its own.
fn machine() -> Machine {
    let mut machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    machine.settings = ["--max-connections", "8192"].map(str::to_owned).to_vec();
    machine
}

/// A connection from another address of this machine, as another client has one.
async fn connect_from(last: u8, port: u16) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(Ipv4Addr::new(127, 0, 0, last).into(), 0))?;
    socket.connect(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).await
}

/// The longest that somebody else waits for an answer, over a while; on connections of their own each time.
async fn others_wait(machine: &Machine, lasts: Duration) -> Duration {
    let (begun, mut longest) = (Instant::now(), Duration::ZERO);
    while begun.elapsed() < lasts {
        let asked = Instant::now();
        let answer = http().get(machine.url("/v1/gpus")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        longest = longest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    longest
}

const NOT_NOTICED: Duration = Duration::from_secs(1);

/// Ten thousand sockets that say nothing, all from one address: they take places from each other, and from nobody else.
#[tokio::test]
async fn ten_thousand_idle_sockets() {
    let machine = machine();
    let host = machine.start().await;
    let mut idle = Vec::with_capacity(10_000);
    for _ in 0..10_000 {
        idle.push(connect_from(2, machine.port).await.unwrap());
    }
    let longest = others_wait(&machine, Duration::from_secs(3)).await;
    assert!(longest < NOT_NOTICED, "others waited {longest:?}");
    let files = std::fs::read_dir(format!("/proc/{}/fd", host.pid())).unwrap().count();
    assert!(files < 2048 + 500, "{files} files are open: a quarter of 8192 connections may be one address's");
    drop(idle);
}

/// A thousand clients that send a header's byte now and then, for ever: each is given up after 15 seconds, and meanwhile
/// others are served.
#[tokio::test]
async fn slowloris() {
    let machine = machine();
    let _host = machine.start().await;
    let mut slow = Vec::new();
    for n in 0..1000_u32 {
        let last = 2 + u8::try_from(n % 4).unwrap();
        let mut stream = connect_from(last, machine.port).await.unwrap();
        stream.write_all(b"GET /v1/gpus HTTP/1.1\r\nHost: x\r\nX-").await.unwrap();
        slow.push(stream);
    }
    let begun = Instant::now();
    let dripping = tokio::spawn(async move {
        let mut closed = 0;
        while closed < slow.len() && begun.elapsed() < Duration::from_secs(40) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            closed = 0;
            for stream in &mut slow {
                // One that was closed takes no byte any more, or has one to say so.
                let mut byte = [0; 512];
                let said = tokio::time::timeout(Duration::from_millis(1), stream.read(&mut byte)).await;
                let gone = stream.write_all(b"a").await.is_err() || matches!(said, Ok(Ok(_) | Err(_)));
                closed += usize::from(gone);
            }
        }
        (closed, begun.elapsed())
    });
    let longest = others_wait(&machine, Duration::from_secs(3)).await;
    assert!(longest < NOT_NOTICED, "others waited {longest:?}");
    let (closed, after) = dripping.await.unwrap();
    assert!(closed == 1000 && after < Duration::from_secs(30), "{closed} closed after {after:?}");
}

/// Says something, and reads what comes until the other side closes, at most for so long.
async fn exchange(machine: &Machine, say: &[u8]) -> String {
    let mut stream = connect_from(1, machine.port).await.unwrap();
    // The other side may close before it has read everything.
    drop(stream.write_all(say).await);
    let mut heard = Vec::new();
    let mut part = [0; 4096];
    while let Ok(Ok(n)) = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut part)).await {
        heard.extend_from_slice(&part[..n]);
        if n == 0 || heard.len() > 12 {
            break;
        }
    }
    String::from_utf8_lossy(&heard).into_owned()
}

#[tokio::test]
async fn giant_heads_bombs_and_garbage_are_refused() {
    let machine = machine();
    let host = machine.start().await;
    let head = |more: &str| format!("GET /v1/gpus HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n");
    let giant = head(&format!("X-Giant: {}\r\n", "a".repeat(1 << 20)));
    assert!(exchange(&machine, giant.as_bytes()).await.starts_with("HTTP/1.1 431"), "a header of a megabyte");
    let many: String = (0..5000).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert!(exchange(&machine, head(&many).as_bytes()).await.starts_with("HTTP/1.1 431"), "five thousand headers");
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    let heard = exchange(&machine, long.as_bytes()).await;
    assert!(heard.starts_with("HTTP/1.1 414") || heard.starts_with("HTTP/1.1 431"), "a path of 100 kB: {heard}");
    let heard = exchange(&machine, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
    assert!(!heard.starts_with("HTTP/1.1 2"), "TLS where none is spoken: {heard}");

    let post = |headers: &str, body: &str| {
        let length = format!("Content-Type: application/json\r\nContent-Length: {}\r\n{headers}", body.len());
        format!("POST /v1/rentals HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n{body}")
    };
    // A gigabyte of zeros is a megabyte compressed: it is not unpacked at all.
    let bomb = exchange(&machine, post("Content-Encoding: gzip\r\n", &"0".repeat(1000)).as_bytes()).await;
    assert!(bomb.starts_with("HTTP/1.1 415"), "{bomb}");
    let large = exchange(&machine, post("", &"[".repeat(300_000)).as_bytes()).await;
    assert!(large.starts_with("HTTP/1.1 413"), "{large}");
    let deep = exchange(&machine, post("", &"[".repeat(200_000)).as_bytes()).await;
    assert!(deep.starts_with("HTTP/1.1 4"), "nested too deep to be read: {deep}");
    let memory = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let peak =
        memory.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    assert!(peak.unwrap() < 200 * 1024, "{peak:?} kB at most");
    assert!(others_wait(&machine, Duration::from_millis(200)).await < NOT_NOTICED);
}

/// Who does not read their events is dropped, told where to resume, and others hear everything meanwhile.
#[tokio::test]
async fn a_subscriber_who_never_reads() {
    let machine = machine();
    let _host = machine.start().await;
    let id = machine.rent(&request("gpurent-test/busybox:1", "1h")).await;
    machine.until(&id, &["ready"], Duration::from_secs(30)).await;
    let mut lazy = {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), machine.port)).await.unwrap();
        let upgrade = "GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(upgrade.as_bytes()).await.unwrap();
        stream
    };
    let url = format!("ws://127.0.0.1:{}/v1/events", machine.port);
    let (mut eager, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    let read = tokio::spawn(async move {
        let mut positions = Vec::new();
        while let Ok(Some(Ok(message))) = tokio::time::timeout(Duration::from_secs(5), eager.next()).await {
            if let Ok(text) = message.to_text()
                && let Ok(event) = serde_json::from_str::<Value>(text)
            {
                positions.push(event["position"].as_u64().unwrap());
            }
        }
        positions
    });
    for n in 0..4000 {
        let (status, body) =
            machine.post(&format!("/v1/rentals/{id}/extend"), &json!({"to": format!("{}s", 3700 + n)})).await;
        assert_eq!(status, 200, "{body}");
    }
    let positions = read.await.unwrap();
    assert!(positions.len() > 1000, "{}", positions.len());
    assert!(positions.windows(2).all(|pair| pair[1] == pair[0] + 1), "without a gap");
    // By now the lazy one was given up: what had been sent is there, and then the end.
    let mut heard = Vec::new();
    let drained = tokio::time::timeout(Duration::from_secs(30), lazy.read_to_end(&mut heard)).await;
    assert!(drained.is_ok(), "the connection is still open after {} bytes", heard.len());
    let last = positions.last().unwrap();
    let page = machine.get(&format!("/v1/events?after={}&limit=10", last - 1)).await;
    assert_eq!(page["events"][0]["position"], json!(last), "and what was missed is there to be read");
    machine.cancel(&id).await;
    machine.until(&id, &["terminated"], Duration::from_secs(30)).await;
}

/// A certificate is renewed under a running host.
#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart() {
    let mut machine = machine();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let make = async |name: &str| {
        let made = tokio::process::Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", &format!("/CN={name}")])
            .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-keyout", &path("new.key"), "-out", &path("new.pem")])
            .output()
            .await
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        std::fs::rename(path("new.key"), path("host.key")).unwrap();
        std::fs::rename(path("new.pem"), path("host.pem")).unwrap();
    };
    make("first").await;
    machine.settings.extend([
        "--tls-certificate".to_owned(),
        path("host.pem"),
        "--tls-key".to_owned(),
        path("host.key"),
    ]);
    let _host = machine.start_at_once();
    let subject = async || {
        let command = format!(
            "openssl s_client -connect 127.0.0.1:{} </dev/null 2>/dev/null | openssl x509 -noout -subject 2>/dev/null",
            machine.port
        );
        let said = tokio::process::Command::new("sh").args(["-c", &command]).output().await.unwrap();
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    };
    let until = async |name: &str| {
        let begun = Instant::now();
        while !subject().await.ends_with(name) {
            assert!(begun.elapsed() < Duration::from_secs(20), "not {name}: {}", machine.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    until("first").await;
    let trusting = reqwest::Certificate::from_pem(&std::fs::read(path("host.pem")).unwrap()).unwrap();
    let client = reqwest::Client::builder().add_root_certificate(trusting).build().unwrap();
    let health = client.get(format!("https://127.0.0.1:{}/health", machine.port)).send().await.unwrap();
    assert!(health.status() == 200 || health.status() == 503);
    // One that cannot be used changes nothing.
    std::fs::write(path("host.pem"), "not a certificate").unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(subject().await.ends_with("first"));
    make("second").await;
    until("second").await;
    assert!(reqwest::get(machine.url("/health")).await.is_err(), "nothing but TLS");
}

/// A renter who pays nothing fills no host: neither with rentals on their way up, nor with ones that come to nothing.
#[tokio::test]
async fn one_renter_has_only_so_much() {
    let mut machine = machine();
    machine
        .settings
        .extend(["--rent-without-gpu=64", "--rate-without-gpu", "1", "--renter-in-vain", "40"].map(str::to_owned));
    let _host = machine.start().await;
    let mut make = tokio::process::Command::new(env!("CARGO_BIN_EXE_gpurent-host"));
    make.args(["keys", "--data-dir", &machine.data_dir, "create", "--renter", "alice", "--json"]);
    let made = make.output().await.unwrap();
    let made: Value = serde_json::from_slice(&made.stdout).unwrap_or_else(|_| panic!("{made:?}"));
    let mut headers = reqwest::header::HeaderMap::new();
    headers.insert("x-api-key", made["key"].as_str().unwrap().parse().unwrap());
    machine.client = support::http_with(headers);
    let (image, accepting) = support::silent_registry().await;
    let unready = json!({"image": image, "duration": "1h"});
    let mut made = Vec::new();
    let refused = loop {
        let (status, answer) = machine.post("/v1/rentals", &unready).await;
        if status != 201 {
            break (status, answer);
        }
        made.push(answer["id"].as_str().unwrap().to_owned());
    };
    assert_eq!((refused.0.as_u16(), made.len()), (409, 32), "{}", refused.1);
    assert_eq!(refused.1["type"], "/problems/renter-limit", "{}", refused.1);
    // Suspending keeps none of them: what never was ready ends.
    for id in &made {
        let suspended = machine.client.post(machine.url(&format!("/v1/rentals/{id}/suspend"))).send().await.unwrap();
        assert!(suspended.status().is_success(), "{suspended:?}");
    }
    for id in &made {
        machine.until(id, &["terminated"], Duration::from_secs(30)).await;
    }
    let mut last = (reqwest::StatusCode::OK, json!(null));
    for _ in 0..9 {
        last = machine.post("/v1/rentals", &unready).await;
        if let Some(id) = last.1["id"].as_str() {
            machine.cancel(id).await;
            machine.until(id, &["terminated"], Duration::from_secs(30)).await;
        }
    }
    assert_eq!(last.0, 429, "{}", last.1);
    accepting.abort();
}

/// A tenant that fills the host's disk is ended, and no other is.
#[tokio::test]
async fn who_fills_the_disk_is_ended() {
    let mut machine = machine();
    machine.gpus = "simulated:2:RTX 5090".to_owned();
    machine.settings.extend(["--rental-disk-mib", "64"].map(str::to_owned));
    let _host = machine.start().await;
    let rent = json!({"gpu": "RTX 5090", "image": "gpurent-test/busybox:1", "duration": "1h"});
    let (neighbour, id) = (machine.rent(&rent).await, machine.rent(&rent).await);
    for id in [&neighbour, &id] {
        machine.until(id, &["ready"], Duration::from_secs(30)).await;
    }
    let container = machine.show(&id).await["container_id"].as_str().unwrap().to_owned();
    let fill = "i=0; while busybox dd if=/dev/zero of=/f$i bs=1M count=10; do i=$((i+1)); busybox sleep 4; done";
    support::docker(&["exec", "-d", &container, "/bin/busybox", "sh", "-c", fill]).await;
    let ended = machine.until(&id, &["terminated"], Duration::from_secs(90)).await;
    let message = ended["end"]["message"].as_str().unwrap();
    assert!(message.contains("wrote more on the host's disk than it may"), "{ended}");
    assert_eq!(ended["end"]["fault"], "renter", "{ended}");
    assert_eq!(machine.show(&neighbour).await["state"], "ready");
    machine.cancel(&neighbour).await;
}
