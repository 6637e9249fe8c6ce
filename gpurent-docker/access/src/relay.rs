//! One program on a terminal without SSH: it runs as the renter, and its input and output go over a connection to the
//! host. The program ends with the connection.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::listener::set_nonblocking;
use crate::paths::{ACCESS, LINE, PROGRAM};
use crate::processes::{by_fork, kill_group};
use crate::session::own_terminal;
use crate::wire::{Frame, Hello, Size, Stream};

/// How much typed input waits for a program that reads none. More is not read from the host meanwhile.
const MOST_PENDING: usize = 64 * 1024;
/// How often is read what a program left when it ended: a pipe holds no more.
const MOST_LAST_READS: usize = 16;
/// How long a program has after SIGHUP.
const GRACE: Duration = Duration::from_secs(1);

struct Program {
    child: Child,
    /// The program's output.
    output: File,
    /// The program's input; none once the host has closed it.
    input: File,
    terminal: bool,
}

fn start(terminal: Option<Size>, command: &[OsString]) -> io::Result<Program> {
    let mut program = Command::new(PROGRAM);
    program.arg(if terminal.is_some() { "on-terminal" } else { "own-session" }).args(command).env_clear();
    match terminal {
        Some(size) => {
            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
            grantpt(&master)?;
            unlockpt(&master)?;
            resize(&master, size)?;
            let name = ptsname(&master, Vec::new())?;
            let flags = i32::try_from(rustix::fs::OFlags::NOCTTY.bits()).unwrap_or(0);
            let path = Path::new(std::ffi::OsStr::new(name.to_str().unwrap_or_default()));
            let slave = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
            own_terminal(&slave)?;
            program.env("TERM", "xterm-256color");
            program.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
            let child = by_fork(&mut program).spawn()?;
            let output = File::from(master);
            Ok(Program { child, input: output.try_clone()?, output, terminal: true })
        }
        None => {
            let (output, writes) = io::pipe()?;
            let (reads, input) = io::pipe()?;
            program.stdin(reads).stdout(Stdio::from(writes.try_clone()?)).stderr(writes);
            let child = by_fork(&mut program).spawn()?;
            let (output, input) = (OwnedFd::from(output), OwnedFd::from(input));
            Ok(Program { child, input: File::from(input), output: File::from(output), terminal: false })
        }
    }
}

fn resize(terminal: &impl AsFd, size: Size) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

/// `relay TOKEN TERMINAL WORD ...`: runs the program that the host asked for under this name.
///
/// # Errors
/// Where the host cannot be reached, or the program not started.
pub(crate) fn run(arguments: &[OsString]) -> io::Result<()> {
    let [token, terminal, command @ ..] = arguments else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut host = UnixStream::connect(Path::new(ACCESS).join(LINE))?;
    Hello::Session(token.to_string_lossy().into_owned()).frame().write(&mut host)?;
    let mut program = match start(Size::parse(&terminal.to_string_lossy()), command) {
        Ok(program) => program,
        Err(error) => {
            Stream::Output(format!("{error}\r\n").into_bytes()).frame().write(&mut host)?;
            return Stream::Exit(126).frame().write(&mut host);
        }
    };
    // Nobody listens any more, where it is told otherwise.
    let Ok(Some(status)) = relay(&mut host, &mut program) else { return hang_up(program) };
    // Gone by now, perhaps, with nobody to tell.
    Stream::Exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))).frame().write(&mut host)
}

/// Passes on what comes from both sides, until the program has ended and said all, or the host has gone (`None`).
fn relay(host: &mut UnixStream, program: &mut Program) -> io::Result<Option<ExitStatus>> {
    set_nonblocking(&program.input)?;
    set_nonblocking(&program.output)?;
    let leader = pid(&program.child).ok_or(io::ErrorKind::NotFound)?;
    let ends = pidfd_open(leader, PidfdFlags::empty())?;
    let (mut heard, mut pending) = (Vec::new(), Vec::new());
    let mut speaks = true;
    loop {
        let typing = if pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let from_host = if pending.len() < MOST_PENDING { PollFlags::IN } else { PollFlags::RDHUP };
        let from_program = if speaks { PollFlags::IN } else { PollFlags::empty() };
        let mut sources = vec![PollFd::new(host, from_host), PollFd::new(&ends, PollFlags::IN)];
        if speaks {
            sources.push(PollFd::new(&program.output, from_program));
        }
        if !pending.is_empty() {
            sources.push(PollFd::new(&program.input, typing));
        }
        match poll(&mut sources, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let ready: Vec<bool> = sources.iter().map(|source| !source.revents().is_empty()).collect();
        drop(sources);
        if ready[0] && !hear(host, program, &mut heard, &mut pending)? {
            return Ok(None);
        }
        if !pending.is_empty() {
            type_in(program, &mut pending)?;
        }
        if speaks {
            speaks = pass_output(host, program)?;
        }
        if ready[1] {
            // All that it wrote before its end is here by now; a background that still writes is its renter's.
            for _ in 0..MOST_LAST_READS {
                if !speaks || !program_has_more(program)? {
                    break;
                }
                speaks = pass_output(host, program)?;
            }
            return program.child.wait().map(Some);
        }
    }
}

fn program_has_more(program: &Program) -> io::Result<bool> {
    let mut sources = [PollFd::new(&program.output, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut sources, Some(&now))?;
    Ok(sources[0].revents().contains(PollFlags::IN))
}

/// Takes what the host sends; false once it has gone.
fn hear(host: &mut UnixStream, program: &mut Program, heard: &mut Vec<u8>, pending: &mut Vec<u8>) -> io::Result<bool> {
    let mut bytes = [0; 16 * 1024];
    let length = host.read(&mut bytes)?;
    if length == 0 {
        return Ok(false);
    }
    heard.extend_from_slice(&bytes[..length]);
    while let Some(frame) = Frame::take(heard)? {
        match Stream::from_frame(&frame) {
            Some(Stream::Input(typed)) => pending.extend(typed),
            Some(Stream::Resize(size)) if program.terminal => resize(&program.output, size)?,
            _ => {}
        }
    }
    Ok(true)
}

fn type_in(program: &mut Program, pending: &mut Vec<u8>) -> io::Result<()> {
    match program.input.write(pending) {
        Ok(length) => {
            pending.drain(..length);
            Ok(())
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(()),
        // It reads nothing any more; what it still writes counts.
        Err(error) if matches!(error.raw_os_error(), Some(32 | 5)) => {
            pending.clear();
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Passes on what the program wrote; false once nobody can write any more.
fn pass_output(host: &mut UnixStream, program: &mut Program) -> io::Result<bool> {
    let mut bytes = [0; 16 * 1024];
    match program.output.read(&mut bytes) {
        Ok(0) => Ok(false),
        Ok(length) => Stream::Output(bytes[..length].to_vec()).frame().write(host).map(|()| true),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(true),
        // A terminal without anybody on it (EIO).
        Err(error) if error.raw_os_error() == Some(5) => Ok(false),
        Err(error) => Err(error),
    }
}

fn pid(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// Ends a program as a terminal that is closed does, and for good a moment later.
fn hang_up(program: Program) -> io::Result<()> {
    let leader = pid(&program.child).ok_or(io::ErrorKind::NotFound)?;
    let mut child = program.child;
    // Closes the terminal.
    drop((program.input, program.output));
    for (signal, wait) in [(Signal::HUP, GRACE), (Signal::KILL, Duration::ZERO)] {
        kill_group(leader, signal);
        std::thread::sleep(wait);
    }
    child.wait().map(drop)
}
