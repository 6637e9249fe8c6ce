//! [`ContainerExec`] on Docker Engine: output as it comes, terminals, usage.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{ContainerStatsResponse, ExecConfig};
use bollard::query_parameters::{LogsOptionsBuilder, StatsOptionsBuilder};
use futures_util::{FutureExt, Stream, StreamExt, stream};
use gpurent_core::id::{LaunchId, RentalId};
use gpurent_core::runtime::{Bytes, ContainerExec, Input, Program, RuntimeError, Session, TerminalSize, Usage};
use jiff::Timestamp;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::control::exec::Execs;
use crate::engine::error::{classify, is_missing, unavailable};
use crate::runtime::DockerRuntime;

/// Runs something as the rental's user, and ends it: commands of the access kit, of the former one too.
const ENTER: &str = "/.gpurent/kit/enter";
const HANG_UP: &str = "/.gpurent/kit/hang-up";

/// How long an engine may take to answer, beside what a program takes.
const EXEC_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a program may read nothing before whoever types is told.
const INPUT_TIMEOUT: Duration = Duration::from_secs(30);

async fn in_time<T>(work: impl Future<Output = Result<T, RuntimeError>>) -> Result<T, RuntimeError> {
    tokio::time::timeout(EXEC_TIMEOUT, work).await.map_err(|late| RuntimeError::Unavailable(Box::new(late)))?
}

/// Ends the program when nobody has its input or output any more. Docker itself would let it run on, behind a
/// terminal that nobody sees.
struct HangUp {
    execs: Arc<Execs>,
    container: String,
    session: String,
    /// Whether it has ended by itself: what it left running in the background is the renter's.
    ended: AtomicBool,
}

impl Drop for HangUp {
    fn drop(&mut self) {
        let Self { execs, container, session, ended } = self;
        let (execs, container, session) = (Arc::clone(execs), std::mem::take(container), std::mem::take(session));
        let ended = ended.load(Ordering::Relaxed);
        // Without an executor the process ends, and its containers' terminals with the next one's.
        let Ok(executor) = tokio::runtime::Handle::try_current() else { return };
        executor.spawn(async move {
            let how = if ended { "ended" } else { "left" };
            let command = vec![HANG_UP.to_owned(), session, how.to_owned()];
            match execs.run(&container, command).await {
                Ok(_) | Err(RuntimeError::Missing) => {}
                // The container ended meanwhile, as a rule; else its renter sees the program.
                Err(error) => {
                    tracing::debug!(container, error = &error as &dyn std::error::Error, "a program was not ended");
                }
            }
        });
    }
}

struct TypedInput {
    docker: Docker,
    exec: String,
    pipe: Pin<Box<dyn AsyncWrite + Send>>,
    _ends_with: Arc<HangUp>,
}

#[async_trait]
impl Input for TypedInput {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), RuntimeError> {
        let typed = async {
            self.pipe.write_all(bytes).await?;
            self.pipe.flush().await
        };
        let typed = tokio::time::timeout(INPUT_TIMEOUT, typed).await;
        let lost = |error: std::io::Error| RuntimeError::Unavailable(Box::new(error));
        typed.map_err(|late| RuntimeError::Unavailable(Box::new(late)))?.map_err(lost)
    }

    async fn resize(&mut self, size: TerminalSize) -> Result<(), RuntimeError> {
        in_time(resize(&self.docker, &self.exec, size)).await
    }
}

async fn resize(docker: &Docker, exec: &str, size: TerminalSize) -> Result<(), RuntimeError> {
    let options = ResizeExecOptions { height: size.rows(), width: size.columns() };
    docker.resize_exec(exec, options).await.map_err(|error| classify(error, &[]))
}

fn bytes(chunk: Result<LogOutput, Error>) -> Result<Vec<u8>, RuntimeError> {
    chunk.map(|chunk| chunk.into_bytes().to_vec()).map_err(unavailable)
}

#[async_trait]
impl ContainerExec for DockerRuntime {
    async fn follow(&self, launch: LaunchId, lines: usize) -> Result<Bytes, RuntimeError> {
        let name = self.name(launch).await?;
        // Asked first: the stream itself tells of a missing container only when it is read.
        match self.docker().inspect_container(&name, None).await {
            Ok(_) => {}
            Err(error) if is_missing(&error) => return Err(RuntimeError::Missing),
            Err(error) => return Err(unavailable(error)),
        }
        let options =
            LogsOptionsBuilder::default().follow(true).stdout(true).stderr(true).tail(&lines.to_string()).build();
        Ok(self.docker().logs(&name, Some(options)).map(bytes).boxed())
    }

    async fn run(&self, launch: LaunchId, program: &Program) -> Result<Session, RuntimeError> {
        #[cfg(unix)]
        if let Some(session) = crate::runtime::socket_session::run(self, launch, program).await? {
            return Ok(session);
        }
        self.run_by_engine(launch, program).await
    }

    async fn access_log(&self, launch: LaunchId, lines: usize) -> Result<Vec<String>, RuntimeError> {
        let log = self.read_access_log(launch).await?;
        let kept: Vec<_> = log.lines().collect();
        Ok(kept[kept.len().saturating_sub(lines)..].iter().map(|line| with_time(line)).collect())
    }

    async fn usage(&self, launch: LaunchId) -> Result<Usage, RuntimeError> {
        let options = StatsOptionsBuilder::default().stream(false).build();
        in_time(async {
            let mut samples = self.docker().stats(&self.name(launch).await?, Some(options)).boxed();
            match samples.next().await {
                Some(Ok(sample)) => Ok(usage(&sample)),
                Some(Err(error)) => Err(classify(error, &[])),
                None => Err(RuntimeError::Missing),
            }
        })
        .await
    }
}

/// A line of the access log with its time as people read it. The line is the container's word.
fn with_time(line: &str) -> String {
    let printable = |text: &str| text.replace(char::is_control, " ");
    let split = line.split_once(' ').and_then(|(seconds, rest)| Some((seconds.parse().ok()?, rest)));
    match split.and_then(|(seconds, rest)| Some((Timestamp::from_second(seconds).ok()?, rest))) {
        Some((at, rest)) => format!("{at} {}", printable(rest)),
        None => printable(line),
    }
}

impl DockerRuntime {
    /// Runs a program by the engine's exec, where there is no line into the container.
    async fn run_by_engine(&self, launch: LaunchId, program: &Program) -> Result<Session, RuntimeError> {
        let (docker, container) = (self.docker().clone(), self.name(launch).await?);
        self.execs().begin(&container)?;
        let session = RentalId::generate().to_string();
        let command = [ENTER.to_owned(), session.clone()];
        let terminal = program.terminal.is_some();
        let config = ExecConfig {
            cmd: Some(command.into_iter().chain(program.command().unwrap_or_default().iter().cloned()).collect()),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(terminal),
            env: terminal.then(|| vec!["TERM=xterm-256color".to_owned()]),
            user: Some("0:0".to_owned()),
            ..ExecConfig::default()
        };
        // From here on there may be a program, whatever comes of the answers.
        let ended = AtomicBool::new(false);
        let (execs, its_container) = (Arc::clone(self.execs()), container.clone());
        let ends_with = Arc::new(HangUp { execs, container: its_container, session, ended });
        // On a task of its own, so that it is known whether it came back, also where nobody waits any more.
        let (execs, engine, name) = (Arc::clone(self.execs()), docker.clone(), container.clone());
        let attached = tokio::spawn(async move {
            let attached = tokio::time::timeout(EXEC_TIMEOUT, attach(&engine, &name, config, terminal)).await;
            if attached.is_ok() {
                execs.came_back(&name);
            }
            attached.unwrap_or_else(|late| Err(RuntimeError::Unavailable(Box::new(late))))
        });
        let attached = attached.await.unwrap_or_else(|lost| Err(RuntimeError::Unavailable(Box::new(lost))));
        let (exec, output, pipe) = attached?;
        if let Some(size) = program.terminal {
            // A program that ended at once has no terminal left; its output tells.
            if let Err(error) = in_time(resize(&docker, &exec, size)).await {
                tracing::debug!(container, error = &error as &dyn std::error::Error, "terminal has its own size");
            }
        }
        let kept = Arc::clone(&ends_with);
        let its_end = stream::poll_fn(move |_| {
            kept.ended.store(true, Ordering::Relaxed);
            Poll::Ready(None)
        });
        let output = output.map(bytes).chain(its_end);
        let (asked, id) = (docker.clone(), exec.clone());
        let exit = async move {
            // The engine has the code a moment after the output has ended.
            for _ in 0..20 {
                let found = asked.inspect_exec(&id).await.ok()?;
                if found.running != Some(true) {
                    return found.exit_code;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            None
        };
        Ok(Session {
            input: Box::new(TypedInput { docker, exec, pipe, _ends_with: ends_with }),
            output: output.boxed(),
            exit: exit.boxed(),
        })
    }
}

/// A program's number, its output and its input.
type Attached = (String, Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>, Pin<Box<dyn AsyncWrite + Send>>);

/// Begins a program in a container.
async fn attach(
    docker: &Docker,
    container: &str,
    config: ExecConfig,
    terminal: bool,
) -> Result<Attached, RuntimeError> {
    let exec = docker.create_exec(container, config).await.map_err(|error| match error {
        // 409: it does not run (any more).
        Error::DockerResponseServerError { status_code: 409, .. } => RuntimeError::Missing,
        error => classify(error, &[]),
    })?;
    let options = StartExecOptions { tty: terminal, ..StartExecOptions::default() };
    let started = docker.start_exec(&exec.id, Some(options)).await;
    match started.map_err(|error| classify(error, &[]))? {
        StartExecResults::Attached { output, input } => Ok((exec.id, output, input)),
        StartExecResults::Detached => Err(RuntimeError::Unavailable("the engine did not attach".into())),
    }
}

/// As `docker stats` counts: <https://docs.docker.com/reference/api/engine/version/v1.41/#operation/ContainerStats>.
fn usage(sample: &ContainerStatsResponse) -> Usage {
    let total = |stats: Option<&bollard::models::ContainerCpuStats>| {
        let stats = stats?;
        let used = stats.cpu_usage.as_ref()?.total_usage?;
        Some((used, stats.system_cpu_usage?, stats.online_cpus.unwrap_or(1)))
    };
    let cpu_percent = match (total(sample.cpu_stats.as_ref()), total(sample.precpu_stats.as_ref())) {
        (Some((used, system, cpus)), Some((used_before, system_before, _))) if system > system_before => {
            used.saturating_sub(used_before) as f64 / (system - system_before) as f64 * f64::from(cpus) * 100.0
        }
        _ => 0.0,
    };
    let memory = sample.memory_stats.as_ref();
    let used = memory.and_then(|memory| memory.usage).unwrap_or(0);
    let cache = memory.and_then(|memory| {
        let stats = memory.stats.as_ref()?;
        stats.get("inactive_file").or_else(|| stats.get("total_inactive_file")).copied()
    });
    Usage {
        cpu_percent,
        memory_used: used.saturating_sub(cache.unwrap_or(0)),
        memory_limit: memory.and_then(|memory| memory.limit).unwrap_or(0),
    }
}
