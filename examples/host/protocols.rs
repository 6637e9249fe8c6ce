//! The HTTP API, put together from the settings of its protocols.

use std::sync::Arc;

use clap::ValueEnum;
use gpurent_core::host::Rentals;
use gpurent_core::model::{ContainerLimits, ContainerPort, GpuSelector, RateCard, Term};
use gpurent_core::runtime::Images;
use gpurent_docker::LocalMachine;
use gpurent_http::protocols::cloud::Cloud;
use gpurent_http::protocols::dashboard::Dashboard;
use gpurent_http::protocols::instances::Instances;
use gpurent_http::{ApiKeys, HttpApi};

use crate::config::{Access, Protocol, Protocols};
use crate::database::Database;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The parts that protocols are made of.
pub struct Parts {
    pub database: Database,
    pub images: Arc<dyn Images>,
    pub machine: LocalMachine,
    pub prices: Option<RateCard>,
    pub has_workspaces: bool,
}

impl Protocols {
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

    fn cloud(&self, parts: &Parts) -> Result<Cloud, Failure> {
        let mut cloud = Cloud::new(self.templates()?)?;
        if let Some(prices) = &parts.prices {
            cloud = cloud.with_prices(prices.clone());
        }
        Ok(if parts.has_workspaces { cloud.with_workspaces() } else { cloud })
    }
}
