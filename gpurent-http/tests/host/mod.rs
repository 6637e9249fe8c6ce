//! A host on the fakes, served over HTTP.

#![allow(dead_code, reason = "every test uses its own part")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

use std::sync::Arc;

use gpurent_core::allocation::{Capacity, PortPools};
use gpurent_core::clock::{SleepFuture, SystemClock};
use gpurent_core::host::{HostBuilder, Rentals};
use gpurent_core::id::HostId;
use gpurent_core::memory::{MemoryMachine, MemoryRuntime, MemoryStore, SimulatedGpus};
use gpurent_core::model::{HourlyRate, MicroUnits, RateCard, SealKey};
use gpurent_http::protocols::cloud::{Cloud, Template};
use gpurent_http::protocols::dashboard::Dashboard;
use gpurent_http::{ApiKeys, HttpApi, Server};
use reqwest::StatusCode;
use serde_json::Value;

#[derive(Clone)]
pub struct Host {
    pub address: String,
    pub store: Arc<MemoryStore>,
    pub runtime: Arc<MemoryRuntime>,
    pub machine: MemoryMachine,
    pub rentals: Rentals,
    pub client: reqwest::Client,
}

pub async fn host_with(keys: ApiKeys) -> Host {
    host_on(Arc::new(MemoryStore::default()), keys).await
}

pub async fn host_on(store: Arc<MemoryStore>, keys: ApiKeys) -> Host {
    host_as(store, keys, |surfaces| surfaces).await
}

/// With surfaces set up in some way.
pub async fn host_as(store: Arc<MemoryStore>, keys: ApiKeys, how: impl FnOnce(HttpApi) -> HttpApi) -> Host {
    let host: HostId = "host".parse().unwrap();
    let runtime = Arc::new(MemoryRuntime::with_clock(Arc::new(SystemClock::new())));
    let machine = MemoryMachine::default();
    let gpus = SimulatedGpus::new(&host, 2, "Tesla V100-SXM2-16GB".parse().unwrap()).gpus().to_vec();
    let pools = PortPools::new("22000-22999".parse().unwrap(), "8000-8999".parse().unwrap()).unwrap();
    let pools = pools.allow_requests("1024-65535".parse().unwrap()).set_aside("9000-9099".parse().unwrap()).unwrap();
    let rate = |micros| HourlyRate::new(MicroUnits::new(micros)).unwrap();
    let prices = RateCard::new("USD".to_owned().try_into().unwrap())
        .with("Tesla V100".parse().unwrap(), rate(1_490_000))
        .with_price_without_gpu(rate(100_000));
    let (rentals, reconciler) =
        HostBuilder::new(host, store.clone(), runtime.clone(), Arc::new(SealKey::generate().0), gpus, pools)
            .capacity(Capacity { milli_cpus: 4000, memory_bytes: 1 << 34, processes: 32_000, divided: false })
            .prices(prices.clone())
            .inside(runtime.clone())
            .offer_workspaces()
            .rent_without_gpu(64)
            .build();
    let sleep = |time| Box::pin(tokio::time::sleep(time)) as SleepFuture;
    tokio::spawn(reconciler.run(sleep, std::future::pending()));
    while !rentals.is_reconciled() {
        tokio::task::yield_now().await;
    }
    let pool = "9000-9099".parse().unwrap();
    let dashboard = Dashboard::new(store.clone(), pool, Arc::new(machine.clone()), Arc::new(machine.clone()))
        .with_workspaces_at("/home/developer/workspace".parse().unwrap());
    let cloud = Cloud::new(Template::usual()).unwrap().with_prices(prices).with_workspaces();
    let surfaces = HttpApi::new(rentals.clone(), keys).with_dashboard(dashboard).with_cloud(cloud);
    let server = Server::bind_api("127.0.0.1:0".parse().unwrap(), how(surfaces)).await.unwrap();
    let address = server.address().to_string();
    tokio::spawn(server.run(std::future::pending()));
    Host { address, store, runtime, machine, rentals, client: http() }
}

/// A client; reqwest wants to be told which cryptography TLS would use, also where there is none.
pub fn http() -> reqwest::Client {
    // Only fails where it was done before.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::new()
}

pub async fn host() -> Host {
    host_with(ApiKeys::default()).await
}

impl Host {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let response = self.client.post(self.url(path)).json(body).send().await.unwrap();
        let status = response.status();
        (status, response.json().await.unwrap())
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        let response = self.client.get(self.url(path)).send().await.unwrap();
        let status = response.status();
        (status, response.json().await.unwrap())
    }

    pub async fn nothing_was_done(&self) -> bool {
        self.get("/v1/rentals").await.1["rentals"].as_array().unwrap().is_empty()
    }

    pub async fn until(&self, id: &str, state: &str) -> Value {
        for _ in 0..2000 {
            let (_, rental) = self.get(&format!("/v1/rentals/{id}")).await;
            if rental["state"] == state {
                return rental;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        panic!("not {state} in time");
    }
}
