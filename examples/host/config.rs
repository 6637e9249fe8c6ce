//! Settings of an operator: by flag, or by environment.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use gpurent_core::allocation::renter_limits::LATELY;
use gpurent_core::allocation::{DiskLimit, DiskRoom, Division};
use gpurent_core::error::ValidationError;
use gpurent_core::id::HostId;
use gpurent_core::model::{Currency, DiskUse, GpuModel, GpuUuid, HourlyRate, MicroUnits, PortRange};
use gpurent_docker::{EngineAddress, Registries, TlsFiles};
use jiff::SignedDuration;

use crate::exit::with_causes;
use crate::finding::{Finding, Part};
use crate::protocols::{Access, Protocols, Workspaces};
use crate::{archive, former_settings};

/// The settings of `gpurent-host serve`.
#[derive(Args)]
pub struct Serve {
    /// Address to listen on. Off loopback an API key is required.
    #[arg(long, env = "GPURENT_LISTEN", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,
    /// Port to listen on instead of the one in --listen.
    #[arg(long, env = "AGENT_PORT")]
    pub port: Option<u16>,
    /// Database: sqlite:PATH, postgres://user:password@host/name, or "memory" to try things out. A SQLite
    /// file in the data directory by default.
    #[arg(long, env = "GPURENT_DATABASE", hide_env_values = true, default_value = "")]
    pub database: String,
    /// The container engine.
    #[command(flatten)]
    pub engine: Engine,
    /// GPUs to rent: nvml, nvml:UUID,... or simulated:N:MODEL.
    #[arg(long, env = "GPURENT_GPUS", default_value = "nvml")]
    pub gpus: GpuSource,
    /// Name or address under which renters reach this host.
    #[arg(long, env = "GPURENT_PUBLIC_HOST", default_value = "127.0.0.1")]
    pub public_host: String,
    /// The host's id; the machine's name by default.
    #[arg(long, env = "GPURENT_HOST_ID")]
    pub host_id: Option<HostId>,
    /// Host ports for SSH.
    #[arg(long, env = "GPURENT_SSH_PORTS", default_value = "22000-22999")]
    pub ssh_ports: PortRange,
    /// Host ports for everything else.
    #[arg(long, env = "GPURENT_WEB_PORTS", default_value = "8000-8999")]
    pub web_ports: PortRange,
    /// Host ports that renters may ask for by number.
    #[arg(long, env = "GPURENT_REQUESTABLE_PORTS", default_value = "1024-65535")]
    pub requestable_ports: PortRange,
    /// API key that callers must send; without one only this machine may call.
    /// Better in --api-key-file, since arguments can be read by everybody on the machine, or made with
    /// `gpurent-host keys`.
    #[arg(long, env = "GPURENT_API_KEY", hide_env_values = true, conflicts_with = "api_key_file")]
    pub api_key: Option<String>,
    /// Price of one GPU an hour, MODEL=PRICE; may be repeated. With any, GPUs without one are refused.
    #[arg(long = "rate", env = "GPURENT_RATES", value_delimiter = ';')]
    pub rates: Vec<Rate>,
    /// Currency of the prices.
    #[arg(long, env = "GPURENT_CURRENCY", default_value = "USD", value_parser = |code: &str| Currency::try_from(code.to_owned()))]
    pub currency: Currency,
    /// Charge for containers too that ran and never let their renters in, unless by the host's own doing: their image's
    /// program had the GPU all the same.
    #[arg(long, env = "GPURENT_CHARGE_UNVERIFIED")]
    pub charge_unverified: bool,
    /// How long a rental may take until its container has started, such as 2h: so long it holds its GPUs while its image is
    /// pulled.
    #[arg(long, env = "GPURENT_START_TIMEOUT", default_value = "2h", value_parser = start_timeout)]
    pub start_timeout: SignedDuration,
    /// Pull images before anything is claimed for them: who asks for one that is not here hears that it is being pulled, and
    /// asks again. A rental that is resumed has its GPU first.
    #[arg(long, env = "GPURENT_PULL_FIRST")]
    pub pull_first: bool,
    /// How long after its start a container may take until SSH answers, such as 90s.
    #[arg(long, env = "GPURENT_ACCESS_TIMEOUT", default_value = "90s")]
    pub access_timeout: SignedDuration,
    /// Where the lock is kept that makes this the engine's only agent; the same for all agents of a machine.
    #[arg(long, env = "GPURENT_LOCK_DIR", default_value = "/run/gpurent")]
    pub lock_dir: PathBuf,
    /// Folder in memory (tmpfs) over which credentials reach containers; "none" uploads them, which takes longer. By default
    /// /run/gpurent/access where that is in memory, and none where it is not.
    #[arg(long, env = "GPURENT_ACCESS_DIR")]
    pub access_dir: Option<PathBuf>,
    /// Let renters who log in under another name than root become root by sudo: takes the lock no-new-privileges off
    /// their containers.
    #[arg(long, env = "GPURENT_ALLOW_SUDO")]
    pub allow_sudo: bool,
    /// Take the host over although its machine has another id (/etc/machine-id) than when it was pinned to this engine: after
    /// a reinstallation, never for a clone.
    #[arg(long, env = "GPURENT_ANY_MACHINE")]
    pub any_machine: bool,
    /// Set no firewall rules: tenants then reach this host's own services and the metadata address.
    #[arg(long, env = "GPURENT_NO_FIREWALL")]
    pub no_firewall: bool,
    /// Let every rental ask for as many CPUs, processes and as much memory as the whole machine has. By default one may
    /// ask for the part of its GPUs: half of it for 1 GPU of 2.
    #[arg(long, env = "GPURENT_OVERSELL")]
    pub oversell: bool,
    /// Let tenants reach private networks (10.0.0.0/8 and the like) beyond this host, which are the operator's own as a
    /// rule.
    #[arg(long, env = "GPURENT_ALLOW_PRIVATE_NETWORKS")]
    pub allow_private_networks: bool,
    /// Registries that images may be pulled from, such as docker.io,ghcr.io,10.0.0.5:5000. By default all that have a
    /// public name and address. "any" lets renters have the engine ask whatever it reaches.
    #[arg(long, env = "GPURENT_REGISTRIES", value_delimiter = ',')]
    pub registries: Vec<String>,
    /// Move rentals that ended so long ago, such as 90d, from the database into files; by default all of them are kept.
    #[arg(long, env = "GPURENT_KEEP_ENDED", value_parser = archive::age)]
    pub keep_ended: Option<SignedDuration>,
    /// Folder for those files, of JSON lines, one file a month; `archive` in --data-dir by default.
    #[arg(long, env = "GPURENT_ARCHIVE_DIR")]
    pub archive_dir: Option<PathBuf>,
    /// So many MiB are kept free on the disks of the engine and of the data directory; below that nobody new
    /// is taken in.
    #[arg(long, env = "GPURENT_DISK_RESERVE_MIB", default_value_t = 1024)]
    pub disk_reserve_mib: u64,
    /// So many MiB each rental may write in its container and workspace for each of its GPUs; 0 for no limit. By default its
    /// part of the disk: half of it for 1 GPU of 2. Who goes on beyond that is ended.
    #[arg(long, env = "GPURENT_RENTAL_DISK_MIB")]
    pub rental_disk_mib: Option<u64>,
    /// Where the sealing key, the book of deadlines and the SQLite file are kept.
    #[arg(long, env = "GPURENT_DATA_DIR", default_value = "/var/lib/gpurent")]
    pub data_dir: PathBuf,
    /// Rent containers without a GPU too, to those who ask for none: 4 at once, or =N. All of them together have the part of
    /// the machine of one GPU more.
    #[arg(long, env = "GPURENT_RENT_WITHOUT_GPU", num_args = 0..=1, require_equals = true, default_value = "false",
        default_missing_value = "true", hide_default_value = true)]
    pub rent_without_gpu: WithoutGpu,
    /// Price of a container without a GPU an hour; with prices and without this one, there are none.
    #[arg(long, env = "GPURENT_RATE_WITHOUT_GPU", value_parser = price)]
    pub rate_without_gpu: Option<HourlyRate>,
    /// Callers, and how much they may ask.
    #[command(flatten)]
    pub access: Access,
    /// Folders that outlive containers.
    #[command(flatten)]
    pub workspaces: Workspaces,
    /// The protocols of existing platforms.
    #[command(flatten)]
    pub protocols: Protocols,
    /// Sealing key of 64 hexadecimal digits, instead of the one kept in the data directory.
    #[arg(long, env = "GPURENT_SEAL_KEY", hide_env_values = true)]
    pub seal_key: Option<String>,
}

impl Serve {
    /// The host's id.
    pub fn host(&self) -> Result<HostId, ValidationError> {
        self.host_id.clone().map_or_else(machine_name, Ok)
    }

    /// The address of the API.
    pub fn listens_on(&self) -> SocketAddr {
        SocketAddr::new(self.listen.ip(), self.port.unwrap_or(self.listen.port()))
    }

    /// The faults of these settings and of the environment's.
    pub fn findings(&self) -> Vec<Finding> {
        let mut found = former_settings::findings(|name| std::env::var_os(name).is_some());
        found.extend(self.protocols.unreachable_for_the_manager(self.listens_on()));
        let refused =
            |what: &str, error: &(dyn Error + 'static)| Finding::new(Part::Settings, with_causes(error), what);
        if let Err(error) = self.access.tls() {
            found.push(refused("name a certificate and its key by --tls-certificate and --tls-key", &*error));
        }
        if let Err(error) = self.protocols.templates() {
            found.push(refused("name another file by --templates", &*error));
        }
        if let Err(error) = self.protocols.downloads() {
            found.push(refused("make it, or name another folder", &*error));
        }
        found
    }

    /// How much a rental may write on the disk, where tenants have this room.
    pub fn disk_limit(&self, room: Option<DiskRoom>, division: Division) -> DiskLimit {
        match self.rental_disk_mib {
            None => room.map_or(DiskLimit::None, DiskLimit::Part),
            Some(0) => DiskLimit::None,
            Some(mib) => {
                // Files have their part all the same.
                let files = room.map_or(u64::MAX, |room| division.part(1).of(room.containers.files));
                DiskLimit::PerGpu(DiskUse { bytes: mib.saturating_mul(1024 * 1024), files })
            }
        }
    }

    /// The registries that images may come from.
    pub fn registries(&self) -> Registries {
        let listed = self.registries.iter().map(|registry| registry.trim().to_owned());
        let listed: Vec<_> = listed.filter(|registry| !registry.is_empty()).collect();
        match listed.as_slice() {
            [] => Registries::Public,
            [any] if any == "any" => Registries::Any,
            _ => Registries::only(listed),
        }
    }
}

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

/// The machine's name as a host id.
pub fn machine_name() -> Result<HostId, ValidationError> {
    HostId::try_from(rustix::system::uname().nodename().to_string_lossy().into_owned())
}

/// Where GPUs come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuSource {
    /// All that the NVIDIA driver shows.
    Nvml,
    /// Some of them.
    NvmlOnly(Vec<GpuUuid>),
    /// So many that exist as names only.
    Simulated(u8, GpuModel),
}

impl FromStr for GpuSource {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let mut parts = text.splitn(3, ':');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("nvml"), None, _) => Ok(Self::Nvml),
            (Some("nvml"), Some(uuids), None) => {
                Ok(Self::NvmlOnly(uuids.split(',').map(str::parse).collect::<Result<_, _>>()?))
            }
            (Some("simulated"), Some(count), Some(model)) => {
                let count = count.parse().ok().filter(|count| (1..=64).contains(count));
                let count =
                    count.ok_or_else(|| ValidationError::new("gpus", "simulated:N:MODEL takes 1 to 64 GPUs"))?;
                Ok(Self::Simulated(count, model.parse()?))
            }
            _ => Err(ValidationError::new("gpus", "must be nvml, nvml:UUID,... or simulated:N:MODEL")),
        }
    }
}

/// How many containers without a GPU there may be at once: a number, `true` for as many as is usual, `false` for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WithoutGpu(pub u32);

impl FromStr for WithoutGpu {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        match text {
            "true" => Ok(Self(4)),
            "false" => Ok(Self(0)),
            number => number
                .parse()
                .map(Self)
                .map_err(|_| ValidationError::new("rent-without-gpu", "must be a number of containers")),
        }
    }
}

/// The price of a model.
#[derive(Clone, Debug)]
pub struct Rate {
    /// The model.
    pub model: GpuModel,
    /// The model's price.
    pub rate: HourlyRate,
}

impl FromStr for Rate {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let refused = || ValidationError::new("rate", "must be MODEL=PRICE, such as 'RTX 5090=1.49'");
        let (model, rate) = text.rsplit_once('=').ok_or_else(refused)?;
        Ok(Self { model: model.trim().parse()?, rate: price(rate)? })
    }
}

/// A time to start in. What came to nothing is counted for [three hours](gpurent_core::allocation::renter_limits::LATELY).
fn start_timeout(text: &str) -> Result<SignedDuration, ValidationError> {
    let refused = || ValidationError::new("start-timeout", "must be 1s to 3h");
    let time: SignedDuration = text.parse().map_err(|_| refused())?;
    if (SignedDuration::from_secs(1)..=LATELY).contains(&time) { Ok(time) } else { Err(refused()) }
}

/// A price an hour, read without a float.
fn price(text: &str) -> Result<HourlyRate, ValidationError> {
    let refused = || ValidationError::new("rate", "must be a price of at most six decimals, such as 1.49");
    let (whole, part) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    if part.len() > 6 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return Err(refused());
    }
    let whole: i64 = whole.parse().map_err(|_| refused())?;
    let part: i64 = format!("{part:0<6}").parse().map_err(|_| refused())?;
    let micros = whole.checked_mul(1_000_000).and_then(|micros| micros.checked_add(part)).ok_or_else(refused)?;
    HourlyRate::new(MicroUnits::new(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_come_from_where_the_operator_says() {
        assert_eq!("nvml".parse(), Ok(GpuSource::Nvml));
        assert_eq!(
            "nvml:GPU-1,GPU-2"
                .parse::<GpuSource>()
                .map(|source| matches!(source, GpuSource::NvmlOnly(only) if only.len() == 2)),
            Ok(true)
        );
        assert_eq!("simulated:2:RTX 5090".parse(), Ok(GpuSource::Simulated(2, "RTX 5090".parse().unwrap())));
        for text in ["", "cuda", "simulated", "simulated:0:X", "simulated:x:X", "simulated:2:", "nvml:x"] {
            assert!(text.parse::<GpuSource>().is_err(), "{text}");
        }
    }

    #[test]
    fn prices_are_read_without_a_float() {
        let rate = |text: &str| text.parse::<Rate>().map(|rate| rate.rate.per_hour().get());
        assert_eq!(rate("RTX 5090=1.49").unwrap(), 1_490_000);
        assert_eq!(rate("H200 = 3").unwrap(), 3_000_000);
        assert_eq!(rate("A100=0.000001").unwrap(), 1);
        for text in ["RTX 5090", "RTX 5090=", "RTX 5090=1.1234567", "RTX 5090=-1", "=1", "X=1e9"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
