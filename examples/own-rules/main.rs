//! Rules of one's own: an [`Allocator`] that decides which GPUs are given out, and an [`Authenticator`]
//! that knows callers by the platform's own tokens. Run it, then
//! `curl -H 'X-Session: ada' 127.0.0.1:8080/v1/rentals ...`; containers and GPUs are simulated.

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use axum::http::request::Parts;
use gpurent_core::allocation::{AllocationRequest, Allocator, PortPools};
use gpurent_core::clock::{SleepFuture, SystemClock};
use gpurent_core::host::HostBuilder;
use gpurent_core::memory::{MemoryRuntime, MemoryStore, SimulatedGpus};
use gpurent_core::model::{Gpu, SealKey};
use gpurent_core::store::Role;
use gpurent_http::{AuthError, Authenticator, Caller, Server};

/// Keeps GPU 0 for Ada, who runs the house, and gives out the others from the last to the first.
struct KeepTheFirst;

impl Allocator for KeepTheFirst {
    fn choose<'a>(&self, request: &AllocationRequest<'_>, free: &[&'a Gpu]) -> Option<Vec<&'a Gpu>> {
        let is_for = |gpu: &&Gpu| gpu.index != 0 || request.renter().as_str() == "ada";
        let mut usable: Vec<&Gpu> =
            free.iter().copied().filter(is_for).filter(|gpu| request.gpu.selector.matches(gpu)).collect();
        usable.sort_by_key(|gpu| std::cmp::Reverse(gpu.index));
        usable.truncate(usize::from(request.gpu.count.get()));
        (usable.len() == usize::from(request.gpu.count.get())).then_some(usable)
    }
}

/// Knows sessions of the platform; a real one would ask its own login service here.
struct Sessions;

#[async_trait]
impl Authenticator for Sessions {
    async fn authenticate(&self, request: &Parts) -> Result<Caller, AuthError> {
        let session = request.headers.get("x-session").and_then(|value| value.to_str().ok()).unwrap_or_default();
        match session {
            "ada" | "grace" => {
                let renter = session.parse().map_err(|_| AuthError::Unauthenticated)?;
                Ok(Caller::new(renter, Role::Renter))
            }
            _ => Err(AuthError::Unauthenticated),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let host = "own-rules".parse()?;
    let gpus = SimulatedGpus::new(&host, 4, "RTX 5090".parse()?).gpus().to_vec();
    let pools = PortPools::new("22000-22999".parse()?, "8100-8999".parse()?)?;
    let runtime = Arc::new(MemoryRuntime::with_clock(Arc::new(SystemClock::new())));
    let (store, sealer) = (Arc::new(MemoryStore::default()), Arc::new(SealKey::generate().0));
    let (rentals, reconciler) =
        HostBuilder::new(host, store, runtime, sealer, gpus, pools).allocator(Arc::new(KeepTheFirst)).build();
    let sleep = |time| Box::pin(tokio::time::sleep(time)) as SleepFuture;
    let reconciling = tokio::spawn(reconciler.run(sleep, std::future::pending()));
    let server = Server::bind("127.0.0.1:8080".parse()?, rentals, Sessions).await?;
    tokio::select! {
        served = server.run(std::future::pending()) => served?,
        ended = reconciling => ended??,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use gpurent_core::allocation::Holds;
    use gpurent_core::model::{GpuRequest, RentalSpec, Term};

    use super::*;

    gpurent_core::allocator_suite!(|| KeepTheFirst);

    #[test]
    fn the_first_gpu_is_adas() {
        let gpus = SimulatedGpus::new(&"h".parse().unwrap(), 2, "RTX 5090".parse().unwrap()).gpus().to_vec();
        let (free, held): (Vec<&Gpu>, _) = (gpus.iter().collect(), Holds::default());
        let one = GpuRequest::one("RTX 5090".parse().unwrap());
        let chosen = |renter: &str, free: &[&Gpu]| {
            let term = Term::hours(1).unwrap();
            let spec = RentalSpec::new(renter.parse().unwrap(), one.clone(), "a:1".parse().unwrap(), term);
            let chosen = KeepTheFirst.choose(&AllocationRequest::new(&spec, &one, &gpus, &held), free);
            chosen.map(|gpus| gpus[0].index)
        };
        assert_eq!(chosen("grace", &free), Some(1));
        assert_eq!((chosen("grace", &free[..1]), chosen("ada", &free[..1])), (None, Some(0)));
    }
}
