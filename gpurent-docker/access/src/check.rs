//! Whether the renter would get in now: what the host asks through the published port before it says `ready`.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::credential::CONFIG;
use crate::files;
use crate::paths::{ACCESS, PROGRAM, RUN, SPEC};
use crate::processes::gpu_devices;
use crate::session::{Login, kit_program};
use crate::spec::{Credential, Spec};
use crate::wire::Verdict;

/// How long a program may take that ought to end at once.
const PATIENCE: Duration = Duration::from_secs(8);
/// How much of its output is told.
const MOST_OUTPUT: u64 = 400;

/// Finds out, and answers on standard output, which is the host's connection.
///
/// # Errors
/// Where the host no longer listens.
pub(crate) fn answer() -> io::Result<()> {
    let token = read_spec().map(|spec| spec.tokens.answer).unwrap_or_default();
    let line = verdict().to_line(&token);
    io::stdout().write_all(line.as_bytes())
}

pub(crate) fn read_spec() -> io::Result<Spec> {
    let text = files::read(&Path::new(ACCESS).join(SPEC))?;
    Spec::decode(text.as_bytes())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its form is not understood"))
}

fn verdict() -> Verdict {
    match try_all() {
        Ok(()) => Verdict::Ready(gpu_devices()),
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
        .spawn();
    let mut shell = Command::new(PROGRAM);
    let shell = shell.args(["as-login", &login.account.shell, "-c", "exit 0"]).env_clear();
    let shell = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
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

fn succeeds(mut child: std::process::Child) -> Result<(), String> {
    let begun = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(1)),
            Ok(None) => {
                // Whether or not it can be killed, it did not end in time.
                drop(child.kill());
                return Err(format!("it did not end within {} s", PATIENCE.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    if let Some(output) = child.stderr.take() {
        // What it said is a help; that it failed is known.
        drop(output.take(MOST_OUTPUT).read_to_end(&mut said));
    }
    Err(format!("{status}; {}", String::from_utf8_lossy(&said).trim()))
}
