//! The container's processes: which there are, whose sessions they belong to, and their end.

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::paths::KIT;

/// A process as `/proc` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    session: i32,
}

impl Process {
    /// Out of `/proc/PID/stat` (proc(5)); the name in brackets may hold anything.
    fn parse(stat: &str) -> Option<Self> {
        let pid = stat.split(' ').next()?.parse().ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let _state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        let _group = fields.next()?;
        Some(Self { pid, parent, session: fields.next()?.parse().ok()? })
    }
}

fn all() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let numbers = entries.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()));
    // One that ended meanwhile has no file any more.
    numbers.filter_map(|entry| Process::parse(&std::fs::read_to_string(entry.path().join("stat")).ok()?)).collect()
}

/// The processes of a renter's open sessions: the servers of the connections and their helpers, and what is in the
/// sessions that these began. What has put itself into a session of its own (`setsid`, tmux) does not.
fn of_open_sessions(processes: &[Process], servers: &BTreeSet<i32>) -> BTreeSet<i32> {
    let mut found = servers.clone();
    // What the engine began from outside has no parent here.
    let from_outside = processes.iter().filter(|process| process.parent == 0 && process.pid != 1);
    let mut sessions: BTreeSet<i32> = from_outside.map(|process| process.session).collect();
    // A server has a helper or two, and they have the sessions' leaders.
    let mut fresh = found.clone();
    while !fresh.is_empty() {
        let children =
            processes.iter().filter(|process| fresh.contains(&process.parent) && !found.contains(&process.pid));
        let (leaders, helpers): (Vec<&Process>, Vec<&Process>) =
            children.partition(|process| process.session == process.pid);
        sessions.extend(leaders.iter().map(|leader| leader.pid));
        fresh = helpers.iter().map(|helper| helper.pid).collect();
        found.extend(&fresh);
    }
    found.extend(processes.iter().filter(|process| sessions.contains(&process.session)).map(|process| process.pid));
    found
}

/// Has a program started by fork and exec. glibc's posix_spawn(3), which is taken otherwise, leaves its own two signals
/// (32 and 33) ignored in whatever it starts and all that comes after.
pub(crate) fn by_fork(command: &mut Command) -> &mut Command {
    // Asking for the group that we have anyway is what posix_spawn cannot do.
    command.gid(rustix::process::getgid().as_raw())
}

/// Sends a signal by its number. Real-time signals have no name in rustix, and are the kit's `kill`'s to send.
pub(crate) fn kill(pid: i32, signal: i32) {
    let Some(target) = Pid::from_raw(pid) else { return };
    match Signal::from_named_raw(signal) {
        Some(signal) => {
            // Gone already, as a rule.
            let _gone = kill_process(target, signal);
        }
        None => {
            let number = format!("-{signal}");
            let status = Command::new(format!("{KIT}/bin/kill")).env_clear().args([number, pid.to_string()]).status();
            if let Err(error) = status {
                eprintln!("gpurent: a signal was not sent: {error}");
            }
        }
    }
}

/// Sends a signal to a whole process group.
pub(crate) fn kill_group(leader: Pid, signal: Signal) {
    // Gone already, as a rule.
    let _gone = kill_process_group(leader, signal);
}

/// A program and all that it has begun: what it tells them is its own affair.
fn family(processes: &[Process], program: i32) -> BTreeSet<i32> {
    let mut found = BTreeSet::from([program]);
    let mut fresh = found.clone();
    while !fresh.is_empty() {
        let children = processes.iter().filter(|process| fresh.contains(&process.parent));
        fresh = children.map(|process| process.pid).filter(|pid| !found.contains(pid)).collect();
        found.extend(&fresh);
    }
    found
}

/// Whether a process was begun over SSH, by what it has in its environment. A tenant can hide one: from being told that
/// it ends.
fn began_over_ssh(process: &Process) -> bool {
    let environment = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(b"SSH_CONNECTION="))
}

/// Tells everything to end that the image's program has not begun: a program that hears of its end still needs its own
/// workers. Without a program of ours (`None`, where the image's is process 1) that is what was begun over SSH; and once
/// the program has ended, it is all that is left.
pub(crate) fn terminate(program: Program, servers: &BTreeSet<i32>, and_sessions: bool) {
    let processes = all();
    let ours = i32::try_from(std::process::id()).unwrap_or(1);
    let mut spared = match program {
        Program::Child(program) => family(&processes, program),
        Program::First | Program::Ended => BTreeSet::new(),
    };
    if !and_sessions {
        spared.extend(of_open_sessions(&processes, servers));
    }
    for process in processes.iter().filter(|process| process.pid != ours && process.pid != 1) {
        let is_ours = servers.contains(&process.pid);
        let meant = program != Program::First || is_ours || began_over_ssh(process);
        if meant && !spared.contains(&process.pid) {
            kill(process.pid, Signal::TERM.as_raw());
        }
    }
}

/// The path of the image's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// Our child.
    Child(i32),
    /// Process 1 itself.
    First,
    /// There is none, or none any more.
    Ended,
}

/// Whether we are alone.
pub(crate) fn nothing_else_runs() -> bool {
    let ours = i32::try_from(std::process::id()).unwrap_or(1);
    // What the engine has begun from outside is not ours to wait for.
    all().iter().all(|process| process.pid == ours || process.parent == 0)
}

/// The number of a signal, in every form that STOPSIGNAL takes: `SIGTERM`, `term`, `15`, `SIGRTMIN+3`; SIGTERM for
/// anything else.
pub(crate) fn signal_number(text: &str) -> i32 {
    const NAMES: [(&str, i32); 15] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ABRT", 6),
        ("KILL", 9),
        ("USR1", 10),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("CONT", 18),
        ("STOP", 19),
        ("TSTP", 20),
        ("WINCH", 28),
        ("PWR", 30),
    ];
    // What the C library leaves to programs: glibc takes the first two of the kernel's real-time signals.
    const RTMIN: i32 = 34;
    const RTMAX: i32 = 64;
    let upper = text.trim().to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = if let Ok(number) = name.parse::<i32>() {
        Some(number)
    } else if let Some(offset) = name.strip_prefix("RTMIN") {
        if offset.is_empty() {
            Some(RTMIN)
        } else {
            offset.strip_prefix('+').and_then(|n| n.parse::<i32>().ok()).map(|n| RTMIN + n)
        }
    } else if let Some(offset) = name.strip_prefix("RTMAX") {
        if offset.is_empty() {
            Some(RTMAX)
        } else {
            offset.strip_prefix('-').and_then(|n| n.parse::<i32>().ok()).map(|n| RTMAX - n)
        }
    } else {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
    };
    number.filter(|number| (1..=RTMAX).contains(number)).unwrap_or(15)
}

/// The numbers of the GPUs whose device nodes are here.
pub(crate) fn gpu_devices() -> Vec<u32> {
    let entries = std::fs::read_dir(Path::new("/dev")).into_iter().flatten().filter_map(Result::ok);
    let devices = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_char_device()));
    let mut numbers: Vec<u32> =
        devices.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("nvidia")?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_are_understood_in_every_form() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("sigterm", 15),
            ("quit", 3),
            ("SIGQUIT", 3),
            ("37", 37),
            ("SIGRTMIN+3", 37),
            ("RTMIN", 34),
            ("rtmax-1", 63),
            ("", 15),
            ("SIGNONE", 15),
            ("99", 15),
        ] {
            assert_eq!(signal_number(text), number, "{text:?}");
        }
    }

    #[test]
    fn a_session_of_ones_own_is_not_the_renters_open_one() {
        let process = |pid, parent, session| Process { pid, parent, session };
        // sshd 10 with its helper 11, the shell 12 with a child 13, a setsid job 14 of that shell, a tmux server 15.
        let processes = [
            process(1, 0, 1),
            process(10, 1, 1),
            process(11, 10, 1),
            process(12, 11, 12),
            process(13, 12, 12),
            process(14, 12, 14),
            process(15, 1, 15),
            process(16, 15, 16),
        ];
        assert_eq!(family(&processes, 15), BTreeSet::from([15, 16]));
        let kept = of_open_sessions(&processes, &BTreeSet::from([10]));
        assert_eq!(kept, BTreeSet::from([10, 11, 12, 13]));
    }

    #[test]
    fn a_process_may_be_called_anything() {
        assert_eq!(Process::parse("42 (a) b (c) S 7 42 41 0 -1"), Some(Process { pid: 42, parent: 7, session: 41 }));
        assert_eq!(Process::parse("garbage"), None);
    }
}
