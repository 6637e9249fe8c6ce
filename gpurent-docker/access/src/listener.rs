//! SSH's listener: each connection is handed to an `sshd -i` of its own.
//!
//! Whoever is not logged in is bounded, in all and for one address, and the oldest goes first: silent connections keep
//! nobody out. The host's own question (see [`wire`](crate::wire)) is told by its first bytes, and never counts.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::credential::CONFIG;
use crate::paths::{PROGRAM, SSH_PORT};
use crate::processes::{by_fork, kill_group};
use crate::session::kit_program;
use crate::wire::{self, QUESTION};

/// How long a client may say nothing before `sshd` speaks first. Nearly all clients speak at once.
const SILENCE: Duration = Duration::from_millis(25);
/// Connections that have said nothing yet.
const MOST_SILENT: usize = 128;
/// Connections that nobody has logged in on, in all and from one address. Behind the engine's proxy all addresses are
/// one, so that the two differ little.
const MOST_ANONYMOUS: usize = 100;
const MOST_ANONYMOUS_OF_ONE: usize = 80;
/// Connections in all.
const MOST: usize = 1000;
/// How long nobody is taken in after that was not possible.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Checks at once.
const MOST_CHECKS: usize = 4;
/// A line of `sshd` longer than this is cut.
const MOST_LINE: usize = 1024;

/// A connection that has said nothing yet.
struct Silent {
    stream: TcpStream,
    peer: IpAddr,
    until: Instant,
}

/// A connection with its `sshd`.
struct Connection {
    peer: IpAddr,
    since: Instant,
    logged_in: bool,
    log: Option<io::PipeReader>,
    unfinished: Vec<u8>,
}

/// A source that may have become ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// A client connects.
    Listener,
    /// A client has said something.
    Silent(u64),
    /// The `sshd` of this number has something for the log.
    Log(i32),
}

/// The listener and all its connections.
pub(crate) struct Listener {
    socket: TcpListener,
    silent: BTreeMap<u64, Silent>,
    connections: BTreeMap<i32, Connection>,
    checks: Vec<i32>,
    next: u64,
    /// Until when nobody is taken in, after that was not possible.
    pause: Option<Instant>,
    /// The last words of connections that have ended.
    last_words: Vec<String>,
}

/// Binds SSH's port, for both families where the container has both.
pub(crate) fn bind() -> io::Result<TcpListener> {
    let socket = TcpListener::bind(("::", SSH_PORT)).or_else(|_| TcpListener::bind(("0.0.0.0", SSH_PORT)))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl Listener {
    pub(crate) fn new(socket: TcpListener) -> Self {
        Self {
            socket,
            silent: BTreeMap::new(),
            connections: BTreeMap::new(),
            checks: Vec::new(),
            next: 0,
            pause: None,
            last_words: Vec::new(),
        }
    }

    /// The sources to wait for.
    pub(crate) fn sources(&self) -> Vec<(Ready, BorrowedFd<'_>)> {
        let silent = self.silent.iter().map(|(id, silent)| (Ready::Silent(*id), silent.stream.as_fd()));
        let logs =
            self.connections.iter().filter_map(|(pid, found)| Some((Ready::Log(*pid), found.log.as_ref()?.as_fd())));
        let listener = self.pause.is_none().then(|| (Ready::Listener, self.socket.as_fd()));
        listener.into_iter().chain(silent).chain(logs).collect()
    }

    /// When the next silent client is spoken to.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.silent.values().map(|silent| silent.until).chain(self.pause).min()
    }

    /// The servers of all connections.
    pub(crate) fn all_servers(&self) -> Vec<i32> {
        self.connections.keys().chain(&self.checks).copied().collect()
    }

    /// Takes in whoever connects.
    pub(crate) fn accept(&mut self) {
        loop {
            let (stream, peer) = match self.socket.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Of one connection, or of too many files: in a moment there may be fewer.
                Err(_) => {
                    self.pause = Some(Instant::now() + ACCEPT_RETRY_DELAY);
                    return;
                }
            };
            if self.silent.len() >= MOST_SILENT {
                self.silent.pop_first();
            }
            if stream.set_nonblocking(true).is_ok() {
                let silent = Silent { stream, peer: peer.ip(), until: Instant::now() + SILENCE };
                self.silent.insert(self.next, silent);
                self.next += 1;
            }
        }
    }

    /// Hears what a client says first. `question` is what the host would say.
    pub(crate) fn hear(&mut self, id: u64, question: &str, devices: &str) -> io::Result<()> {
        let Some(silent) = self.silent.get(&id) else { return Ok(()) };
        let expected = wire::question(question);
        let mut heard = vec![0; expected.len()];
        let length = match silent.stream.peek(&mut heard) {
            Ok(0) => {
                self.silent.remove(&id);
                return Ok(());
            }
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(_) => {
                self.silent.remove(&id);
                return Ok(());
            }
        };
        let heard = &heard[..length];
        let is_question = heard.starts_with(QUESTION.as_bytes()) && !question.is_empty();
        let Some(silent) = self.silent.remove(&id) else { return Ok(()) };
        if !is_question {
            return self.serve(silent);
        }
        if heard == expected.as_bytes() && self.checks.len() < MOST_CHECKS {
            return self.check(silent.stream, expected.len(), devices);
        }
        Ok(())
    }

    /// Lets `sshd` speak first to those who said nothing.
    pub(crate) fn speak_first(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.pause = self.pause.filter(|until| *until > now);
        let due: Vec<u64> = self.silent.iter().filter(|(_, silent)| silent.until <= now).map(|(id, _)| *id).collect();
        for id in due {
            if let Some(silent) = self.silent.remove(&id) {
                self.serve(silent)?;
            }
        }
        Ok(())
    }

    fn check(&mut self, mut stream: TcpStream, length: usize, devices: &str) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.read_exact(&mut vec![0; length])?;
        let (input, output) = (OwnedFd::from(stream.try_clone()?), OwnedFd::from(stream));
        let mut command = Command::new(PROGRAM);
        let child =
            command.args(["check", devices]).env_clear().stdin(input).stdout(output).process_group(0).spawn()?;
        self.checks.push(pid(&child));
        Ok(())
    }

    fn serve(&mut self, silent: Silent) -> io::Result<()> {
        if !self.make_room(silent.peer) {
            return Ok(());
        }
        let (log, writes) = io::pipe()?;
        set_nonblocking(&log)?;
        silent.stream.set_nonblocking(false)?;
        let (input, output) = (OwnedFd::from(silent.stream.try_clone()?), OwnedFd::from(silent.stream));
        let mut sshd = kit_program("sshd");
        sshd.args(["-i", "-e", "-f", CONFIG]).stdin(input).stdout(output).stderr(Stdio::from(writes));
        let child = by_fork(sshd.process_group(0)).spawn()?;
        let connection = Connection {
            peer: silent.peer,
            since: Instant::now(),
            logged_in: false,
            log: Some(log),
            unfinished: Vec::new(),
        };
        // Where a small container runs out of memory over strangers, it is theirs that go, and not its program.
        weigh(pid(&child), OF_A_STRANGER);
        self.connections.insert(pid(&child), connection);
        Ok(())
    }

    /// Ends the oldest connections that nobody has logged in on, where there are too many: first those of an address
    /// that has too many itself. False where there is no room and all are logged in.
    fn make_room(&mut self, peer: IpAddr) -> bool {
        let anonymous = |listener: &Self, of: Option<IpAddr>| {
            let found = listener.connections.iter().filter(|(_, found)| !found.logged_in);
            let found = found.filter(|(_, found)| of.is_none_or(|of| found.peer == of));
            let oldest = found.clone().min_by_key(|(_, found)| found.since).map(|(pid, _)| *pid);
            (found.count(), oldest)
        };
        if self.connections.len() >= MOST_ANONYMOUS_OF_ONE {
            // Who has logged in, and was not heard yet, is no stranger.
            let strangers: Vec<i32> =
                self.connections.iter().filter(|(_, found)| !found.logged_in).map(|(pid, _)| *pid).collect();
            for stranger in strangers {
                let said = self.read_log(stranger);
                self.last_words.extend(said);
            }
        }
        let (of_peer, oldest_of_peer) = anonymous(self, Some(peer));
        let (of_all, oldest) = anonymous(self, None);
        let victim = if of_peer >= MOST_ANONYMOUS_OF_ONE {
            oldest_of_peer
        } else if of_all >= MOST_ANONYMOUS || self.connections.len() >= MOST {
            oldest
        } else {
            None
        };
        if let Some(victim) = victim.filter(|victim| self.connections.remove(victim).is_some()) {
            end_group(victim);
        }
        self.connections.len() < MOST
    }

    /// Reads what an `sshd` says of its connection, in whole lines.
    pub(crate) fn read_log(&mut self, pid: i32) -> Vec<String> {
        let Some(connection) = self.connections.get_mut(&pid) else { return Vec::new() };
        let mut bytes = [0; 4096];
        match connection.log.as_mut().map(|log| log.read(&mut bytes)) {
            Some(Ok(length)) if length > 0 => connection.unfinished.extend_from_slice(&bytes[..length]),
            Some(Err(error)) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            _ => connection.log = None,
        }
        let mut lines = Vec::new();
        while let Some(end) = connection.unfinished.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = connection.unfinished.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        connection.unfinished.truncate(MOST_LINE);
        // How sshd begins what it says of a login (auth.c, `auth_log`); nobody else's words stand there.
        if !connection.logged_in && lines.iter().any(|line| line.starts_with("Accepted ")) {
            connection.logged_in = true;
            weigh(pid, OF_A_RENTER);
        }
        lines
    }

    /// Forgets a child; gives what it, and others meanwhile, said last.
    pub(crate) fn ended(&mut self, pid: i32) -> Vec<String> {
        self.checks.retain(|check| *check != pid);
        let mut said = std::mem::take(&mut self.last_words);
        // A pipe holds no more than sixteen reads.
        for _ in 0..16 {
            let lines = self.read_log(pid);
            if lines.is_empty() {
                break;
            }
            said.extend(lines);
        }
        self.connections.remove(&pid);
        said
    }
}

/// How likely the kernel ends a process for want of memory (`oom_score_adj`, proc(5)).
const OF_A_STRANGER: &str = "900";
const OF_A_RENTER: &str = "0";

/// Says whose process it is. A session that begins says so of itself, whichever comes first.
fn weigh(pid: i32, weight: &str) {
    // Gone already, or not ours to change: then the kernel decides.
    drop(std::fs::write(format!("/proc/{pid}/oom_score_adj"), weight));
}

fn pid(child: &std::process::Child) -> i32 {
    i32::try_from(child.id()).unwrap_or(0)
}

fn end_group(leader: i32) {
    if let Some(leader) = rustix::process::Pid::from_raw(leader) {
        kill_group(leader, rustix::process::Signal::KILL);
    }
}

pub(crate) fn set_nonblocking(file: &impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    rustix::fs::fcntl_setfl(file, flags | rustix::fs::OFlags::NONBLOCK)?;
    Ok(())
}
