//! The tenants' network: one bridge for all, on which they cannot reach each other.
//!
//! A bridge for each tenant costs 80 ms a rental and isolates no better (from another bridge a tenant
//! reaches a neighbour's published port through its own gateway), and Docker's address pools end at
//! about thirty.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::NetworkCreateRequest;
use gpurent_core::runtime::RuntimeError;

use crate::error::{classify, refusal};

/// The network's name.
pub(crate) const NAME: &str = "gpurent";

/// Makes the network unless it is there.
pub(crate) async fn ensure(docker: &Docker) -> Result<(), RuntimeError> {
    if docker.inspect_network(NAME, None).await.is_ok() {
        return Ok(());
    }
    let options = [("com.docker.network.bridge.enable_icc", "false"), ("com.docker.network.bridge.name", "gpurent0")];
    let request = NetworkCreateRequest {
        name: NAME.to_owned(),
        driver: Some("bridge".to_owned()),
        options: Some(HashMap::from(options.map(|(name, value)| (name.to_owned(), value.to_owned())))),
        ..NetworkCreateRequest::default()
    };
    match docker.create_network(request).await {
        Ok(_) => Ok(()),
        // Somebody made it in between.
        Err(error) if matches!(refusal(&error), Some((409, _))) => Ok(()),
        Err(error) => Err(classify(error, &[])),
    }
}
