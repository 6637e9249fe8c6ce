//! The container's server, process 1 as a rule: one thread that waits for connections, requests, signals and children.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitOptions, wait};

use crate::accounts::Accounts;
use crate::check::read_spec;
use crate::control::{Asker, Control};
use crate::credential;
use crate::listener::{Listener, Ready};
use crate::message;
use crate::paths::PROGRAM;
use crate::processes::{Program, by_fork, kill, nothing_else_runs, signal_number, terminate};
use crate::session::Login;
use crate::signals::{CHILD, Signals};
use crate::spec::Spec;
use crate::wire::{Reply, Request};

/// How many lines of who logged in are kept, and how much of each.
const MOST_LINES: usize = 300;
const MOST_LINE: usize = 300;
/// How often it is looked whether everything has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Terminals without SSH at once.
const MOST_RELAYS: usize = 16;

enum Source {
    Signals,
    Listener(Ready),
    Control(Asker),
}

/// The server of one container.
pub(crate) struct Server {
    spec: Spec,
    listener: Listener,
    control: Control,
    signals: Signals,
    /// The logins, and all else that is said of connections: strangers push nobody out who was let in.
    logins: VecDeque<(u64, String)>,
    log: VecDeque<(u64, String)>,
    lines: u64,
    relays: BTreeSet<i32>,
    /// The GPUs that were here before the image's program could change anything.
    devices: String,
    /// The image's program, where it is our child and still runs.
    program: Option<i32>,
    /// Whether the container stays when its program ends.
    stays: bool,
    /// The exit code of a container that was told to end: it does once everything in it has, or the engine's patience
    /// is over.
    ending: Option<i32>,
    stop_signal: i32,
}

impl Server {
    /// Makes a server on a socket that is bound already. `notes` begin its log.
    pub(crate) fn new(spec: Spec, socket: TcpListener, notes: &[String], devices: String) -> io::Result<Self> {
        let stop_signal = signal_number(&spec.stop_signal);
        let mut server = Self {
            spec,
            listener: Listener::new(socket),
            control: Control::listen()?,
            signals: Signals::listen(stop_signal)?,
            logins: VecDeque::new(),
            log: VecDeque::new(),
            lines: 0,
            relays: BTreeSet::new(),
            devices,
            program: None,
            stays: true,
            ending: None,
            stop_signal,
        };
        notes.iter().for_each(|note| server.note(note));
        Ok(server)
    }

    /// Keeps the container exactly as long as this program, unless it was told to end early.
    pub(crate) fn lives_as_long_as(&mut self, program: i32) {
        (self.program, self.stays) = (Some(program), false);
    }

    fn note(&mut self, line: &str) {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let line: String = line.chars().filter(|c| !c.is_control()).take(MOST_LINE).collect();
        self.lines += 1;
        let ring = if line.starts_with("Accepted ") { &mut self.logins } else { &mut self.log };
        if ring.len() >= MOST_LINES {
            ring.pop_front();
        }
        ring.push_back((self.lines, format!("{seconds} {line}\n")));
    }

    /// Serves until the program ends; gives its exit code.
    pub(crate) fn run(mut self) -> io::Result<i32> {
        self.control.call_the_host();
        loop {
            let ready = self.wait().unwrap_or_else(|error| {
                // Of the moment: nothing of it is worth the rental's end.
                std::thread::sleep(POLL_INTERVAL);
                self.note(&format!("nothing could be waited for: {error}"));
                Vec::new()
            });
            for source in ready {
                match source {
                    Source::Signals => {
                        if let Some(code) = self.signalled() {
                            return Ok(code);
                        }
                    }
                    Source::Listener(Ready::Listener) => self.listener.accept(),
                    Source::Listener(Ready::Silent(id)) => {
                        let heard = self.listener.hear(id, &self.spec.tokens.question, &self.devices);
                        self.note_failure("a connection was not served", heard);
                    }
                    Source::Listener(Ready::Log(pid)) => {
                        for line in self.listener.read_log(pid) {
                            self.note(&line);
                        }
                    }
                    Source::Control(asker) => {
                        if let Some(request) = self.control.hear(asker) {
                            let reply = self.carry_out(request);
                            self.control.answer(asker, &reply);
                        }
                    }
                }
            }
            if let Some(code) = self.ending.filter(|_| self.program.is_none() && nothing_else_runs()) {
                return Ok(code);
            }
            let spoken = self.listener.speak_first();
            self.note_failure("a connection was not served", spoken);
            self.control.call_the_host();
        }
    }

    fn note_failure(&mut self, what: &str, done: io::Result<()>) {
        if let Err(error) = done {
            self.note(&format!("{what}: {error}"));
        }
    }

    /// Waits until something is to be done.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut sources = vec![(Source::Signals, self.signals.as_fd())];
        sources.extend(self.listener.sources().into_iter().map(|(ready, fd)| (Source::Listener(ready), fd)));
        sources.extend(self.control.sources().into_iter().map(|(asker, fd)| (Source::Control(asker), fd)));
        let mut polled: Vec<_> = sources.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let look = self.ending.map(|_| Instant::now() + POLL_INTERVAL);
        let deadline = [self.listener.deadline(), self.control.deadline(), look].into_iter().flatten().min();
        let timeout = deadline.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = polled.iter().map(|source| !source.revents().is_empty()).collect();
        Ok(sources.into_iter().zip(ready).filter(|(_, ready)| *ready).map(|((source, _), _)| source).collect())
    }

    /// Takes the signals that came; gives the exit code once the container is to end.
    fn signalled(&mut self) -> Option<i32> {
        for signal in self.signals.pending() {
            if signal == CHILD {
                if let Some(code) = self.reap() {
                    return Some(code);
                }
            } else if signal == self.stop_signal {
                self.ending = Some(128 + signal);
                if let Some(program) = self.program {
                    kill(program, signal);
                }
                terminate(self.image_program(), &self.servers(), true);
            } else if let Some(program) = self.program {
                kill(program, signal);
            }
        }
        None
    }

    /// Takes note of every child that ended, orphans too.
    fn reap(&mut self) -> Option<i32> {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            if self.program == Some(pid) {
                self.program = None;
                let by_signal = status.terminating_signal().map(|signal| 128 + signal);
                let code = status.exit_status().or(by_signal).unwrap_or(1);
                match &mut self.ending {
                    Some(ending) => {
                        *ending = code;
                        terminate(Program::Ended, &self.servers(), true);
                    }
                    None if !self.stays => return Some(code),
                    None => {}
                }
            }
            for line in self.listener.ended(pid) {
                self.note(&line);
            }
            self.relays.remove(&pid);
        }
        None
    }

    fn carry_out(&mut self, request: Request) -> Reply {
        let done = match request {
            Request::Reload => self.reload(),
            Request::Message(text) => message::leave(&text),
            Request::Notify => {
                self.notify();
                Ok(())
            }
            Request::Terminate => {
                terminate(self.image_program(), &self.servers(), true);
                Ok(())
            }
            Request::Session { token, terminal, command } => {
                let terminal = terminal.map_or_else(|| "-".to_owned(), |size| size.to_text());
                self.relay(token, terminal, command)
            }
            Request::AccessLog => {
                let mut lines: Vec<_> = self.logins.iter().chain(&self.log).collect();
                lines.sort_unstable();
                return Reply::Text(lines.into_iter().map(|(_, line)| line.as_str()).collect());
            }
        };
        done.map_or_else(|error| Reply::Failed(error.to_string()), |()| Reply::Done)
    }

    fn servers(&self) -> BTreeSet<i32> {
        self.listener.all_servers().into_iter().chain(self.relays.iter().copied()).collect()
    }

    fn image_program(&self) -> Program {
        match self.program {
            Some(program) => Program::Child(program),
            None if std::process::id() != 1 => Program::First,
            None => Program::Ended,
        }
    }

    /// The credential alone changes: the account stays what sessions were prepared for.
    fn reload(&mut self) -> io::Result<()> {
        let spec = read_spec()?;
        Accounts::of_image().write_for_sshd(&Login::read()?.account, &spec.credential)?;
        credential::write(&spec)?;
        self.spec = spec;
        Ok(())
    }

    /// Tells everything to end but the renter's sessions; the container stays for them.
    fn notify(&mut self) {
        self.stays = true;
        if let Some(program) = self.program {
            kill(program, self.stop_signal);
        }
        terminate(self.image_program(), &self.servers(), false);
        // Where the image's program is process 1, the rental ends with it.
        if std::process::id() != 1 {
            kill(1, self.stop_signal);
        }
    }

    fn relay(&mut self, token: String, terminal: String, command: Vec<String>) -> io::Result<()> {
        if self.relays.len() >= MOST_RELAYS {
            return Err(io::Error::other(format!("{MOST_RELAYS} terminals are open already")));
        }
        let arguments = [token, terminal].into_iter().chain(command).map(OsString::from);
        let mut relay = Command::new(PROGRAM);
        let child = by_fork(relay.arg("relay").args(arguments).env_clear().process_group(0)).spawn()?;
        self.relays.insert(i32::try_from(child.id()).unwrap_or(0));
        Ok(())
    }
}

fn timespec(duration: Duration) -> Timespec {
    // Rounded up: a deadline that is not quite there would be waited for in a circle.
    let duration = duration + Duration::from_millis(1);
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
