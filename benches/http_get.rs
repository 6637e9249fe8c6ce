//! How fast is `GET /v1/rentals/{id}` against a constant answer behind the same limits and the same
//! authentication? Over real connections that are kept open, with the store in memory, on SQLite and on
//! PostgreSQL.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use futures_util::future::BoxFuture;
use gpurent_benches::host::valid;
use gpurent_benches::{Subject, compare, environment, rounds};
use gpurent_core::allocation::PortPools;
use gpurent_core::clock::{SleepFuture, SystemClock};
use gpurent_core::host::HostBuilder;
use gpurent_core::id::{HostId, RentalId};
use gpurent_core::memory::{MemoryRuntime, MemoryStore, SimulatedGpus};
use gpurent_core::model::{CredentialRequest, GpuRequest, RentalRequest, RentalSpec, SealKey};
use gpurent_core::store::HostStore;
use gpurent_http::{ApiKey, ApiKeys, HttpApi};
use gpurent_store::{PostgresStore, SqliteStore};

/// Requests in one measurement.
const BATCH: u32 = 100;
const KEY: &str = "bench-0123456789abcdef";

/// A host on a store; the URLs of one rental and of a constant answer of the same size.
async fn serve(store: Arc<dyn HostStore>) -> (String, String) {
    let host: HostId = valid(format!("bench-{}", RentalId::generate()).parse());
    let gpus = SimulatedGpus::new(&host, 1, valid("RTX 5090".parse())).gpus().to_vec();
    let pools = valid(PortPools::new(valid("22000-22999".parse()), valid("8000-8999".parse())));
    let runtime = Arc::new(MemoryRuntime::with_clock(Arc::new(SystemClock::new())));
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
    let keys = ApiKeys::new(vec![valid(ApiKey::platform(KEY, valid("bench".parse())))]);
    let api = HttpApi::new(rentals, keys);
    let listener = valid(tokio::net::TcpListener::bind("127.0.0.1:0").await);
    let base = format!("http://{}", valid(listener.local_addr()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let router = api.router();
    let url = format!("{base}/v1/rentals/{id}");
    let first = tokio::spawn(async move { valid(axum::serve(listener, router).await) });
    let body = valid(valid(client().get(&url).bearer_auth(KEY).send().await).text().await);
    first.abort();
    // The same router again, with the constant answer beside it.
    let body: &'static str = Box::leak(body.into_boxed_str());
    let constant = api.protect(
        Router::new().route("/constant/{id}", get(async move || ([(CONTENT_TYPE, "application/json")], body))),
    );
    let listener = valid(tokio::net::TcpListener::bind("127.0.0.1:0").await);
    let base = format!("http://{}", valid(listener.local_addr()));
    let router = Router::new().nest("/here", api.router()).nest("/peer", constant);
    tokio::spawn(async move { valid(axum::serve(listener, router).await) });
    (format!("{base}/here/v1/rentals/{id}"), format!("{base}/peer/constant/{id}"))
}

fn client() -> reqwest::Client {
    // Only fails where it was done before.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::new()
}

async fn batch(client: reqwest::Client, url: String) -> Vec<Duration> {
    let begun = Instant::now();
    for _ in 0..BATCH {
        let answer = valid(client.get(&url).bearer_auth(KEY).send().await);
        assert_eq!(answer.status(), 200, "{url}");
        valid(answer.bytes().await);
    }
    vec![begun.elapsed() / BATCH]
}

#[tokio::main]
async fn main() {
    let directory = valid(tempfile::tempdir());
    let sqlite = valid(SqliteStore::open(&directory.path().join("bench.db")).await);
    let postgres = valid(PostgresStore::connect(&environment("DATABASE_URL")).await);
    let stores: [(&str, Arc<dyn HostStore>); 3] = [
        ("memory", Arc::new(MemoryStore::default())),
        ("SQLite", Arc::new(sqlite)),
        ("PostgreSQL", Arc::new(postgres)),
    ];
    for (name, store) in stores {
        let (rental, constant) = serve(store).await;
        let http = client();
        let subject = |name: &'static str, url: &str| -> Subject<'static> {
            let (http, url) = (http.clone(), url.to_owned());
            let run = move || -> BoxFuture<'static, Vec<Duration>> { Box::pin(batch(http.clone(), url.clone())) };
            (name, Box::new(run))
        };
        let subjects = vec![
            subject("GET /v1/rentals/{id}", &rental),
            subject("a constant answer", &constant),
            subject("a constant answer (A/A)", &constant),
        ];
        compare(&format!("one request, rentals in {name}"), rounds(200), subjects).await;
    }
}
