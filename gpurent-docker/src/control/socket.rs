//! The host's end of the socket over which a container's entry point is asked for something ([`gpurent_access::wire`]).
//!
//! The socket lies in the rental's access folder, which the container sees read-only: so the container calls, and the
//! host listens. What answers there is the renter's word: bounded, timed, and never believed of anybody else. Where agent
//! and engine share no folder there is no line, and commands are run in the container instead.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gpurent_access::paths::LINE;
use gpurent_access::wire::{Frame, Hello, MOST_BYTES, Reply, Request};
use gpurent_core::id::LaunchId;
use gpurent_core::runtime::RuntimeError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::AbortHandle;

/// How long a container may take to say what its connection is for.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// How long each call's place is kept from the next.
const CALL_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Connections that have not said so yet.
const MOST_UNKNOWN: usize = 8;
/// How long a container may take to call: it tries once a second.
const CALL_TIMEOUT: Duration = Duration::from_millis(2500);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// Why a container was not asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    /// The container does not call, or no longer: nothing was asked.
    #[error("the container's entry point does not call")]
    Silent,
    /// The container was asked, and does not answer.
    #[error("the container's entry point does not answer")]
    Broken(#[source] std::io::Error),
    /// The container refuses.
    #[error("the container's entry point refused: {0}")]
    Refused(String),
}

impl From<LineError> for RuntimeError {
    fn from(error: LineError) -> Self {
        match error {
            LineError::Refused(_) => Self::Refused(Box::new(error)),
            _ => Self::Unavailable(Box::new(error)),
        }
    }
}

/// A container's line.
pub(crate) struct Line {
    control: tokio::sync::Mutex<Option<UnixStream>>,
    calls: Notify,
    /// Sessions that were asked for and have not called back yet.
    sessions: Mutex<HashMap<String, oneshot::Sender<UnixStream>>>,
}

impl Line {
    fn sessions(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<UnixStream>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn listen(self: Arc<Self>, listener: UnixListener) {
        let unknown = Arc::new(Semaphore::new(MOST_UNKNOWN));
        loop {
            let Ok(permit) = Arc::clone(&unknown).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                // Too many files are open: as soon as some are not.
                tokio::time::sleep(HELLO_TIMEOUT).await;
                continue;
            };
            let line = Arc::clone(&self);
            tokio::spawn(async move {
                // Who says nothing that is understood is not listened to; and whoever calls all the time waits, so that a
                // tenant's calls cost no more than so many a second.
                drop(tokio::time::timeout(HELLO_TIMEOUT, line.hello(stream)).await);
                tokio::time::sleep(CALL_RETRY_DELAY).await;
                drop(permit);
            });
        }
    }

    async fn hello(&self, mut stream: UnixStream) -> std::io::Result<()> {
        match Hello::from_frame(&read_frame(&mut stream).await?) {
            Some(Hello::Control) => {
                *self.control.lock().await = Some(stream);
                self.calls.notify_waiters();
            }
            Some(Hello::Session(token)) => {
                if let Some(waiting) = self.sessions().remove(&token) {
                    // Whoever asked may have given up.
                    drop(waiting.send(stream));
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask(&self, request: &Request) -> Result<Reply, LineError> {
        let asked = async {
            loop {
                let called = self.calls.notified();
                let mut control = self.control.lock().await;
                if let Some(mut stream) = control.take() {
                    match exchange(&mut stream, request).await {
                        Ok(reply) => {
                            *control = Some(stream);
                            return Ok(reply);
                        }
                        // Nobody was there any more: the next who calls is asked.
                        Err((error, false)) => tracing::debug!(%error, "a container has called anew"),
                        Err((error, true)) => return Err(LineError::Broken(error)),
                    }
                }
                drop(control);
                tokio::time::timeout(CALL_TIMEOUT, called).await.map_err(|_late| LineError::Silent)?;
            }
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
            Ok(Ok(Reply::Failed(why))) => Err(LineError::Refused(why)),
            Ok(other) => other,
            Err(late) => Err(LineError::Broken(late.into())),
        }
    }

    /// Asks for a program, and waits until it calls back.
    pub(crate) async fn session(
        &self,
        token: String,
        ask: impl AsyncFnOnce(&Self) -> Result<Reply, LineError>,
    ) -> Result<UnixStream, LineError> {
        let (send, receive) = oneshot::channel();
        self.sessions().insert(token.clone(), send);
        // Also where the caller goes away meanwhile.
        let _waiting = Waiting { line: self, token };
        ask(self).await?;
        let called = tokio::time::timeout(ANSWER_TIMEOUT, receive).await.map_err(|late| LineError::Broken(late.into()));
        called?.map_err(|gone| LineError::Broken(std::io::Error::other(gone)))
    }
}

/// A session that has been asked for.
struct Waiting<'a> {
    line: &'a Line,
    token: String,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.line.sessions().remove(&self.token);
    }
}

/// Sends and receives one frame each; on an error, whether the request may have arrived.
async fn exchange(stream: &mut UnixStream, request: &Request) -> Result<Reply, (std::io::Error, bool)> {
    // A connection that the other end has closed can often still be written to.
    let mut probe = [0];
    match stream.try_read(&mut probe) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
        _ => return Err((std::io::ErrorKind::BrokenPipe.into(), false)),
    }
    stream.write_all(&request.frame().encode()).await.map_err(|error| (error, false))?;
    let frame = read_frame(stream).await.map_err(|error| (error, true))?;
    Reply::from_frame(&frame).ok_or_else(|| (std::io::ErrorKind::InvalidData.into(), true))
}

/// Reads one frame; a longer one than [`MOST_BYTES`] is refused before it is read.
pub(crate) async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Frame> {
    let length = stream.read_u32().await?;
    if length as usize > MOST_BYTES {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let kind = stream.read_u8().await?;
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await?;
    Ok(Frame { kind, payload })
}

/// Writes one frame.
pub(crate) async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> std::io::Result<()> {
    stream.write_all(&frame.encode()).await
}

struct Open {
    line: Arc<Line>,
    listens: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.listens.abort();
    }
}

/// The lines of all containers.
#[derive(Default)]
pub(crate) struct Lines(Mutex<HashMap<LaunchId, Open>>);

impl Lines {
    fn open_ones(&self) -> MutexGuard<'_, HashMap<LaunchId, Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The container's line, opened in its folder where it is not yet.
    pub(crate) fn of(&self, launch: LaunchId, folder: &Path) -> std::io::Result<Arc<Line>> {
        let mut lines = self.open_ones();
        if let Some(open) = lines.get(&launch) {
            return Ok(Arc::clone(&open.line));
        }
        let listener = listen(&folder.join(LINE))?;
        let line =
            Arc::new(Line { control: tokio::sync::Mutex::default(), calls: Notify::new(), sessions: Mutex::default() });
        let listens = tokio::spawn(Arc::clone(&line).listen(listener)).abort_handle();
        lines.insert(launch, Open { line: Arc::clone(&line), listens });
        Ok(line)
    }

    /// Listens no longer.
    pub(crate) fn close(&self, launch: LaunchId) {
        self.open_ones().remove(&launch);
    }
}

/// Binds a socket under a path that may be longer than a socket's name can be (108 bytes, unix(7)): by way of the open
/// folder.
fn listen(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let folder = std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&folder)));
    UnixListener::bind(short.join(LINE))
}
