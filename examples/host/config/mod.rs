//! The settings of the host, as flags and as variables of its environment, in one file for each subject.

mod access;
mod engine;
mod gpus;
mod prices;
mod protocols;
mod renter_limits;
mod timeouts;
mod workspaces;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;

pub use access::Access;
use clap::Args;
pub use engine::Engine;
use gpurent_core::allocation::{DiskLimit, DiskRoom, Division};
use gpurent_core::error::ValidationError;
use gpurent_core::id::HostId;
use gpurent_core::model::{Currency, DiskUse, HourlyRate, PortRange};
use gpurent_docker::Registries;
pub use gpus::{GpuSource, WithoutGpu};
use jiff::SignedDuration;
pub use prices::Rate;
use prices::price;
pub use protocols::{Protocol, Protocols};
pub use timeouts::Timeouts;
pub use workspaces::Workspaces;

use crate::exit::with_causes;
use crate::finding::{Finding, Part};
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
    #[command(flatten)]
    pub timeouts: Timeouts,
    /// Pull images before anything is claimed for them: who asks for one that is not here hears that it is being pulled, and
    /// asks again. A rental that is resumed has its GPU first.
    #[arg(long, env = "GPURENT_PULL_FIRST")]
    pub pull_first: bool,
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

/// The machine's name as a host id.
pub fn machine_name() -> Result<HostId, ValidationError> {
    HostId::try_from(rustix::system::uname().nodename().to_string_lossy().into_owned())
}
