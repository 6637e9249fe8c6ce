//! A renter's session: what `sshd` runs as the login user's shell, and what a terminal without SSH runs.
//!
//! `sshd` and its helpers know nothing of the container's environment; here it comes back, exactly as the image's
//! program has it, under what SSH itself has to say (`TERM`, `LANG`, `SSH_*`, ...).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::accounts::{Account, is_kits};
use crate::files::{self, find_program};
use crate::paths::{KIT, NOTICE, RUN};
use crate::wire::Fields;

/// Where the container's environment is kept.
const ENVIRONMENT: &str = "environment";
/// Where the login user is kept.
const LOGIN: &str = "login";
/// The command that `sshd` runs for sftp.
const SFTP: &str = "/.gpurent/kit/sftp-server";

type Variables = BTreeMap<OsString, OsString>;

/// Whom sessions belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) account: Account,
    pub(crate) groups: Vec<u32>,
    pub(crate) greeting: String,
}

impl Login {
    /// Keeps the login user and the container's environment for sessions to come. The environment is for the login
    /// user's eyes, since a renter's variables may be secrets.
    pub(crate) fn write(&self) -> io::Result<()> {
        let run = Path::new(RUN);
        let mut fields = Fields::default();
        let Account { name, uid, gid, home, shell, .. } = &self.account;
        for (key, value) in [("name", name), ("uid", &uid.to_string()), ("gid", &gid.to_string()), ("home", home)] {
            fields.push(key, value);
        }
        fields.push("shell", shell);
        self.groups.iter().for_each(|group| fields.push("group", &group.to_string()));
        fields.push("greeting", &self.greeting);
        files::replace(&run.join(LOGIN), &fields.encode(), 0o644)?;
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os() {
            environment.extend_from_slice(name.as_bytes());
            environment.push(b'=');
            environment.extend_from_slice(value.as_bytes());
            environment.push(0);
        }
        let path = run.join(ENVIRONMENT);
        files::replace(&path, &environment, 0o640)?;
        std::os::unix::fs::chown(&path, Some(0), Some(*gid))
    }

    pub(crate) fn read() -> io::Result<Self> {
        let text = files::read(&Path::new(RUN).join(LOGIN))?;
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the login user is not understood");
        let fields = Fields::decode(text.as_bytes()).ok_or_else(wrong)?;
        let get = |name| fields.get(name).map(str::to_owned).ok_or_else(wrong);
        let number = |text: &str| text.parse().map_err(|_| wrong());
        Ok(Self {
            account: Account {
                name: get("name")?,
                uid: number(&get("uid")?)?,
                gid: number(&get("gid")?)?,
                comment: String::new(),
                home: get("home")?,
                shell: get("shell")?,
            },
            groups: fields.all("group").map(number).collect::<io::Result<_>>()?,
            greeting: get("greeting")?,
        })
    }
}

fn environment_of_container() -> io::Result<Variables> {
    let bytes = std::fs::read(Path::new(RUN).join(ENVIRONMENT))?;
    let pairs = bytes.split(|byte| *byte == 0).filter_map(|entry| {
        let split = entry.iter().position(|byte| *byte == b'=')?;
        Some((OsString::from_vec(entry[..split].to_vec()), OsString::from_vec(entry[split + 1..].to_vec())))
    });
    Ok(pairs.collect())
}

/// Whether a session's environment takes this variable from the process that started it.
fn is_the_sessions(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let names: [&[u8]; 6] = [b"TERM", b"LANG", b"DISPLAY", b"XAUTHORITY", b"COLORTERM", b"LANGUAGE"];
    names.contains(&name) || name.starts_with(b"SSH_") || name.starts_with(b"LC_")
}

/// The environment of a session: the container's, what `ours` says of the session, and who is logged in.
fn environment(mut container: Variables, ours: Variables, login: &Login, has_utf8: bool) -> Variables {
    container.extend(ours.into_iter().filter(|(name, _)| is_the_sessions(name)));
    let Account { name, home, shell, .. } = &login.account;
    for (key, value) in [("USER", name), ("LOGNAME", name), ("HOME", home), ("SHELL", shell)] {
        container.insert(key.into(), value.into());
    }
    if is_kits(shell) {
        // An image without a shell has no tools either.
        let path = container.entry("PATH".into()).or_default();
        path.push(format!("{}{KIT}/bin", if path.is_empty() { "" } else { ":" }));
    }
    let has_language = container.keys().any(|key| key == "LANG" || key == "LC_ALL" || key == "LC_CTYPE");
    if has_utf8 && !has_language {
        container.insert("LANG".into(), "C.UTF-8".into());
    }
    container
}

/// Whether the image's C library has the locale C.UTF-8 (<https://sourceware.org/glibc/wiki/Proposals/C.UTF-8>).
fn image_has_utf8() -> bool {
    ["/usr/lib/locale/C.utf8", "/usr/lib/locale/C.UTF-8"].iter().any(|folder| Path::new(folder).is_dir())
}

fn current_environment(login: &Login) -> io::Result<Variables> {
    Ok(environment(environment_of_container()?, std::env::vars_os().collect(), login, image_has_utf8()))
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn execute(mut command: Command, environment: &Variables) -> io::Error {
    command.env_clear().envs(environment);
    command.exec()
}

/// A program of the kit, started by the kit's own loader, with nothing of the image's in its environment.
pub(crate) fn kit_program(name: &str) -> Command {
    let mut command = Command::new(format!("{KIT}/lib/loader"));
    command.args(["--inhibit-cache", "--library-path", &format!("{KIT}/lib"), &format!("{KIT}/libexec/{name}")]);
    // An image's configuration of OpenSSL can name modules to load.
    command.env_clear().envs([
        ("OPENSSL_CONF", "/dev/null"),
        ("OPENSSL_MODULES", "/none"),
        ("OPENSSL_ENGINES", "/none"),
    ]);
    command
}

/// `sshd` runs this as the login user's shell: a login shell by a name that begins with a dash, a command after `-c`.
///
/// # Errors
/// Why nothing could be run.
pub(crate) fn by_sshd(arguments: &[OsString]) -> io::Result<()> {
    // Begun by a server that was a stranger's a moment ago; see `listener`. Where it cannot be said, it was never other.
    drop(std::fs::write("/proc/self/oom_score_adj", "0"));
    let login = Login::read()?;
    let environment = current_environment(&login)?;
    match arguments {
        [flag, command] if flag == "-c" => Err(run_command(command, &login, &environment)),
        _ => Err(login_shell(&login, &environment)),
    }
}

/// The login shell, after what its renter has to know. A pipe is told nothing: it would take it for output.
fn login_shell(login: &Login, environment: &Variables) -> io::Error {
    if io::stdin().is_terminal() {
        let notice = files::read(Path::new(NOTICE)).unwrap_or_default();
        // A terminal that is closed already ends the shell in a moment.
        drop(write!(io::stdout(), "{}{notice}", login.greeting));
    }
    let shell = &login.account.shell;
    let mut command = Command::new(shell);
    command.arg0(format!("-{}", base_name(shell)));
    execute(command, environment)
}

/// The command that is run where the image lacks the program that a client counts on.
fn run_command(line: &OsStr, login: &Login, environment: &Variables) -> io::Error {
    let text = line.to_string_lossy();
    let path = environment.get(OsStr::new("PATH")).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let first = text.split_whitespace().next().unwrap_or_default();
    if first == SFTP || (base_name(first) == "sftp-server" && find_program(first, &path).is_none()) {
        return kit_program("sftp-server").env("HOME", &login.account.home).exec();
    }
    let mut line = line.to_owned();
    let in_kit = ["scp", "rsync"].contains(&first) && files::is_program(Path::new(&format!("{KIT}/libexec/{first}")));
    if in_kit && find_program(first, &path).is_none() {
        let loader = format!("{KIT}/lib/loader --inhibit-cache --library-path {KIT}/lib {KIT}/libexec/");
        let mut replaced = OsString::from(loader);
        replaced.push(&line);
        line = replaced;
    }
    let shell = &login.account.shell;
    let mut command = Command::new(shell);
    command.arg0(base_name(shell)).arg("-c").arg(line);
    execute(command, environment)
}

/// Gives a terminal to the login user, as `sshd` does with those that it makes; nothing where it is none.
pub(crate) fn own_terminal(terminal: &(impl std::os::fd::AsFd + IsTerminal)) -> io::Result<()> {
    if terminal.is_terminal() {
        std::os::unix::fs::fchown(terminal, Some(Login::read()?.account.uid), None)?;
    }
    Ok(())
}

/// Becomes the login user and runs a program, or the login shell: for whoever is root and no `sshd`.
///
/// # Errors
/// Why nothing could be run.
pub(crate) fn by_root(command: &[OsString]) -> io::Result<()> {
    let login = Login::read()?;
    let environment = current_environment(&login)?;
    become_user(login.account.uid, login.account.gid, &login.groups)?;
    if std::env::set_current_dir(&login.account.home).is_err() {
        std::env::set_current_dir("/")?;
    }
    let Some((program, arguments)) = command.split_first() else { return Err(login_shell(&login, &environment)) };
    let path = environment.get(OsStr::new("PATH")).cloned().unwrap_or_default();
    let found = find_program(&program.to_string_lossy(), &path.to_string_lossy());
    let mut command = Command::new(found.map_or_else(|| program.clone(), Into::into));
    command.arg0(program).args(arguments);
    Err(execute(command, &environment))
}

/// Gives root's rights up for good. The process has one thread.
pub(crate) fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    use rustix::process::{Gid, Uid};
    let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// The container's PATH, then what else is in the present one: profiles set theirs without asking
/// (`/etc/profile` of Debian, Alpine and others), and so lose the image's.
pub(crate) fn merge_path(container: &str, present: &str) -> String {
    let mut folders: Vec<&str> = Vec::new();
    for folder in container.split(':').chain(present.split(':')).filter(|folder| !folder.is_empty()) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders.join(":")
}

/// Prints the merged PATH for the snippet in `/etc/profile.d`.
///
/// # Errors
/// Where the container's environment cannot be read: then the profile's PATH stays.
pub(crate) fn print_path() -> io::Result<()> {
    let container = environment_of_container()?;
    let text = |value: Option<&OsString>| value.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let container = text(container.get(OsStr::new("PATH")));
    let present = text(std::env::var_os("PATH").as_ref());
    writeln!(io::stdout(), "{}", merge_path(&container, &present))
}

/// A snippet by which login shells keep the container's PATH, where profiles have snippets.
pub(crate) fn keep_path_in_profiles() -> io::Result<()> {
    let folder = Path::new("/etc/profile.d");
    if !folder.is_dir() {
        return Ok(());
    }
    let snippet = format!(
        "# Put here by gpurent: the container's own PATH, which profiles overwrite.\n\
         [ ! -x {KIT}/merge-path ] || PATH=$({KIT}/merge-path 2>/dev/null || printf %s \"$PATH\")\n"
    );
    files::replace(&folder.join("zz-gpurent.sh"), snippet.as_bytes(), 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
    }

    fn login(shell: &str) -> Login {
        let account = Account {
            name: "dev".to_owned(),
            uid: 1000,
            gid: 1000,
            comment: String::new(),
            home: "/home/dev".to_owned(),
            shell: shell.to_owned(),
        };
        Login { account, groups: vec![1000], greeting: String::new() }
    }

    #[test]
    fn a_session_has_the_containers_environment_under_what_ssh_says() {
        let container =
            variables(&[("A.B-C", "x\ny"), ("PATH", "/opt/bin:/bin"), ("HOME", "/elsewhere"), ("LD_PRELOAD", "/x.so")]);
        let ours = variables(&[
            ("TERM", "xterm"),
            ("SSH_TTY", "/dev/pts/0"),
            ("PATH", "/usr/bin"),
            ("MAIL", "x"),
            ("LC_ALL", "de_DE.UTF-8"),
        ]);
        let found = environment(container, ours, &login("/bin/bash"), true);
        let expected = variables(&[
            ("A.B-C", "x\ny"),
            ("PATH", "/opt/bin:/bin"),
            ("HOME", "/home/dev"),
            ("LD_PRELOAD", "/x.so"),
            ("TERM", "xterm"),
            ("SSH_TTY", "/dev/pts/0"),
            ("LC_ALL", "de_DE.UTF-8"),
            ("USER", "dev"),
            ("LOGNAME", "dev"),
            ("SHELL", "/bin/bash"),
        ]);
        assert_eq!(found, expected);
        let kits = format!("{KIT}/bin/sh");
        let found = environment(variables(&[("PATH", "/bin")]), Variables::new(), &login(&kits), true);
        assert_eq!(found.get(OsStr::new("PATH")), Some(&OsString::from(format!("/bin:{KIT}/bin"))));
        assert_eq!(found.get(OsStr::new("LANG")), Some(&OsString::from("C.UTF-8")));
    }

    #[test]
    fn a_profiles_path_loses_nothing_of_the_images() {
        assert_eq!(
            merge_path("/opt/conda/bin:/usr/bin", "/usr/local/bin:/usr/bin"),
            "/opt/conda/bin:/usr/bin:/usr/local/bin"
        );
        assert_eq!(merge_path("", "/bin"), "/bin");
    }
}
