//! A program on a terminal without SSH, over the container's socket: its input and output are frames of a connection that
//! the container makes for it. The engine has no part in it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt, stream};
use gpurent_access::wire::{Request, Size, Stream};
use gpurent_core::id::{LaunchId, RentalId};
use gpurent_core::runtime::{Input, Program, RuntimeError, Session, TerminalSize};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, oneshot};

use crate::control::socket::{read_frame, write_frame};
use crate::runtime::DockerRuntime;

/// How long a program may read nothing before whoever types is told.
const INPUT_TIMEOUT: Duration = Duration::from_secs(30);

/// How much goes into a frame.
const MOST_TYPED: usize = 64 * 1024;

/// The host's half of the connection, closed once neither input nor output is held: the container then ends the program.
type Writes = Arc<Mutex<OwnedWriteHalf>>;

struct Typed(Writes);

impl Typed {
    async fn send(&self, frame: Stream) -> Result<(), RuntimeError> {
        let send = async { write_frame(&mut *self.0.lock().await, &frame.frame()).await };
        let sent = tokio::time::timeout(INPUT_TIMEOUT, send).await.unwrap_or_else(|late| Err(late.into()));
        if let Err(error) = sent {
            // Half a frame may be written: nothing that follows would be understood.
            drop(self.0.lock().await.shutdown().await);
            return Err(RuntimeError::Unavailable(Box::new(error)));
        }
        Ok(())
    }
}

fn size(terminal: TerminalSize) -> Size {
    Size { columns: terminal.columns(), rows: terminal.rows() }
}

#[async_trait]
impl Input for Typed {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), RuntimeError> {
        for chunk in bytes.chunks(MOST_TYPED) {
            self.send(Stream::Input(chunk.to_vec())).await?;
        }
        Ok(())
    }

    async fn resize(&mut self, terminal: TerminalSize) -> Result<(), RuntimeError> {
        self.send(Stream::Resize(size(terminal))).await
    }
}

/// The output that is read until the program has ended: then its exit code is told.
struct Shown {
    reads: OwnedReadHalf,
    exit: Option<oneshot::Sender<i64>>,
    _open_with: Writes,
}

impl Shown {
    async fn next(mut self) -> Option<(Result<Vec<u8>, RuntimeError>, Self)> {
        loop {
            let frame = match read_frame(&mut self.reads).await {
                Ok(frame) => frame,
                // The container has ended, as a rule.
                Err(_closed) => return None,
            };
            match Stream::from_frame(&frame) {
                Some(Stream::Output(bytes)) => return Some((Ok(bytes), self)),
                Some(Stream::Exit(code)) => {
                    // Nobody may want to know.
                    self.exit.take().map(|exit| exit.send(i64::from(code)));
                    return None;
                }
                _ => {}
            }
        }
    }
}

/// Runs a program in a launch's container; `None` where it has no line, or does not call.
pub(crate) async fn run(
    runtime: &DockerRuntime,
    launch: LaunchId,
    program: &Program,
) -> Result<Option<Session>, RuntimeError> {
    match runtime.expect_running(launch).await {
        Err(RuntimeError::Exited(_)) => return Err(RuntimeError::Missing),
        other => other?,
    }
    let Some(line) = runtime.line(launch) else { return Ok(None) };
    let token = RentalId::generate().to_string();
    let request = Request::Session {
        token: token.clone(),
        terminal: program.terminal.map(size),
        command: program.command().unwrap_or_default().to_vec(),
    };
    let stream = line.session(token, async |line| line.ask(&request).await).await?;
    let (reads, writes) = stream.into_split();
    let writes = Arc::new(Mutex::new(writes));
    let (told, exit) = oneshot::channel();
    let shown = Shown { reads, exit: Some(told), _open_with: Arc::clone(&writes) };
    Ok(Some(Session {
        input: Box::new(Typed(writes)),
        output: stream::unfold(shown, Shown::next).boxed(),
        exit: async move { exit.await.ok() }.boxed(),
    }))
}
