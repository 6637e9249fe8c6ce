//! The tenants' network: one bridge for all, on which they cannot reach each other.
//!
//! A bridge for each tenant costs 80 ms a rental and isolates no better (from another bridge a tenant
//! reaches a neighbour's published port through its own gateway), and Docker's address pools end at
//! about thirty.

pub(crate) mod firewall;
pub(crate) mod isolation_probe;
pub(crate) mod name_server;

use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{NetworkCreateRequest, NetworkInspect};
use gpurent_core::runtime::RuntimeError;

use crate::engine::error::{classify, is_missing, refusal, unavailable};

/// The network's name.
pub(crate) const NAME: &str = "gpurent";

/// The network's bridge. Docker does not keep two networks from having one name, but two bridges it does.
pub(crate) const BRIDGE: &str = "gpurent0";

/// How long a network that somebody else is just making may take to show.
const NETWORK_APPEARS_WITHIN: Duration = Duration::from_secs(5);

/// Makes the network unless it is there.
pub(crate) async fn ensure(docker: &Docker) -> Result<(), RuntimeError> {
    ensure_named(docker, NAME, BRIDGE).await
}

/// The engine's id of the network; `None` where there is none.
pub(crate) async fn id(docker: &Docker) -> Result<Option<String>, RuntimeError> {
    match docker.inspect_network(NAME, None).await {
        Ok(found) => Ok(found.id),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(unavailable(error)),
    }
}

async fn ensure_named(docker: &Docker, name: &str, bridge: &str) -> Result<(), RuntimeError> {
    match docker.inspect_network(name, None).await {
        Ok(found) => return expect_ours(found, name, bridge),
        Err(error) if is_missing(&error) => {}
        Err(error) => return Err(unavailable(error)),
    }
    let options = [("com.docker.network.bridge.enable_icc", "false"), ("com.docker.network.bridge.name", bridge)];
    let request = NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".to_owned()),
        // Rules for tenants are IPv4's: an engine that adds IPv6 by default would open a way around them.
        enable_ipv6: Some(false),
        options: Some(options.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
        ..NetworkCreateRequest::default()
    };
    let Err(refused) = docker.create_network(request).await else { return Ok(()) };
    if refusal(&refused).is_none() {
        return Err(unavailable(refused));
    }
    // Refused because somebody else was faster? Then it shows soon.
    let begun = Instant::now();
    while begun.elapsed() < NETWORK_APPEARS_WITHIN {
        if docker.inspect_network(name, None).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(classify(refused, &[]))
}

/// A network of our name that was made otherwise would not keep tenants apart.
fn expect_ours(found: NetworkInspect, name: &str, bridge: &str) -> Result<(), RuntimeError> {
    let options = found.options.unwrap_or_default();
    let has = |option: &str, value: &str| options.get(option).is_some_and(|found| found == value);
    let ours = found.enable_ipv6 != Some(true)
        && has("com.docker.network.bridge.name", bridge)
        && has("com.docker.network.bridge.enable_icc", "false");
    if ours {
        return Ok(());
    }
    Err(RuntimeError::Refused(format!("the engine has another network named {name}: remove or rename it").into()))
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn many_rentals_at_once_on_a_fresh_engine_make_one_network() {
        let engine = std::env::var("DOCKER_HOST").expect("DOCKER_HOST: run scripts/test");
        let docker = crate::engine::client::connect(&engine.as_str().into()).await.unwrap();
        let unique = format!("{:08x}", rand::random::<u32>());
        let (name, bridge) = (format!("gpurent-test-{unique}"), format!("gpt{unique}"));
        let made = join_all((0..8).map(|_| ensure_named(&docker, &name, &bridge))).await;
        assert!(made.iter().all(Result::is_ok), "{made:?}");
        docker.remove_network(&name).await.unwrap();
        assert!(docker.inspect_network(&name, None).await.is_err(), "there was one");
    }
}
