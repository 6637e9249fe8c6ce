//! The engine's word on one container: how it is, how it ended; and its removal.

use bollard::Docker;
use bollard::models::ContainerState;
use bollard::query_parameters::RemoveContainerOptionsBuilder;
use gpurent_core::id::ContainerId;
use gpurent_core::model::Exit;
use gpurent_core::runtime::{ContainerStatus, RuntimeError};
use jiff::Timestamp;

use crate::engine::error::{classify, refusal};

/// The exit code of a program that was killed: 128 and SIGKILL.
const KILLED: i64 = 137;

/// A time as Docker writes it; its zero means "never".
pub(crate) fn time(text: Option<&str>) -> Option<Timestamp> {
    text.filter(|text| !text.starts_with("0001-"))?.parse().ok()
}

pub(crate) fn is_running(state: &ContainerState) -> bool {
    state.running.unwrap_or(false)
}

/// The engine's record of an end; `None` for a container that never ran or still does.
pub(crate) fn exit(state: &ContainerState) -> Option<Exit> {
    if is_running(state) {
        return None;
    }
    let started_at = time(state.started_at.as_deref())?;
    Some(Exit {
        // An engine that was killed may have no record of the end: then it is the start.
        finished_at: time(state.finished_at.as_deref()).unwrap_or(started_at),
        code: state.exit_code.unwrap_or(-1),
        // The engine notes it for any process in the container; only where the main one was killed it ended for that.
        out_of_memory: state.oom_killed.unwrap_or(false) && state.exit_code == Some(KILLED),
    })
}

pub(crate) fn presence(state: &ContainerState) -> ContainerStatus {
    match exit(state) {
        Some(exit) => ContainerStatus::Exited(exit),
        None if is_running(state) => ContainerStatus::Running,
        None => ContainerStatus::Created,
    }
}

pub(crate) async fn remove_by_name(docker: &Docker, name: &str) -> Result<(), RuntimeError> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    match docker.remove_container(name, Some(options)).await {
        Ok(()) => Ok(()),
        // Gone already, or somebody removes it already.
        Err(error) if matches!(refusal(&error), Some((404 | 409, _))) => Ok(()),
        Err(error) => Err(classify(error, &[])),
    }
}

pub(crate) fn container_id(id: String) -> Result<ContainerId, RuntimeError> {
    ContainerId::try_from(id).map_err(|error| RuntimeError::Refused(Box::new(error)))
}
