//! Finding out which GPUs a host has.

use async_trait::async_trait;

use crate::model::Gpu;

/// Why the GPUs could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// There is no driver; the operator has to install it, or to ask for simulated GPUs.
    #[error("the NVIDIA driver cannot be reached")]
    NoDriver(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The driver answered with something unusable.
    #[error("the NVIDIA driver gave an unusable answer")]
    Unusable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A GPU that was asked for by UUID is not there.
    #[error("this host has no GPU {0}")]
    Missing(crate::model::GpuUuid),
}

/// Tells which GPUs a host has.
#[async_trait]
pub trait GpuProbe: Send + Sync + 'static {
    /// The GPUs that may be rented.
    ///
    /// # Errors
    /// [`ProbeError`]: the host then has none to rent.
    async fn discover(&self) -> Result<Vec<Gpu>, ProbeError>;
}
