//! Being told something by the host: over its socket in the access folder, where there is one, or by commands that the
//! engine runs in the container and that come here over a socket of our own.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::files;
use crate::paths::{ACCESS, CONTROL, LINE};
use crate::wire::{Frame, Hello, Reply, Request};

/// How often the host's socket is tried, while it is not there.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How long an answer may take to be taken.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How much of an answer is printed.
const MOST_PRINTED: usize = 48 * 1024;
/// Commands at once that the engine runs in the container.
const MOST_CLIENTS: usize = 16;

struct Peer {
    stream: UnixStream,
    heard: Vec<u8>,
}

impl Peer {
    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, heard: Vec::new() })
    }

    /// The next request; none while it is not whole.
    fn hear(&mut self) -> io::Result<Option<Request>> {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => self.heard.extend_from_slice(&bytes[..length]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        let Some(frame) = Frame::take(&mut self.heard)? else { return Ok(None) };
        Request::from_frame(&frame).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn answer(&mut self, reply: &Reply) -> io::Result<()> {
        // Nobody asks who does not listen.
        self.stream.set_nonblocking(false)?;
        self.stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        reply.frame().write(&mut self.stream)?;
        self.stream.set_nonblocking(true)
    }
}

/// The asker of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// The host itself.
    Host,
    /// A command in the container.
    Client(u64),
    /// A command that is about to ask.
    Fresh,
}

/// All that requests come from.
pub(crate) struct Control {
    socket: UnixListener,
    clients: Vec<(u64, Peer)>,
    next: u64,
    host: Option<Peer>,
    next_try: Option<Instant>,
}

impl Control {
    pub(crate) fn listen() -> io::Result<Self> {
        files::remove(Path::new(CONTROL))?;
        let socket = UnixListener::bind(CONTROL)?;
        std::fs::set_permissions(CONTROL, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, clients: Vec::new(), next: 0, host: None, next_try: Some(Instant::now()) })
    }

    pub(crate) fn sources(&self) -> Vec<(Asker, BorrowedFd<'_>)> {
        let clients = self.clients.iter().map(|(id, peer)| (Asker::Client(*id), peer.stream.as_fd()));
        let host = self.host.iter().map(|peer| (Asker::Host, peer.stream.as_fd()));
        [(Asker::Fresh, self.socket.as_fd())].into_iter().chain(clients).chain(host).collect()
    }

    /// When the host's socket is tried again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next_try
    }

    /// Connects to the host where that is due.
    pub(crate) fn call_the_host(&mut self) {
        if self.next_try.is_none_or(|at| at > Instant::now()) {
            return;
        }
        let called = UnixStream::connect(Path::new(ACCESS).join(LINE)).and_then(|mut stream| {
            Hello::Control.frame().write(&mut stream)?;
            Peer::new(stream)
        });
        match called {
            Ok(peer) => (self.host, self.next_try) = (Some(peer), None),
            // No agent listens now, or none ever will: one look a second costs nothing.
            Err(_) => self.next_try = Some(Instant::now() + RETRY_DELAY),
        }
    }

    /// The next request of whoever has something to say.
    pub(crate) fn hear(&mut self, asker: Asker) -> Option<Request> {
        match asker {
            Asker::Fresh => {
                if let Ok(peer) = self.socket.accept().and_then(|(stream, _)| Peer::new(stream)) {
                    if self.clients.len() >= MOST_CLIENTS {
                        self.clients.remove(0);
                    }
                    self.clients.push((self.next, peer));
                    self.next += 1;
                }
                None
            }
            Asker::Client(id) => {
                let heard = self.clients.iter_mut().find(|(found, _)| *found == id).map(|(_, peer)| peer.hear())?;
                heard.unwrap_or_else(|_gone| {
                    self.clients.retain(|(found, _)| *found != id);
                    None
                })
            }
            Asker::Host => {
                let heard = self.host.as_mut()?.hear();
                heard.unwrap_or_else(|_gone| {
                    (self.host, self.next_try) = (None, Some(Instant::now() + RETRY_DELAY));
                    None
                })
            }
        }
    }

    pub(crate) fn answer(&mut self, asker: Asker, reply: &Reply) {
        let peer = match asker {
            Asker::Fresh => None,
            Asker::Client(id) => self.clients.iter_mut().find(|(found, _)| *found == id).map(|(_, peer)| peer),
            Asker::Host => self.host.as_mut(),
        };
        // Who does not take the answer asks again, on another connection.
        if peer.is_some_and(|peer| peer.answer(reply).is_err()) {
            match asker {
                Asker::Client(id) => self.clients.retain(|(found, _)| *found != id),
                _ => (self.host, self.next_try) = (None, Some(Instant::now() + RETRY_DELAY)),
            }
        }
    }
}

/// Asks the container's own process 1, or whoever serves beside it: what commands do that the engine runs.
///
/// # Errors
/// Where it does not answer, or refuses.
pub(crate) fn ask(request: &Request) -> io::Result<String> {
    let mut stream = UnixStream::connect(CONTROL)?;
    stream.set_read_timeout(Some(Duration::from_secs(8)))?;
    request.frame().write(&mut stream)?;
    match Reply::from_frame(&Frame::read(&mut stream)?) {
        Some(Reply::Done) => Ok(String::new()),
        Some(Reply::Text(text)) => Ok(text),
        Some(Reply::Failed(why)) => Err(io::Error::other(why)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Asks, and prints what is answered.
///
/// # Errors
/// As [`ask`].
pub(crate) fn ask_and_print(request: &Request) -> io::Result<()> {
    let text = ask(request)?;
    // The engine hands over so much, and the last is what counts.
    let skipped = text.len().saturating_sub(MOST_PRINTED);
    let rest = &text.as_bytes()[skipped..];
    let begin = if skipped == 0 { 0 } else { rest.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1) };
    io::stdout().write_all(&rest[begin..])
}
