//! The engine's containers, as it shows them now.
use crate::host::context::HostContext;
use crate::id::{EngineId, LaunchId};
use crate::runtime::{Observation, RuntimeError};

/// Looks at the engine. That a container is absent is believed only of the engine that had it.
pub(super) async fn observe(
    context: &HostContext,
    engine: &EngineId,
    expected: &[LaunchId],
) -> Result<Observation, RuntimeError> {
    let observation = context.runtime.observe(&context.host).await?;
    let something_lacks = expected.iter().any(|launch| observation.of(*launch).is_none());
    if something_lacks && context.runtime.engine().await? != *engine {
        return Err(RuntimeError::Unavailable("another engine answers at this address".into()));
    }
    Ok(observation)
}
