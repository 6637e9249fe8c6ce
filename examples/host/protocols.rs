//! Settings of the protocols that the host speaks, and how they are put together from those.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use gpurent_core::allocation::RenterLimits;
use gpurent_core::error::ValidationError;
use gpurent_core::host::Rentals;
use gpurent_core::id::RenterId;
use gpurent_core::model::{
    ContainerLimits, ContainerPort, GpuSelector, ImageRef, MountPath, PortRange, RateCard, Size, Term,
};
use gpurent_core::runtime::Images;
use gpurent_core::store::api_keys::IpNet;
use gpurent_docker::{LocalMachine, WorkspaceRoot};
use gpurent_http::protocols::cloud::{Cloud, Template};
use gpurent_http::protocols::dashboard::Dashboard;
use gpurent_http::protocols::instances::Instances;
use gpurent_http::{ApiKeys, HttpApi, HttpLimits, Tls};

use crate::command::keys::network;
use crate::database::Database;
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
    /// The name by which [`HttpApi`] knows it, and by which it is switched on.
    fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::Rent => "rent",
            Self::Instances => "instances",
            Self::Dashboard => "dashboard",
            Self::Cloud => "cloud",
        }
    }
}

/// Callers, and how much they may ask.
#[derive(Args)]
pub struct Access {
    /// Networks from which alone anybody may call, such as 10.0.0.0/8; from anywhere by default. May be repeated.
    #[arg(long, env = "GPURENT_ALLOWED_IPS", value_delimiter = ',', value_parser = network)]
    pub allowed_ip: Vec<IpNet>,
    /// Let everybody in without a key who calls from an --allowed-ip, as long as no key was made.
    #[arg(long, env = "GPURENT_KEYLESS", requires = "allowed_ip")]
    pub keyless: bool,
    /// Certificate with its chain (PEM), to speak TLS; read again when it changes.
    #[arg(long, env = "GPURENT_TLS_CERTIFICATE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,
    /// The certificate's key (PEM).
    #[arg(long, env = "GPURENT_TLS_KEY", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,
    /// Origins of web pages that may call from a browser; none by default. May be repeated.
    #[arg(long, env = "GPURENT_ALLOW_ORIGINS", value_delimiter = ',')]
    pub allow_origin: Vec<String>,
    /// Requests a second of one key, twice as many in a burst; 0 for no limit.
    #[arg(long, env = "GPURENT_RATE_LIMIT", default_value_t = 100)]
    pub rate_limit: u32,
    /// Requests a minute of one renter that make or change something; 0 for no limit.
    #[arg(long, env = "GPURENT_RENTER_CHANGES", default_value_t = 120)]
    pub renter_changes: u32,
    /// Rentals that one renter may have at once, suspended ones included.
    #[arg(long, env = "GPURENT_RENTER_RENTALS", default_value_t = RenterLimits::default().live)]
    pub renter_rentals: u32,
    /// Of these, rentals that are not ready yet.
    #[arg(long, env = "GPURENT_RENTER_UNREADY", default_value_t = RenterLimits::default().unready)]
    pub renter_unready: u32,
    /// Of these, suspended ones.
    #[arg(long, env = "GPURENT_RENTER_SUSPENDED", default_value_t = RenterLimits::default().suspended)]
    pub renter_suspended: u32,
    /// Rentals of one renter that may come to nothing within three hours: their image let nobody in, or they were given up
    /// before they were ready.
    #[arg(long, env = "GPURENT_RENTER_IN_VAIN", default_value_t = RenterLimits::default().in_vain)]
    pub renter_in_vain: u32,
    /// Times that one rental may be resumed by its renter, besides once for each 10 minutes of its use.
    #[arg(long, env = "GPURENT_RENTER_RESUMES", default_value_t = RenterLimits::default().resumes)]
    pub renter_resumes: u32,
    /// Workspaces that one renter may have; they stay when their rentals have ended.
    #[arg(long, env = "GPURENT_RENTER_WORKSPACES", default_value_t = RenterLimits::default().workspaces)]
    pub renter_workspaces: u32,
    /// GPUs that one renter may have at once; all there are by default.
    #[arg(long, env = "GPURENT_RENTER_GPUS")]
    pub renter_gpus: Option<u32>,
    /// Other limits for a certain renter, of rentals, unready, suspended, in-vain, resumes, workspaces and gpus,
    /// such as alice=rentals:200,gpus:8. May be repeated.
    #[arg(long, env = "GPURENT_RENTER_LIMITS", value_delimiter = ';', value_name = "RENTER=WHAT:NUMBER,...")]
    pub renter_limits: Vec<LimitsOf>,
    /// Connections at once, a quarter of them from one address; the one that was idle longest goes for a new one.
    #[arg(long, env = "GPURENT_MAX_CONNECTIONS", default_value_t = 8192)]
    pub max_connections: usize,
    /// WebSockets and event streams at once.
    #[arg(long, env = "GPURENT_MAX_LISTENERS", default_value_t = 1024)]
    pub max_listeners: usize,
}

impl Access {
    pub fn restrict(&self, keys: ApiKeys) -> ApiKeys {
        let keys = keys.allow_from(self.allowed_ip.clone());
        if self.keyless { keys.without_keys() } else { keys }
    }

    pub fn tls(&self) -> Result<Option<Tls>, Failure> {
        match (&self.tls_certificate, &self.tls_key) {
            (Some(certificate), Some(key)) => Ok(Some(Tls::from_files(certificate, key)?)),
            _ => Ok(None),
        }
    }

    /// How much one renter may have.
    pub fn renter_limits(&self) -> RenterLimits {
        RenterLimits {
            live: self.renter_rentals,
            unready: self.renter_unready,
            suspended: self.renter_suspended,
            gpus: self.renter_gpus,
            in_vain: self.renter_in_vain,
            resumes: self.renter_resumes,
            workspaces: self.renter_workspaces,
        }
    }

    /// The limits of certain renters.
    pub fn limits_of_renters(&self) -> impl Iterator<Item = (RenterId, RenterLimits)> {
        let usual = self.renter_limits();
        self.renter_limits.iter().map(move |limits| (limits.renter.clone(), limits.in_place_of(usual)))
    }

    fn limits(&self) -> HttpLimits {
        HttpLimits::default()
            .rate(self.rate_limit)
            .changes(self.renter_changes)
            .connections(self.max_connections, (self.max_connections / 4).max(1))
            .listeners(self.max_listeners, (self.max_listeners / 32).max(1))
    }
}

/// The limits of a certain renter that are other than usual.
#[derive(Clone, Debug)]
pub struct LimitsOf {
    renter: RenterId,
    changes: Vec<Change>,
}

#[derive(Clone, Debug)]
struct Change {
    set: fn(&mut RenterLimits, u32),
    to: u32,
}

impl LimitsOf {
    fn in_place_of(&self, mut limits: RenterLimits) -> RenterLimits {
        self.changes.iter().for_each(|change| (change.set)(&mut limits, change.to));
        limits
    }
}

impl FromStr for LimitsOf {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let refused = || {
            ValidationError::new("renter limits", "must be RENTER=WHAT:NUMBER,..., such as alice=rentals:200,gpus:8")
        };
        let (renter, changes) = text.rsplit_once('=').ok_or_else(refused)?;
        let change = |text: &str| {
            let (what, number) = text.split_once(':').ok_or_else(refused)?;
            let set: fn(&mut RenterLimits, u32) = match what.trim() {
                "rentals" => |limits, number| limits.live = number,
                "unready" => |limits, number| limits.unready = number,
                "suspended" => |limits, number| limits.suspended = number,
                "in-vain" => |limits, number| limits.in_vain = number,
                "resumes" => |limits, number| limits.resumes = number,
                "workspaces" => |limits, number| limits.workspaces = number,
                "gpus" => |limits, number| limits.gpus = Some(number),
                _ => return Err(refused()),
            };
            Ok(Change { set, to: number.trim().parse().map_err(|_| refused())? })
        };
        Ok(Self { renter: renter.trim().parse()?, changes: changes.split(',').map(change).collect::<Result<_, _>>()? })
    }
}

/// Folders that outlive containers.
#[derive(Args)]
pub struct Workspaces {
    /// Where renters' workspaces lie; in the data directory by default.
    #[arg(long, env = "WORKDIR_DEPLOY")]
    pub workspace_root: Option<PathBuf>,
    /// The folder that a new workspace begins as a copy of; empty by default.
    #[arg(long, env = "WORKDIR_TEMPLATE")]
    pub workspace_template: Option<PathBuf>,
    /// User and group that new workspaces belong to.
    #[arg(long, env = "GPURENT_WORKSPACE_OWNER", default_value = "1000:1000", value_parser = owner)]
    pub workspace_owner: (u32, u32),
    /// A folder of the host that containers with a workspace see read-only, FOLDER:WHERE. May be repeated.
    #[arg(long, env = "GPURENT_WORKSPACE_READ_ONLY", value_delimiter = ',', value_parser = read_only)]
    pub workspace_read_only: Vec<(PathBuf, MountPath)>,
}

fn owner(text: &str) -> Result<(u32, u32), String> {
    let parsed = text.split_once(':').and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
    parsed.ok_or_else(|| "must be USER:GROUP, as numbers".to_owned())
}

fn read_only(text: &str) -> Result<(PathBuf, MountPath), String> {
    let (folder, mount) = text.rsplit_once(':').ok_or("must be FOLDER:WHERE")?;
    Ok((folder.into(), mount.parse().map_err(|error: gpurent_core::error::ValidationError| error.to_string())?))
}

impl Workspaces {
    /// The folder in which workspaces lie.
    pub fn folder(&self, data_dir: &Path) -> PathBuf {
        self.workspace_root.clone().unwrap_or_else(|| data_dir.join("workspaces"))
    }

    pub fn root(&self, data_dir: &Path) -> Result<WorkspaceRoot, Failure> {
        let place = self.folder(data_dir);
        let failed = |what: &Path| {
            let what = what.display().to_string();
            move |error: std::io::Error| format!("workspaces: {what}: {error}")
        };
        let mut root = WorkspaceRoot::new(&place).map_err(failed(&place))?;
        if let Some(template) = &self.workspace_template {
            root = root.with_template(template).map_err(failed(template))?;
        }
        for (folder, mount) in &self.workspace_read_only {
            root = root.with_read_only(folder, mount.clone()).map_err(failed(folder))?;
        }
        Ok(root.owned_by(self.workspace_owner.0, self.workspace_owner.1))
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

/// The parts that protocols are made of.
pub struct Parts {
    pub database: Database,
    pub images: Arc<dyn Images>,
    pub machine: LocalMachine,
    pub prices: Option<RateCard>,
    pub has_workspaces: bool,
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

    pub fn api(&self, access: &Access, rentals: Rentals, keys: ApiKeys, parts: &Parts) -> Result<HttpApi, Failure> {
        let term = self.open_term.unwrap_or(Term::OpenEnded);
        let mut api = HttpApi::new(rentals, keys)
            .with_limits(access.limits())
            .with_audit(parts.database.audit.clone())
            .with_instances(Instances { term });
        if !access.allow_origin.is_empty() {
            let origins: Result<Vec<_>, _> = access.allow_origin.iter().map(|origin| origin.parse()).collect();
            api = api.allow_origins(origins?);
        }
        api = api.with_dashboard(self.dashboard(parts)?.lasting(term)).with_cloud(self.cloud(parts)?.lasting(term));
        let off = Protocol::value_variants().iter().filter(|protocol| !self.has(**protocol));
        Ok(off.fold(api, |api, protocol| api.without(protocol.name())))
    }

    fn dashboard(&self, parts: &Parts) -> Result<Dashboard, Failure> {
        let (ranges, pool) = (parts.database.ranges.clone(), self.dashboard_ports.clone());
        let machine = Arc::new(parts.machine.clone());
        let mut dashboard = Dashboard::new(ranges, pool, parts.images.clone(), machine).with_gpus(GpuSelector::Any);
        if parts.has_workspaces {
            dashboard = dashboard.with_workspaces_at(self.workspace_mount.clone());
        }
        if let Some(image) = self.image()? {
            dashboard = dashboard.with_image(image);
        }
        dashboard = dashboard.with_services_at(&[
            ("code", ContainerPort::try_from(self.dashboard_code_port)?),
            ("jupyter", ContainerPort::try_from(self.dashboard_jupyter_port)?),
        ])?;
        let mut limits = ContainerLimits::default();
        if let Some(cpus) = self.dashboard_cpus {
            limits = limits.with_milli_cpus(cpus.saturating_mul(1000))?;
        }
        if let Some(bytes) = self.dashboard_memory {
            limits = limits.with_memory_bytes(bytes)?;
        }
        if let Some(folder) = self.downloads()? {
            dashboard = dashboard.with_downloads(folder);
        }
        Ok(dashboard.with_limits(limits))
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

    fn image(&self) -> Result<Option<ImageRef>, Failure> {
        let Some(image) = &self.dashboard_image else { return Ok(None) };
        let last = image.rsplit('/').next().unwrap_or_default();
        let name = match &self.dashboard_tag {
            Some(tag) if !last.contains([':', '@']) => format!("{image}:{tag}"),
            _ => image.clone(),
        };
        Ok(Some(name.parse()?))
    }

    fn cloud(&self, parts: &Parts) -> Result<Cloud, Failure> {
        let mut cloud = Cloud::new(self.templates()?)?;
        if let Some(prices) = &parts.prices {
            cloud = cloud.with_prices(prices.clone());
        }
        Ok(if parts.has_workspaces { cloud.with_workspaces() } else { cloud })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_operators_write_is_read() {
        assert_eq!(memory("4g"), Ok(4 << 30));
        assert_eq!(memory("512"), Ok(512 << 20));
        assert!(memory("4x").is_err() && memory("").is_err());
        assert_eq!(owner("1000:100"), Ok((1000, 100)));
        assert!(owner("me").is_err());
        assert_eq!(read_only("/opt/my:tools:/opt/tools").unwrap().0, PathBuf::from("/opt/my:tools"));
        assert!(read_only("/opt:/etc").is_err());
    }
    #[test]
    fn the_limits_of_a_certain_renter_change_only_what_they_name() {
        let alice: LimitsOf = "alice=rentals:200, gpus:8".parse().unwrap();
        let usual = RenterLimits::default();
        let hers = alice.in_place_of(usual);
        assert_eq!(alice.renter, "alice".parse().unwrap());
        assert_eq!((hers.live, hers.gpus, hers.suspended), (200, Some(8), usual.suspended));
        for text in ["alice", "alice=", "alice=cows:1", "alice=rentals:many", "alice=rentals:-1", "=rentals:1"] {
            assert!(text.parse::<LimitsOf>().is_err(), "{text}");
        }
    }
}
