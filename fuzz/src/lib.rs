//! Parsers of input from outside do not panic, and accepted input means the same when it is read
//! again. One function a parser; `targets/` feeds them from libFuzzer, `tests/corpus.rs` from what was kept.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use gpurent_access::spec::Spec;
use gpurent_access::wire::{Frame, Hello, Reply, Stream, Verdict};
use gpurent_core::allocation::PortPools;
use gpurent_core::clock::{SleepFuture, SystemClock};
use gpurent_core::host::HostBuilder;
use gpurent_core::id::{HostId, IdempotencyKey, InstanceName, RenterId};
use gpurent_core::memory::{MemoryRuntime, MemoryStore, SimulatedGpus};
use gpurent_core::model::{
    Environment, RentalEvent, Gpu, GpuModel, GpuSelector, GpuUuid, HostPort, ImageRef, Labels, LoginUser, PortRange,
    PublicKey, PublishedPorts, RentalSpec, SealKey, Term,
};
use gpurent_http::{ApiKeys, HttpApi};
use tower::ServiceExt;

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// Accepted text is written as something that is accepted, and means the same.
fn reads_again<T: FromStr<Err: Debug> + Display + PartialEq + Debug>(text: &str) -> Option<T> {
    let value: T = text.parse().ok()?;
    assert_eq!(value.to_string().parse::<T>().expect("it was accepted before"), value);
    Some(value)
}

pub fn image(data: &[u8]) {
    let Some(image) = text(data).and_then(reads_again::<ImageRef>) else { return };
    assert!(!image.name().is_empty() && !image.selector().is_empty());
    // A part of a URL and of a command line.
    assert!(image.as_str().bytes().all(|byte| byte.is_ascii_graphic()) && !image.as_str().starts_with('-'));
}

pub fn gpu(data: &[u8]) {
    let Some(text) = text(data) else { return };
    if let Some(model) = reads_again::<GpuModel>(text) {
        assert!(!model.normalised().is_empty());
        assert!(model.answers_to(&model), "{model:?} is not itself");
    }
    if let Some(uuid) = reads_again::<GpuUuid>(text) {
        // It becomes an environment variable's value, beside others.
        assert!(!uuid.as_str().contains([',', '=', '\0']));
    }
    if let Ok(selector) = text.parse::<GpuSelector>() {
        let uuid = "GPU-0".parse().expect("a UUID");
        let model = "NVIDIA A100-SXM4-80GB".parse().expect("a model");
        let memory_mib = u64::from(data.len().is_multiple_of(2)) * 81_920;
        let gpu = Gpu { uuid, index: 0, model, memory_mib, device_node: None, simulated: false };
        // Whatever is asked for, to compare it with a card never fails.
        selector.matches(&gpu);
    }
}

pub fn ports(data: &[u8]) {
    let Some(text) = text(data) else { return };
    drop(reads_again::<HostPort>(text));
    drop(text.parse::<PortRange>());
    if let Ok(ports) = serde_json::from_str::<PublishedPorts>(text) {
        let mut seen: Vec<_> = ports.as_slice().iter().map(|port| (port.container, port.transport)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), ports.as_slice().len(), "one port twice");
    }
}

pub fn environment(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let variables: BTreeMap<String, String> = match serde_json::from_str(text) {
        Ok(variables) => variables,
        Err(_) => {
            text.lines().filter_map(|line| line.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
        }
    };
    let Ok(environment) = Environment::try_from(variables) else { return };
    for (name, value) in environment.iter() {
        let upper = name.to_ascii_uppercase();
        let nvidia = upper.starts_with("NVIDIA_") && name != "NVIDIA_DRIVER_CAPABILITIES";
        assert!(!nvidia && upper != "LD_PRELOAD" && upper != "LD_AUDIT", "{name}");
        assert!(!name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'));
    }
}

pub fn ssh_key(data: &[u8]) {
    let Some(key) = text(data).and_then(reads_again::<PublicKey>) else { return };
    // A line of its own in authorized_keys, with nothing before the algorithm.
    assert!(!key.as_str().contains(['\n', '\r', '\0', '"']), "{key}");
    assert_eq!(key.as_str().split(' ').count(), 2, "{key}");
}

pub fn words(data: &[u8]) {
    let Some(text) = text(data) else { return };
    drop(reads_again::<RenterId>(text));
    drop(reads_again::<IdempotencyKey>(text));
    drop(text.parse::<Term>());
    if let Some(host) = reads_again::<HostId>(text) {
        assert!(!host.as_str().contains(['/', '\0']), "it becomes a part of a file's name");
    }
    drop(reads_again::<InstanceName>(text));
    if let Ok(user) = text.parse::<LoginUser>() {
        assert!(!user.as_str().contains([':', '/', '\n']), "it becomes a line of /etc/passwd");
    }
}

/// Documents that we read back from a database, a container's labels, or a peer.
pub fn documents(data: &[u8]) {
    if let Ok(spec) = serde_json::from_slice::<RentalSpec>(data) {
        let again = serde_json::to_vec(&spec).expect("it has a JSON form");
        assert_eq!(serde_json::from_slice::<RentalSpec>(&again).expect("it was read before"), spec);
    }
    if let Ok(event) = serde_json::from_slice::<RentalEvent>(data) {
        let again = serde_json::to_vec(&event).expect("it has a JSON form");
        assert_eq!(serde_json::from_slice::<RentalEvent>(&again).expect("it was read before"), event);
    }
    if let Ok(labels) = serde_json::from_slice::<BTreeMap<String, String>>(data) {
        drop(Labels::try_from(labels));
    }
}

/// The words of a container to its host, which are its renter's.
pub fn container(data: &[u8]) {
    let mut buffer = data.to_vec();
    while let Ok(Some(frame)) = Frame::take(&mut buffer) {
        if let Some(hello) = Hello::from_frame(&frame) {
            assert_eq!(Hello::from_frame(&hello.frame()), Some(hello));
        }
        if let Some(reply) = Reply::from_frame(&frame) {
            assert_eq!(Reply::from_frame(&reply.frame()), Some(reply));
        }
        if let Some(stream) = Stream::from_frame(&frame) {
            assert_eq!(Stream::from_frame(&stream.frame()), Some(stream));
        }
    }
    if let Some(spec) = Spec::decode(data) {
        assert_eq!(Spec::decode(&spec.encode()), Some(spec));
    }
    if let Some(Verdict::Image(why) | Verdict::Host(why)) =
        text(data).and_then(|line| Verdict::from_line(line, "token"))
    {
        assert!(why.len() <= data.len());
    }
}

thread_local! {
    static SURFACES: OnceCell<(tokio::runtime::Runtime, Router)> = const { OnceCell::new() };
}

/// A host in memory, as its HTTP surfaces see it.
fn surfaces() -> (tokio::runtime::Runtime, Router) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let host: HostId = "host".parse().expect("a name");
    let gpus = SimulatedGpus::new(&host, 2, "RTX 5090".parse().expect("a model")).gpus().to_vec();
    let pools = PortPools::new("22000-22999".parse().expect("a range"), "8000-8999".parse().expect("a range"));
    let engine = Arc::new(MemoryRuntime::with_clock(Arc::new(SystemClock::new())));
    let (rentals, reconciler) = HostBuilder::new(
        host,
        Arc::new(MemoryStore::default()),
        engine,
        Arc::new(SealKey::generate().0),
        gpus,
        pools.expect("they do not overlap"),
    )
    .build();
    let sleep = |time| Box::pin(tokio::time::sleep(time)) as SleepFuture;
    runtime.spawn(reconciler.run(sleep, std::future::pending()));
    let router = runtime.block_on(async { HttpApi::new(rentals, ApiKeys::default()).router() });
    (runtime, router)
}

/// Bodies of the protocols: whatever is sent, the answer is no failure of ours. The first byte says where to.
pub fn requests(data: &[u8]) {
    let Some((first, body)) = data.split_first() else { return };
    let (method, path) = match first % 5 {
        0 => ("POST", "/v1/rentals"),
        1 => ("POST", "/rent"),
        2 => ("POST", "/v1/rentals/00000000-0000-4000-8000-000000000000/extend"),
        3 => ("PUT", "/v1/rentals/00000000-0000-4000-8000-000000000000/access"),
        _ => ("POST", "/v1/rentals/not-an-id/extend"),
    };
    SURFACES.with(|cell| {
        let (runtime, router) = cell.get_or_init(surfaces);
        runtime.block_on(async {
            let peer = axum::extract::ConnectInfo(std::net::SocketAddr::from(([127, 0, 0, 1], 5)));
            let mut request = Request::builder().method(method).uri(path).header("host", "127.0.0.1");
            request = request.header("content-type", "application/json").extension(peer);
            let request = request.body(Body::from(body.to_vec())).expect("a request");
            let answer = router.clone().oneshot(request).await.expect("it cannot fail");
            // 503 is an answer: the two GPUs may be rented, or not be known yet.
            assert!(answer.status() != 500, "{method} {path}: {}", String::from_utf8_lossy(body));
            let said = to_bytes(answer.into_body(), 1 << 20).await.expect("a bounded body");
            serde_json::from_slice::<serde_json::Value>(&said).expect("a JSON document");
        });
    });
}
