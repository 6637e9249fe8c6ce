//! Dying on purpose, for crash tests: `GPURENT_FAILPOINT=created` ends the process with SIGKILL as it
//! passes that boundary (see `gpurent_core::host::failpoint`).

use std::sync::Arc;

use gpurent_core::error::ValidationError;
use gpurent_core::host::{FAILPOINTS, FailpointHook};

/// The hook that the environment asks for, if it does.
pub fn from_environment() -> Result<Option<FailpointHook>, ValidationError> {
    let Ok(wanted) = std::env::var("GPURENT_FAILPOINT") else { return Ok(None) };
    if !FAILPOINTS.contains(&wanted.as_str()) {
        return Err(ValidationError::new("GPURENT_FAILPOINT", format!("must be one of {}", FAILPOINTS.join(", "))));
    }
    tracing::warn!(failpoint = %wanted, "this process will kill itself");
    Ok(Some(Arc::new(move |passed: &str| {
        if passed == wanted {
            // Nothing may run after this line, not even an error about it.
            let killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            unreachable!("SIGKILL came back: {killed:?}");
        }
    })))
}
