//! The parts of the host that its settings alone decide: GPUs, prices, keys, ports.

use std::path::Path;

use gpurent_core::allocation::PortPools;
use gpurent_core::error::ValidationError;
use gpurent_core::id::HostId;
use gpurent_core::memory::SimulatedGpus;
use gpurent_core::model::{Gpu, HostPort, RateCard};
use gpurent_core::runtime::{GpuProbe, ProbeError};
use gpurent_docker::NvmlGpus;
use gpurent_http::{ApiKey, ApiKeys};

use super::Failure;
use crate::config::{GpuSource, Protocol, Serve};

/// The GPUs that are rented out.
pub async fn discover(host: &HostId, source: &GpuSource) -> Result<Vec<Gpu>, ProbeError> {
    match source {
        GpuSource::Nvml => NvmlGpus::all().discover().await,
        GpuSource::NvmlOnly(uuids) => NvmlGpus::only(uuids.iter().cloned()).discover().await,
        GpuSource::Simulated(count, model) => SimulatedGpus::new(host, *count, model.clone()).discover().await,
    }
}

/// The ports that are given out: none of the host's own.
pub fn pools(settings: &Serve) -> Result<PortPools, ValidationError> {
    let mut pools = PortPools::new(settings.ssh_ports.clone(), settings.web_ports.clone())?
        .allow_requests(settings.requestable_ports.clone());
    if settings.protocols.has(Protocol::Dashboard) {
        pools = pools.set_aside(settings.protocols.dashboard_ports.clone())?;
    }
    let listens = [Some(settings.listens_on()), settings.protocols.dashboard_listen].into_iter().flatten();
    for port in listens.filter_map(|address| HostPort::try_from(address.port()).ok()) {
        pools = pools.reserve(port);
    }
    Ok(pools)
}

/// The prices, where there are any.
pub fn prices(settings: &Serve) -> Option<RateCard> {
    if settings.rates.is_empty() && settings.rate_without_gpu.is_none() {
        return None;
    }
    let card = RateCard::new(settings.currency.clone());
    let card = if settings.charge_unverified { card.charging_unverified() } else { card };
    let card = settings.rates.iter().fold(card, |card, rate| card.with(rate.model.clone(), rate.rate));
    Some(match settings.rate_without_gpu {
        Some(rate) => card.with_price_without_gpu(rate),
        None => card,
    })
}

/// The keys that callers have.
pub fn keys(settings: &Serve, api_key_file: Option<&Path>) -> Result<ApiKeys, Failure> {
    let key = match (&settings.api_key, api_key_file) {
        (Some(key), _) => key.clone(),
        (None, Some(path)) => read_key(path)?,
        (None, None) => return Ok(ApiKeys::default()),
    };
    Ok(ApiKeys::new(vec![ApiKey::platform(key.trim(), "platform".parse()?)?]))
}

fn read_key(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| format!("the API key file {}: {error}", path.display()).into())
}
