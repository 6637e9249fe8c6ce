//! Running the kit's own programs inside a container, for a bounded time.

use std::time::Duration;

use bollard::Docker;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use futures_util::StreamExt;
use gpurent_core::runtime::RuntimeError;

use crate::error::{classify, unavailable};

/// The renter's programs share the container with ours, and could stop them.
const PATIENCE: Duration = Duration::from_secs(10);
const MOST_OUTPUT: usize = 64 * 1024;

/// Runs a program as root, and gives what it printed.
///
/// # Errors
/// [`RuntimeError::Missing`] without a container, [`RuntimeError::Refused`] where the program failed.
pub(crate) async fn run(docker: &Docker, container: &str, command: Vec<String>) -> Result<String, RuntimeError> {
    let run = run_unbounded(docker, container, command);
    tokio::time::timeout(PATIENCE, run).await.map_err(|late| RuntimeError::Unavailable(Box::new(late)))?
}

async fn run_unbounded(docker: &Docker, container: &str, command: Vec<String>) -> Result<String, RuntimeError> {
    let program = command.first().cloned().unwrap_or_default();
    let config = ExecConfig {
        cmd: Some(command),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        user: Some("0:0".to_owned()),
        ..ExecConfig::default()
    };
    let exec = docker.create_exec(container, config).await.map_err(|error| classify(error, &[]))?;
    let started = docker.start_exec(&exec.id, None).await.map_err(|error| classify(error, &[]))?;
    let StartExecResults::Attached { mut output, .. } = started else {
        return Err(RuntimeError::Unavailable("the engine did not attach".into()));
    };
    let mut text = String::new();
    while let Some(chunk) = output.next().await {
        let chunk = chunk.map_err(unavailable)?.into_bytes();
        if text.len() < MOST_OUTPUT {
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
    }
    match docker.inspect_exec(&exec.id).await.map_err(unavailable)?.exit_code {
        Some(0) => Ok(text),
        code => Err(RuntimeError::Refused(format!("{program} ended with {code:?}: {}", text.trim()).into())),
    }
}
