//! The protocols that the host speaks.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use gpurent_core::error::ValidationError;
use gpurent_core::model::{ImageRef, MountPath, PortRange, Size, Term};
use gpurent_http::protocols::cloud::Template;

use crate::finding::{Finding, Part};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A protocol's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    V1,
    Rent,
    Instances,
    Dashboard,
    Cloud,
}

impl Protocol {
    /// The name by which [`HttpApi`](gpurent_http::HttpApi) knows it, and by which it is switched on.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::Rent => "rent",
            Self::Instances => "instances",
            Self::Dashboard => "dashboard",
            Self::Cloud => "cloud",
        }
    }
}

/// The port of its agents that a dashboard's manager calls, whatever they say.
const MANAGERS_PORT: u16 = 8510;

/// The protocols of existing platforms.
#[derive(Args)]
pub struct Protocols {
    /// Protocols that the host speaks.
    #[arg(long, env = "GPURENT_PROTOCOLS", value_delimiter = ',', default_value = "v1,rent,instances,dashboard,cloud")]
    pub protocols: Vec<Protocol>,
    /// How long rentals last whose protocol names no time (instances, dashboard, cloud); without an end by default.
    #[arg(long, env = "GPURENT_OPEN_TERM")]
    pub open_term: Option<Term>,
    /// A listener of its own for the dashboard protocol, such as 127.0.0.1:8510.
    #[arg(long, env = "GPURENT_DASHBOARD_LISTEN")]
    pub dashboard_listen: Option<SocketAddr>,
    /// Host ports of which dashboard users get ten each, for good.
    #[arg(long, env = "GPURENT_DASHBOARD_PORTS", default_value = "9000-9999")]
    pub dashboard_ports: PortRange,
    /// Image of dashboard users who ask for none.
    #[arg(long, env = "DOCKER_IMAGE")]
    pub dashboard_image: Option<String>,
    /// The image's tag, where the name has none.
    #[arg(long, env = "DOCKER_TAG")]
    pub dashboard_tag: Option<String>,
    /// CPUs of dashboard containers whose user does not say.
    #[arg(long, env = "DOCKER_CPU")]
    pub dashboard_cpus: Option<u32>,
    /// Memory of dashboard containers whose user does not say, in MiB or such as 4g.
    #[arg(long, env = "DOCKER_MEM_LMT", value_parser = memory)]
    pub dashboard_memory: Option<u64>,
    /// Where dashboard containers see their user's workspace.
    #[arg(long, env = "WORKSPACE_MOUNT", default_value = "/home/developer/workspace")]
    pub workspace_mount: MountPath,
    /// Dashboard manager that is told when this host comes and goes.
    #[arg(long, env = "MGMT_SERVER_IP")]
    pub manager: Option<String>,
    /// The manager's port.
    #[arg(long, env = "MGMT_SERVER_PORT", default_value_t = 8500)]
    pub manager_port: u16,
    /// The host's address as the manager is to know it; AGENT_IP, or the one that it is reached from, by default.
    #[arg(long, env = "AGENT_PUBLIC_IP")]
    pub agent_ip: Option<IpAddr>,
    /// The same by its older name.
    #[arg(long, env = "AGENT_IP", hide = true)]
    pub agent_ip_before: Option<IpAddr>,
    /// Port of the container where a dashboard user's editor answers.
    #[arg(long, env = "CODE_PORT", default_value_t = 8080)]
    pub dashboard_code_port: u16,
    /// Port of the container where a dashboard user's Jupyter answers.
    #[arg(long, env = "JUPYTER_PORT", default_value_t = 8888)]
    pub dashboard_jupyter_port: u16,
    /// Folder of files that everybody may fetch from the dashboard protocol's /downloads/ without a key, such as
    /// installers; none by default.
    #[arg(long, env = "GPURENT_DASHBOARD_DOWNLOADS")]
    pub dashboard_downloads: Option<PathBuf>,
    /// Templates of the cloud protocol, as a JSON list; the usual ones by default.
    #[arg(long, env = "GPURENT_TEMPLATES")]
    pub templates: Option<PathBuf>,
}

/// Bytes, from `4g`, `512m`, or a number of MiB.
fn memory(text: &str) -> Result<u64, ValidationError> {
    Size::parse_in(text, 1 << 20).map(Size::bytes)
}

impl Protocols {
    pub fn has(&self, protocol: Protocol) -> bool {
        self.protocols.contains(&protocol)
    }

    /// The host's address as a manager is to know it, where that was set.
    pub fn agent_ip(&self) -> Option<IpAddr> {
        self.agent_ip.or(self.agent_ip_before)
    }

    /// A finding where the manager will not reach this host: it always calls port 8510 of the host's address.
    pub fn unreachable_for_the_manager(&self, listen: SocketAddr) -> Option<Finding> {
        let address = self.dashboard_listen.unwrap_or(listen);
        let is_elsewhere = address.port() != MANAGERS_PORT || address.ip().is_loopback();
        (self.manager.is_some() && is_elsewhere).then(|| {
            let found = format!(
                "the manager calls port {MANAGERS_PORT} of this host, and the dashboard protocol listens on {address}"
            );
            Finding::new(Part::Settings, found, format!("set --dashboard-listen 0.0.0.0:{MANAGERS_PORT}"))
        })
    }

    /// The folder of files for everybody.
    pub fn downloads(&self) -> Result<Option<&Path>, Failure> {
        match self.dashboard_downloads.as_deref() {
            // Named wrongly, it would only be found out by those who look for a file.
            Some(folder) if !folder.is_dir() => {
                Err(format!("--dashboard-downloads {}: there is no such folder", folder.display()).into())
            }
            folder => Ok(folder),
        }
    }

    /// The templates of the cloud protocol.
    pub fn templates(&self) -> Result<Vec<Template>, Failure> {
        let Some(path) = &self.templates else { return Ok(Template::usual()) };
        let read = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(serde_json::from_slice(&read).map_err(|error| format!("{}: {error}", path.display()))?)
    }

    /// The image of dashboard users who ask for none, with its tag.
    pub fn image(&self) -> Result<Option<ImageRef>, Failure> {
        let Some(image) = &self.dashboard_image else { return Ok(None) };
        let last = image.rsplit('/').next().unwrap_or_default();
        let name = match &self.dashboard_tag {
            Some(tag) if !last.contains([':', '@']) => format!("{image}:{tag}"),
            _ => image.clone(),
        };
        Ok(Some(name.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(memory("4g"), Ok(4 << 30));
        assert_eq!(memory("512"), Ok(512 << 20));
        assert!(memory("4x").is_err() && memory("").is_err());
    }
}
