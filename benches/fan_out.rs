//! How fast does an event reach ten thousand WebSockets on `/v1/events`, against a bare axum server that broadcasts the
//! same bytes? The clients are another process, so that neither has more open files than it may.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ws::{Message, Utf8Bytes, WebSocketUpgrade};
use axum::routing::get;
use gpurent_benches::host::valid;
use gpurent_benches::{rounds, tell};
use gpurent_core::allocation::PortPools;
use gpurent_core::clock::{SleepFuture, SystemClock};
use gpurent_core::host::{HostBuilder, Rentals, TermExtension};
use gpurent_core::id::{HostId, Position, RentalId};
use gpurent_core::memory::{MemoryRuntime, MemoryStore, SimulatedGpus};
use gpurent_core::model::{CredentialRequest, GpuRequest, RentalRequest, RentalSpec, SealKey, Term};
use gpurent_http::{ApiKeys, HttpApi, HttpLimits, Server};
use jiff::SignedDuration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::broadcast;

/// Events in one measurement, one after the other as they come.
const EVENTS: usize = 20;

fn sockets() -> usize {
    std::env::var("GPURENT_SOCKETS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000)
}

/// Opens sockets, then says whenever all of them have heard so many more messages.
#[tokio::main(flavor = "current_thread")]
async fn listen(address: SocketAddr, path: &str, count: usize) {
    let heard = Arc::new(AtomicUsize::new(0));
    for _ in 0..count {
        let mut stream = valid(TcpStream::connect(address).await);
        let upgrade = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        valid(stream.write_all(upgrade.as_bytes()).await);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(valid(stream.read_u8().await));
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        tokio::spawn(count_messages(stream, Arc::clone(&heard)));
    }
    say("listening");
    let (sender, mut asked) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let more: usize = valid(line.trim().parse());
            if sender.send(more).is_err() {
                return;
            }
        }
    });
    let mut wanted = 0;
    while let Some(more) = asked.recv().await {
        wanted += more * count;
        while heard.load(Ordering::Relaxed) < wanted {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        say("heard");
    }
}

#[allow(clippy::print_stdout, reason = "how the two processes speak")]
fn say(word: &str) {
    println!("{word}");
    valid(std::io::stdout().flush());
}

/// Counts text messages by their frames' heads (RFC 6455, section 5.2): servers' frames have no mask.
async fn count_messages(mut stream: TcpStream, heard: Arc<AtomicUsize>) {
    let (mut bytes, mut part) = (Vec::new(), [0; 8192]);
    while let Ok(n) = stream.read(&mut part).await {
        if n == 0 {
            return;
        }
        bytes.extend_from_slice(&part[..n]);
        let mut at = 0;
        while bytes.len() >= at + 4 {
            let (kind, short) = (bytes[at] & 0x0f, usize::from(bytes[at + 1] & 0x7f));
            let (head, length) = match short {
                126 => (4, usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]))),
                short => (2, short),
            };
            if bytes.len() < at + head + length {
                break;
            }
            at += head + length;
            heard.fetch_add(usize::from(kind == 1), Ordering::Relaxed);
        }
        bytes.drain(..at);
    }
}

/// The other process.
struct Listeners {
    child: Child,
    says: BufReader<ChildStdout>,
    told: ChildStdin,
}

impl Listeners {
    fn on(address: SocketAddr, path: &str) -> Self {
        let program = valid(std::env::current_exe());
        let arguments = [address.to_string(), path.to_owned(), sockets().to_string()];
        let mut command = Command::new(program);
        command.arg("listen").args(arguments);
        let mut child = valid(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn());
        let (Some(says), Some(told)) = (child.stdout.take(), child.stdin.take()) else {
            unreachable!("both are piped")
        };
        let mut listeners = Self { child, says: BufReader::new(says), told };
        listeners.expect("listening");
        listeners
    }

    fn expect(&mut self, word: &str) {
        let mut line = String::new();
        valid(self.says.read_line(&mut line));
        assert_eq!(line.trim(), word);
    }

    fn ask(&mut self, messages: usize) {
        valid(writeln!(self.told, "{messages}"));
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Our host, and a rental to tell of.
async fn ours() -> (SocketAddr, Rentals, RentalId) {
    let host: HostId = valid("bench".parse());
    let gpus = SimulatedGpus::new(&host, 1, valid("RTX 5090".parse())).gpus().to_vec();
    let pools = valid(PortPools::new(valid("22000-22999".parse()), valid("8000-8999".parse())));
    let runtime = Arc::new(MemoryRuntime::with_clock(Arc::new(SystemClock::new())));
    let store = Arc::new(MemoryStore::default());
    let (rentals, reconciler) =
        HostBuilder::new(host, store, runtime, Arc::new(SealKey::generate().0), gpus, pools).build();
    let sleep = |time| Box::pin(tokio::time::sleep(time)) as SleepFuture;
    tokio::spawn(reconciler.run(sleep, std::future::pending()));
    while !rentals.is_reconciled() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let gpu = GpuRequest::one(valid("RTX 5090".parse()));
    let spec = RentalSpec::new(valid("me".parse()), gpu, valid("ubuntu:22.04".parse()), valid("1h".parse()));
    let rented = valid(rentals.rent(RentalRequest::new(spec, CredentialRequest::Generate)).await);
    let id = rented.rental().id();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let many = sockets() + 1000;
    let limits = HttpLimits::default().rate(0).connections(many, many).listeners(many, many);
    let api = HttpApi::new(rentals.clone(), ApiKeys::default()).with_limits(limits);
    let server = valid(Server::bind_api(valid("127.0.0.1:0".parse()), api).await);
    let address = server.address();
    tokio::spawn(server.run(std::future::pending()));
    (address, rentals, id)
}

/// A bare axum server that sends whatever is broadcast.
async fn bare(sender: broadcast::Sender<Utf8Bytes>) -> SocketAddr {
    let listener = valid(tokio::net::TcpListener::bind("127.0.0.1:0").await);
    let address = valid(listener.local_addr());
    let upgrade = move |upgrade: WebSocketUpgrade| async move {
        let mut receiver = sender.subscribe();
        upgrade.on_upgrade(move |mut socket| async move {
            loop {
                // It too has to notice who leaves.
                let text = tokio::select! {
                    text = receiver.recv() => text,
                    _ = socket.recv() => return,
                };
                let Ok(text) = text else { return };
                if socket.send(Message::Text(text)).await.is_err() {
                    return;
                }
            }
        })
    };
    let router = Router::new().route("/ws", get(upgrade));
    tokio::spawn(async move { valid(axum::serve(listener, router).await) });
    address
}

#[tokio::main]
async fn measure() {
    let (address, rentals, id) = ours().await;
    let (sender, _kept) = broadcast::channel(1024);
    let bare = bare(sender.clone()).await;
    let count = rounds(20);
    let mut times = vec![Vec::new(); 3];
    let mut term = 4000_i64;
    // Each holds so many sockets that they take turns of several rounds.
    for block in 0..4 {
        for turn in 0..3 {
            let which = (block + turn) % 3;
            let mut listeners =
                if which == 0 { Listeners::on(address, "/v1/events") } else { Listeners::on(bare, "/ws") };
            for _ in 0..count.div_ceil(4) {
                let before = rentals.last_position().unwrap_or(Position::ZERO);
                let begun = Instant::now();
                listeners.ask(EVENTS);
                if which == 0 {
                    for _ in 0..EVENTS {
                        term += 1;
                        let to = TermExtension::To(valid(Term::fixed(SignedDuration::from_secs(term))));
                        valid(rentals.extend(id, to).await);
                        tokio::task::yield_now().await;
                    }
                } else {
                    // The bytes of the last events of ours.
                    let text = event_like_ours();
                    for _ in 0..EVENTS {
                        valid(sender.send(text.clone()));
                        tokio::task::yield_now().await;
                    }
                }
                tokio::task::block_in_place(|| listeners.expect("heard"));
                times[which].push(begun.elapsed());
                if which == 0 {
                    let after = rentals.last_position().unwrap_or(Position::ZERO);
                    assert_eq!(after.get() - before.get(), EVENTS as u64, "each extension is one event");
                }
            }
            drop(listeners);
            // Until the server has let go of so many sockets.
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }
    let names = ["/v1/events", "a bare axum broadcast", "a bare axum broadcast (A/A)"];
    tell(&format!("{EVENTS} events to {} WebSockets", sockets()), &names, &times);
}

/// As long as one of ours.
fn event_like_ours() -> Utf8Bytes {
    let text = r#"{"at":"2026-11-21T22:44:40.123456Z","data":{"duration_seconds":4001},"position":1234,"rental_id":"01234567-89ab-4cde-8f01-23456789abcd","seq":1234,"type":"extended"}"#;
    Utf8Bytes::from_static(text)
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|word| word == "listen") {
        Some(at) => {
            listen(valid(arguments[at + 1].parse()), &arguments[at + 2], valid(arguments[at + 3].parse()));
        }
        None => measure(),
    }
}
