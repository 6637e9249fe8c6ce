//! Running the kit's own programs inside a container, for a bounded time: where agent and engine share no folder, so that
//! there is no line.
//!
//! Each exec makes the engine open files of the container, which root in it can turn into pipes: then a thread of the
//! engine waits for ever. So those files are looked at before, and a container whose execs do not come back gets no more.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use futures_util::StreamExt;
use gpurent_core::runtime::RuntimeError;

use crate::account_files;
use crate::error::{classify, unavailable};

/// The renter's programs share the container with ours, and could stop them.
const PATIENCE: Duration = Duration::from_secs(10);
const MOST_OUTPUT: usize = 64 * 1024;
/// After so many execs in a row that did not come back a container gets no more: each may have cost a thread of the engine.
const MOST_LOST: u32 = 3;

/// Runs programs in the containers of an engine, and knows where that was in vain.
pub(crate) struct Execs {
    docker: Docker,
    /// How many execs did not come back lately, by the container's name. Forgotten with the container.
    lost: Mutex<HashMap<String, u32>>,
}

/// An exec that may be begun. It counts as lost unless it [came back](Self::came_back).
pub(crate) struct Admitted<'a> {
    execs: &'a Execs,
    container: &'a str,
    came_back: bool,
}

impl Admitted<'_> {
    /// The engine has answered, whatever it said.
    pub(crate) fn came_back(mut self) {
        self.came_back = true;
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let mut lost = self.execs.lost();
        if self.came_back {
            lost.remove(self.container);
        } else {
            *lost.entry(self.container.to_owned()).or_insert(0) += 1;
        }
    }
}

impl Execs {
    pub(crate) fn new(docker: Docker) -> Self {
        Self { docker, lost: Mutex::default() }
    }

    fn lost(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a container that is gone.
    pub(crate) fn forget(&self, container: &str) {
        self.lost().remove(container);
    }

    /// Lets an exec begin, unless it would be in vain.
    ///
    /// # Errors
    /// [`RuntimeError::NoLogin`] where the container does not let the engine run anything.
    pub(crate) async fn admit<'a>(&'a self, container: &'a str) -> Result<Admitted<'a>, RuntimeError> {
        if self.lost().get(container).is_some_and(|lost| *lost >= MOST_LOST) {
            let reason = format!("{MOST_LOST} programs in a row that the host ran in the container did not come back");
            return Err(RuntimeError::NoLogin { by_image: true, reason });
        }
        account_files::expect_plain(&self.docker, container).await?;
        Ok(Admitted { execs: self, container, came_back: false })
    }

    /// Runs a program as root, and gives what it printed.
    ///
    /// # Errors
    /// [`RuntimeError::Missing`] without a container, [`RuntimeError::Refused`] where the program failed,
    /// [`RuntimeError::NoLogin`] where the container does not let the engine run anything.
    pub(crate) async fn run(&self, container: &str, command: Vec<String>) -> Result<String, RuntimeError> {
        let admitted = self.admit(container).await?;
        let run = tokio::time::timeout(PATIENCE, self.run_unbounded(container, command)).await;
        let ran = run.map_err(|late| RuntimeError::Unavailable(Box::new(late)))?;
        admitted.came_back();
        ran
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

/// What a program said, in one line: it is the renter's word, and a line of ours must not be made of it.
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
        let execs = Execs::new(crate::client::connect(&engine.as_str().into()).await.unwrap());
        for _ in 0..MOST_LOST - 1 {
            drop(execs.admit("gpurent-none").await.unwrap());
        }
        execs.admit("gpurent-none").await.unwrap().came_back();
        for _ in 0..MOST_LOST {
            drop(execs.admit("gpurent-none").await.unwrap());
        }
        assert!(matches!(execs.admit("gpurent-none").await, Err(RuntimeError::NoLogin { by_image: true, .. })));
        assert!(execs.admit("gpurent-another").await.is_ok());
        execs.forget("gpurent-none");
        assert!(execs.admit("gpurent-none").await.is_ok());
    }
}
