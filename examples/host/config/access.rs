//! Callers, and how much they may ask.

use std::path::PathBuf;

use clap::Args;
use gpurent_core::allocation::RenterLimits;
use gpurent_core::id::RenterId;
use gpurent_core::store::api_keys::IpNet;
use gpurent_http::{ApiKeys, HttpLimits, Tls};

use super::renter_limits::LimitsOf;
use crate::command::keys::network;

type Failure = Box<dyn std::error::Error + Send + Sync>;

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

    /// How much may be asked of the server.
    pub fn limits(&self) -> HttpLimits {
        HttpLimits::default()
            .rate(self.rate_limit)
            .changes(self.renter_changes)
            .connections(self.max_connections, (self.max_connections / 4).max(1))
            .listeners(self.max_listeners, (self.max_listeners / 32).max(1))
    }
}
