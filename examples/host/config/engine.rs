//! The container engine.

use std::path::PathBuf;

use clap::Args;
use gpurent_docker::{EngineAddress, TlsFiles};

/// Which container engine, and how to speak to it.
#[derive(Args)]
pub struct Engine {
    /// Docker Engine: unix:///var/run/docker.sock, or tcp://host:2376 with --docker-tls-dir.
    #[arg(long, env = "DOCKER_HOST", default_value = "unix:///var/run/docker.sock")]
    pub docker: String,
    /// Folder with ca.pem, cert.pem and key.pem for an engine that is spoken to over TLS.
    #[arg(long, env = "DOCKER_CERT_PATH")]
    pub docker_tls_dir: Option<PathBuf>,
}

impl Engine {
    /// The engine's address.
    pub fn address(&self) -> EngineAddress {
        match &self.docker_tls_dir {
            Some(directory) if self.docker.starts_with("tcp://") => {
                EngineAddress::with_tls(&self.docker, TlsFiles::in_directory(directory))
            }
            _ => self.docker.as_str().into(),
        }
    }
}
