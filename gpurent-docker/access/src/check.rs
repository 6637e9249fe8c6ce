//! Whether the renter would get in now: what the host asks through the published port before it says `ready`.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::credential::CONFIG;
use crate::files;
use crate::listener::set_nonblocking;
use crate::paths::{ACCESS, PROGRAM, RUN, SPEC};
use crate::processes::kill_group;
use crate::session::{Login, kit_program};
use crate::spec::{Credential, Spec};
use crate::wire::Verdict;

/// How long a program may take that ought to end at once.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(8);
/// How much of its output is told.
const MOST_OUTPUT: usize = 400;

/// Finds out, and answers with the GPUs that were here at the start, on standard output, which is the host's connection.
///
/// # Errors
/// Where the host no longer listens.
pub(crate) fn answer(devices: &str) -> io::Result<()> {
    let token = read_spec().map(|spec| spec.tokens.answer).unwrap_or_default();
    let line = verdict(devices).to_line(&token);
    io::stdout().write_all(line.as_bytes())
}

pub(crate) fn read_spec() -> io::Result<Spec> {
    let text = files::read(&Path::new(ACCESS).join(SPEC))?;
    Spec::decode(text.as_bytes())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its form is not understood"))
}

fn verdict(devices: &str) -> Verdict {
    match try_all() {
        Ok(()) => Verdict::Ready(devices.split(',').filter_map(|number| number.parse().ok()).collect()),
        Err(verdict) => verdict,
    }
}

fn try_all() -> Result<(), Verdict> {
    let host = |what: &str, error: &io::Error| Verdict::Host(format!("{what}: {error}"));
    let spec = read_spec().map_err(|error| host("whom to let in cannot be read", &error))?;
    let login = Login::read().map_err(|error| host("the login user is not in place", &error))?;
    credential_is_in_place(&spec).map_err(|error| host("the credential is not in place", &error))?;
    // The server with its keys and configuration, and the shell with the session's own environment: both at once.
    let sshd = kit_program("sshd")
        .args(["-t", "-f", CONFIG])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut shell = Command::new(PROGRAM);
    let shell = shell.args(["as-login", &login.account.shell, "-c", "exit 0"]).env_clear();
    let shell = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0).spawn();
    let sshd = sshd.map_err(|error| host("sshd cannot be run", &error))?;
    let shell = shell.map_err(|error| host("a session cannot be begun", &error))?;
    succeeds(sshd).map_err(|why| Verdict::Host(format!("sshd refuses its configuration: {why}")))?;
    succeeds(shell).map_err(|why| Verdict::Image(format!("its shell {} does not run: {why}", login.account.shell)))
}

fn credential_is_in_place(spec: &Spec) -> io::Result<()> {
    let read = |name: &str| files::read(&Path::new(RUN).join(name));
    let found = match &spec.credential {
        Credential::Password(hash) => read("shadow")?.starts_with(&format!("{}:{hash}:", spec.login)),
        Credential::Keys(keys) => keys.iter().eq(read("authorized-keys")?.lines()),
    };
    if found { Ok(()) } else { Err(io::Error::other("another one is")) }
}

/// Waits for a program, and hears what it says of its failure. What it leaves running in the background is ended with it.
fn succeeds(mut child: std::process::Child) -> Result<(), String> {
    let begun = Instant::now();
    let mut said = Vec::new();
    let mut output = child.stderr.take();
    let status = loop {
        if let Some(output) = &mut output {
            hear(output, &mut said);
        }
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if begun.elapsed() < PROGRAM_TIMEOUT => std::thread::sleep(Duration::from_millis(1)),
            Ok(None) => break Err(format!("it did not end within {} s", PROGRAM_TIMEOUT.as_secs())),
            Err(error) => break Err(error.to_string()),
        }
    };
    if let Some(leader) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        kill_group(leader, rustix::process::Signal::KILL);
    }
    if let Some(output) = &mut output {
        hear(output, &mut said);
    }
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{status}; {}", String::from_utf8_lossy(&said).trim())),
        Err(why) => Err(why),
    }
}

/// Reads what is there, and keeps the beginning of it.
fn hear(output: &mut std::process::ChildStderr, said: &mut Vec<u8>) {
    let mut bytes = [0; 4096];
    // What it said is a help; how it ended is what counts.
    if let Ok(length) = set_nonblocking(output).and_then(|()| output.read(&mut bytes)) {
        said.extend_from_slice(&bytes[..length]);
        said.truncate(MOST_OUTPUT);
    }
}
