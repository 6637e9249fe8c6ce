//! Tells a dashboard manager when this host comes and goes, as the `dashboard` protocol has it: a courtesy, which no
//! tenant depends on.

use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use serde_json::json;

/// How long the manager may take to answer, and the longest pause between two tries to reach it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// How often a manager hears that this host is still there; it takes one for dead after 90 seconds.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);

/// Whether a manager has no such route.
fn is_missing(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let status = error.downcast_ref::<reqwest::Error>().and_then(reqwest::Error::status);
    status.is_some_and(|status| status == 404 || status == 405)
}

/// A manager, and how it is to know this host.
#[derive(Clone)]
pub struct DashboardRegistration {
    client: reqwest::Client,
    url: String,
    agent_ip: Option<IpAddr>,
    host: String,
    port: u16,
}

impl DashboardRegistration {
    pub fn new(host: &str, port: u16, agent_ip: Option<IpAddr>) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder().timeout(ANSWER_TIMEOUT).build()?;
        let name = if host.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() };
        Ok(Self { client, url: format!("http://{name}:{port}"), agent_ip, host: host.to_owned(), port })
    }

    /// The machine's address on the way to the manager. Nothing is sent.
    fn own_address(&self) -> std::io::Result<IpAddr> {
        if let Some(address) = self.agent_ip {
            return Ok(address);
        }
        let manager = (self.host.as_str(), self.port).to_socket_addrs()?.next();
        let manager = manager.ok_or_else(|| std::io::Error::other("the manager's name leads nowhere"))?;
        let any = if manager.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(manager)?;
        Ok(socket.local_addr()?.ip())
    }

    async fn send(&self, what: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let asked = self.clone();
        let address = tokio::task::spawn_blocking(move || asked.own_address()).await??;
        let request = self.client.post(format!("{}/api/{what}", self.url)).json(&json!({"agent_ip": address}));
        request.send().await?.error_for_status()?;
        Ok(())
    }

    /// Registers, however long it takes until the manager answers.
    pub async fn register(&self) {
        let mut pause = Duration::from_secs(1);
        while let Err(error) = self.send("register_agent").await {
            tracing::warn!(error = &*error as &dyn std::error::Error, "not registered with the manager yet");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_BACKOFF);
        }
        tracing::info!(manager = self.url, "registered with the manager");
    }

    /// Registers, and then says every half a minute that this host is still there: a manager that does not know of that
    /// answers 404, and is left alone.
    pub async fn keep_registered(&self) {
        self.register().await;
        let mut is_known = true;
        loop {
            tokio::time::sleep(HEARTBEAT_INTERVAL).await;
            match self.send("agent/heartbeat").await {
                Ok(()) if is_known => {}
                Ok(()) => {
                    tracing::info!(manager = self.url, "the manager answers again");
                    is_known = true;
                }
                Err(error) if is_missing(&*error) => return,
                Err(error) => {
                    tracing::warn!(error = &*error as &dyn std::error::Error, "the manager does not hear this host");
                    is_known = false;
                }
            }
        }
    }

    /// Says goodbye, once.
    pub async fn unregister(&self) {
        match tokio::time::timeout(ANSWER_TIMEOUT, self.send("unregister_agent")).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = &*error as &dyn std::error::Error, "the manager was not told goodbye");
            }
            Err(_late) => tracing::warn!("the manager was not told goodbye in time"),
        }
    }
}
