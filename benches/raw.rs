//! The peer of everything about containers: the same engine, spoken to by hand through the same socket.
//! Its containers have the same network, one published port, a GPU request and the same limits, and none of
//! our parts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{ContainerCreateBody, DeviceRequest, HostConfig, PortBinding};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, RemoveContainerOptionsBuilder,
};

use crate::environment;
use crate::host::{IMAGE, valid};

/// An engine.
pub struct Raw {
    docker: Docker,
}

static NEXT: AtomicU16 = AtomicU16::new(0);

impl Raw {
    /// Connects to the services' engine.
    pub fn connect() -> Self {
        Self { docker: valid(Docker::connect_with_host(&environment("DOCKER_HOST"))) }
    }

    /// Creates and starts a container; how long that took, and its name.
    pub async fn up(&self) -> (Duration, String) {
        let n = NEXT.fetch_add(1, Ordering::SeqCst);
        let name = format!("gpurent-bench-raw-{}-{n}", std::process::id());
        // Below the ports that the kernel gives to outgoing connections.
        let port = 26_000 + n % 4000;
        let binding = PortBinding { host_ip: None, host_port: Some(port.to_string()) };
        // The same request for a GPU, which the engine's hook serves.
        let gpu = DeviceRequest {
            driver: Some(String::new()),
            count: Some(0),
            device_ids: Some(vec!["GPU-00000000-0000-4000-8000-000000000000".to_owned()]),
            capabilities: Some(vec![vec!["gpu".to_owned()]]),
            options: None,
        };
        let body = ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            cmd: Some(vec!["sleep".to_owned(), "1000000".to_owned()]),
            exposed_ports: Some(vec!["22/tcp".to_owned()]),
            host_config: Some(HostConfig {
                network_mode: Some("gpurent".to_owned()),
                port_bindings: Some(HashMap::from([("22/tcp".to_owned(), Some(vec![binding]))])),
                memory: Some(64 * 1024 * 1024),
                memory_swap: Some(64 * 1024 * 1024),
                pids_limit: Some(4096),
                init: Some(true),
                device_requests: Some(vec![gpu]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let begun = Instant::now();
        valid(self.docker.create_container(Some(options), body).await);
        valid(self.docker.start_container(&name, None).await);
        (begun.elapsed(), name)
    }

    /// Kills a container.
    pub async fn kill(&self, name: &str) {
        let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
        valid(self.docker.kill_container(name, Some(options)).await);
    }

    /// When a container ended, by the engine's own record.
    pub async fn finished_at(&self, name: &str) -> jiff::Timestamp {
        loop {
            let state = valid(self.docker.inspect_container(name, None).await).state.unwrap_or_default();
            if state.running == Some(false) {
                return valid(state.finished_at.unwrap_or_default().parse());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Removes a container.
    pub async fn down(&self, name: &str) {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        valid(self.docker.remove_container(name, Some(options)).await);
    }
}
