//! Running the kit's own programs inside a container, for a bounded time: where agent and engine share no folder, so that
//! there is no socket.
//!
//! Each exec makes the engine open files of the container ([`screening`](crate::container::screening)), which root in it can
//! turn into pipes: then a thread of the engine waits for ever. So a container whose execs do not come back gets no more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use futures_util::StreamExt;
use gpurent_core::runtime::RuntimeError;

use crate::engine::error::{classify, unavailable};

/// The renter's programs share the container with ours, and could stop them.
const EXEC_TIMEOUT: Duration = Duration::from_secs(10);
const MOST_OUTPUT: usize = 64 * 1024;
/// After so many execs that did not come back a container gets no more for a while: each may have cost a thread of the engine.
const MOST_LOST: usize = 4;
/// The time for which an exec that did not come back is remembered: the engine may have been slow, and not the container
/// hostile.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Runs programs in the containers of an engine, and knows where that was in vain.
pub(crate) struct Execs {
    docker: Docker,
    /// When execs were begun that did not come back, by the container's name. Forgotten with the container.
    lost: Mutex<HashMap<String, Vec<Instant>>>,
}

impl Execs {
    pub(crate) fn new(docker: Docker) -> Self {
        Self { docker, lost: Mutex::default() }
    }

    fn lost(&self) -> MutexGuard<'_, HashMap<String, Vec<Instant>>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a container that is gone.
    pub(crate) fn forget(&self, container: &str) {
        self.lost().remove(container);
    }

    /// Begins an exec in a container, unless it would be in vain. Until it [came back](Self::came_back) it counts as lost.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`] where several did not come back of late, or not yet.
    pub(crate) fn begin(&self, container: &str) -> Result<(), RuntimeError> {
        let mut lost = self.lost();
        let times = lost.entry(container.to_owned()).or_default();
        times.retain(|lost| lost.elapsed() < REMEMBERED);
        if times.len() >= MOST_LOST {
            return Err(RuntimeError::Unavailable(
                "programs that the host ran in the container did not come back".into(),
            ));
        }
        times.push(Instant::now());
        Ok(())
    }

    /// Notes that the engine has answered for an exec, whatever it said.
    pub(crate) fn came_back(&self, container: &str) {
        let mut lost = self.lost();
        if let Some(times) = lost.get_mut(container) {
            times.pop();
            if times.is_empty() {
                lost.remove(container);
            }
        }
    }

    /// Runs a program as root, and gives what it printed. It goes on, for its bounded time, where nobody waits any more:
    /// only so it is known whether it came back.
    ///
    /// # Errors
    /// [`RuntimeError::Missing`] without a container, [`RuntimeError::Refused`] where the program failed,
    /// [`RuntimeError::Unavailable`] where it did not come back, or others did not.
    pub(crate) async fn run(self: &Arc<Self>, container: &str, command: Vec<String>) -> Result<String, RuntimeError> {
        self.begin(container)?;
        let (this, container) = (Arc::clone(self), container.to_owned());
        let run = tokio::spawn(async move {
            let ran = tokio::time::timeout(EXEC_TIMEOUT, this.run_unbounded(&container, command)).await;
            if ran.is_ok() {
                this.came_back(&container);
            }
            ran.unwrap_or_else(|late| Err(RuntimeError::Unavailable(Box::new(late))))
        });
        run.await.unwrap_or_else(|lost| Err(RuntimeError::Unavailable(Box::new(lost))))
    }

    async fn run_unbounded(&self, container: &str, command: Vec<String>) -> Result<String, RuntimeError> {
        let program = command.first().cloned().unwrap_or_default();
        let config = ExecConfig {
            cmd: Some(command),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            user: Some("0:0".to_owned()),
            ..ExecConfig::default()
        };
        let exec = self.docker.create_exec(container, config).await.map_err(|error| classify(error, &[]))?;
        let started = self.docker.start_exec(&exec.id, None).await.map_err(|error| classify(error, &[]))?;
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
        match self.docker.inspect_exec(&exec.id).await.map_err(unavailable)?.exit_code {
            Some(0) => Ok(text),
            code => Err(RuntimeError::Refused(format!("{program} ended with {code:?}: {}", plain(&text)).into())),
        }
    }
}

/// A program's words in one line: it is the renter's word, and a line of ours must not be made of it.
fn plain(said: &str) -> String {
    said.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(512).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_forges_no_line_of_a_log() {
        assert_eq!(plain("no\nERROR gpurent: all is lost\u{1b}[2J\r\n"), "no ERROR gpurent: all is lost [2J");
    }

    #[tokio::test]
    async fn a_container_whose_execs_do_not_come_back_gets_no_more() {
        let engine = std::env::var("DOCKER_HOST").expect("DOCKER_HOST: run scripts/test");
        let execs = Execs::new(crate::engine::client::connect(&engine.as_str().into()).await.unwrap());
        for _ in 0..MOST_LOST {
            execs.begin("gpurent-none").unwrap();
        }
        assert!(matches!(execs.begin("gpurent-none"), Err(RuntimeError::Unavailable(_))));
        assert!(execs.begin("gpurent-another").is_ok());
        execs.came_back("gpurent-none");
        assert!(execs.begin("gpurent-none").is_ok());
        execs.forget("gpurent-none");
        assert!(execs.begin("gpurent-none").is_ok());
    }
}
