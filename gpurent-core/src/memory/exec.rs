//! Into containers that are not there: a program that says what it is told, on an engine in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use event_listener::Event;
use futures_util::{FutureExt, StreamExt, future, stream};

use crate::id::LaunchId;
use crate::memory::MemoryRuntime;
use crate::runtime::{
    Bytes, ContainerExec, ContainerStatus, Input, Program, RuntimeError, Session, TerminalSize, Usage,
};

/// Input that was typed and not echoed yet, and whether more may come.
#[derive(Default)]
struct Echo {
    typed: Mutex<(VecDeque<Vec<u8>>, bool)>,
    bell: Event,
}

impl Echo {
    fn typed(&self) -> MutexGuard<'_, (VecDeque<Vec<u8>>, bool)> {
        self.typed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn next(&self) -> Option<Vec<u8>> {
        loop {
            let bell = self.bell.listen();
            {
                let mut typed = self.typed();
                match typed.0.pop_front() {
                    Some(bytes) => return Some(bytes),
                    None if typed.1 => return None,
                    None => {}
                }
            }
            bell.await;
        }
    }
}

struct Typing(Arc<Echo>);

#[async_trait]
impl Input for Typing {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), RuntimeError> {
        self.0.typed().0.push_back(bytes.to_vec());
        self.0.bell.notify(usize::MAX);
        Ok(())
    }

    async fn resize(&mut self, size: TerminalSize) -> Result<(), RuntimeError> {
        self.write(format!("[{}x{}]", size.columns(), size.rows()).as_bytes()).await
    }
}

impl Drop for Typing {
    fn drop(&mut self) {
        self.0.typed().1 = true;
        self.0.bell.notify(usize::MAX);
    }
}

#[async_trait]
impl ContainerExec for MemoryRuntime {
    /// The lines printed so far.
    async fn follow(&self, launch: LaunchId, lines: usize) -> Result<Bytes, RuntimeError> {
        let engine = self.engine();
        let output = &engine.containers.get(&launch).ok_or(RuntimeError::Missing)?.output;
        let last: Vec<_> = output[output.len().saturating_sub(lines)..].to_vec();
        Ok(stream::iter(last.into_iter().map(|line| Ok(format!("{line}\n").into_bytes()))).boxed())
    }

    /// A program that ends at once and says its command, or, as a shell, says what is typed until nothing can be
    /// typed any more.
    async fn run(&self, launch: LaunchId, program: &Program) -> Result<Session, RuntimeError> {
        let running = |presence| matches!(presence, ContainerStatus::Running);
        if !self.engine().containers.get(&launch).is_some_and(|container| running(container.presence())) {
            return Err(RuntimeError::Missing);
        }
        let echo = Arc::new(Echo::default());
        if let Some(command) = program.command() {
            *echo.typed() = (VecDeque::from([command.join(" ").into_bytes()]), true);
        }
        let said = stream::unfold(Arc::clone(&echo), |echo| async move { Some((Ok(echo.next().await?), echo)) });
        Ok(Session { input: Box::new(Typing(echo)), output: said.boxed(), exit: future::ready(Some(0)).boxed() })
    }

    /// The logins to a container: none where it is not there.
    async fn access_log(&self, launch: LaunchId, _lines: usize) -> Result<Vec<String>, RuntimeError> {
        self.engine().containers.get(&launch).map(|_| Vec::new()).ok_or(RuntimeError::Missing)
    }

    async fn usage(&self, launch: LaunchId) -> Result<Usage, RuntimeError> {
        self.engine().containers.get(&launch).ok_or(RuntimeError::Missing)?;
        Ok(Usage { cpu_percent: 1.0, memory_used: 64 << 20, memory_limit: 1 << 30 })
    }
}
