//! The program under each of its names: the container's entry point, a login's shell, the engine's commands.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};

use crate::accounts::{self, Accounts, ProgramUser};
use crate::check::{self, read_spec};
use crate::control::{ask, ask_and_print};
use crate::paths::{CONTROL, PROGRAM, RUN, RUN_LINK};
use crate::processes::{by_fork, gpu_devices, kill, kill_group};
use crate::server::Server;
use crate::session::{self, Login, kit_program};
use crate::spec::Spec;
use crate::wire::Request;
use crate::{credential, files, greeting, listener, mounts, program, reach, relay, syscalls};

/// The exit code that Docker itself gives where a container cannot be begun.
const NOT_BEGUN: u8 = 125;

/// Runs the program under the name that it was called by.
#[must_use]
pub fn run() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let called = if arguments.is_empty() { OsString::new() } else { arguments.remove(0) };
    let name = Path::new(&called).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (name, arguments) = match (name.as_str(), arguments.split_first()) {
        ("access", Some((first, rest))) => (first.to_string_lossy().into_owned(), rest.to_vec()),
        _ => (name, arguments),
    };
    match dispatch(&name, &arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("gpurent: {error}");
            // As Docker itself ends where a program cannot be run.
            ExitCode::from(match (name.as_str(), error.kind()) {
                ("run-as", io::ErrorKind::NotFound) => 127,
                ("run-as", io::ErrorKind::PermissionDenied) => 126,
                _ => NOT_BEGUN,
            })
        }
    }
}

fn dispatch(name: &str, arguments: &[OsString]) -> io::Result<ExitCode> {
    let text = |at: usize| arguments.get(at).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    match name {
        "start" => return start(arguments),
        "serve" => return serve(text(0)),
        "true" => {}
        "await" => reach::wait(&text(0))?,
        "reach" => return reach::reach(arguments),
        "run-as" => program::run_as(arguments)?,
        "check" => check::answer(&text(0))?,
        "relay" => relay::run(arguments)?,
        "on-terminal" => {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(io::stdin())?;
            session::by_root(arguments)?;
        }
        "own-session" => {
            rustix::process::setsid()?;
            session::by_root(arguments)?;
        }
        "as-login" => session::by_root(arguments)?,
        "session" | "-session" => session::by_sshd(arguments)?,
        "sftp-server" => return Err(kit_program("sftp-server").exec()),
        // sshd's helpers, which it starts by their path.
        "sshd-session" | "sshd-auth" => return Err(kit_program(name).args(arguments).exec()),
        "merge-path" => session::print_path()?,
        "let-in" => drop(ask(&Request::Reload)?),
        "announce" => drop(ask(&Request::Message(text(0)))?),
        "notify" => drop(ask(&Request::Notify)?),
        "access-log" => ask_and_print(&Request::AccessLog)?,
        "enter" => enter(&text(0), arguments.get(1..).unwrap_or_default())?,
        "hang-up" => hang_up(&text(0), &text(1))?,
        other => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("there is no command {other:?}"))),
    }
    Ok(ExitCode::SUCCESS)
}

/// The findings of `start`.
struct Prepared {
    spec: Spec,
    user: ProgramUser,
    notes: Vec<String>,
}

/// Puts everything in place that a login needs.
fn prepare() -> io::Result<Prepared> {
    let refused = |why: String| io::Error::new(io::ErrorKind::PermissionDenied, why);
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo")?;
    if let Some(why) = mounts::refuse(&mountinfo) {
        return Err(refused(why.to_owned()));
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let spec = read_spec()?;
    let run = Path::new(RUN);
    for (folder, mode) in [("sshd", 0o755), ("sessions", 0o700)] {
        std::fs::create_dir_all(run.join(folder))?;
        std::fs::set_permissions(run.join(folder), std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    }
    files::remove(Path::new(RUN_LINK))?;
    std::os::unix::fs::symlink(RUN, RUN_LINK)?;
    let mut notes = Vec::new();
    let mut note = |what: &str, done: io::Result<()>| {
        if let Err(error) = done {
            notes.push(format!("{what}: {error}"));
        }
    };
    note("/etc was not made", std::fs::create_dir_all("/etc"));
    note("/tmp was not made", make_tmp());
    let accounts = Accounts::of_image();
    let login = accounts.login(&spec.login);
    let user = accounts.program(&spec.program_user).map_err(refused)?;
    note("the home was not made", accounts::make_home(&login));
    note("profiles do not keep the PATH", session::keep_path_in_profiles());
    note("sudo was not allowed", accounts::allow_sudo(&spec, &login));
    accounts.write_for_sshd(&login, &spec.credential)?;
    credential::write(&spec)?;
    notes.extend(accounts.complete(&login, accounts.has(&spec.login)));
    let mut greeting = greeting::text(&spec.greeting, SystemTime::now());
    if login.uid != 0 && !spec.sudo && files::find_program("sudo", "/usr/bin:/bin:/usr/sbin").is_some() {
        greeting.push_str("sudo does not work here: this host's operator does not allow it.\n");
    }
    let groups = accounts.login_groups(&login);
    Login { account: login, groups, greeting }.write()?;
    Ok(Prepared { spec, user, notes })
}

fn make_tmp() -> io::Result<()> {
    std::fs::create_dir_all("/tmp")?;
    std::fs::set_permissions("/tmp", std::os::unix::fs::PermissionsExt::from_mode(0o1777))
}

/// The container's entry point; its arguments are the image's program.
fn start(command: &[OsString]) -> io::Result<ExitCode> {
    syscalls::restrict()?;
    let Prepared { spec, user, notes } = prepare()?;
    let socket = listener::bind()?;
    let devices = gpu_devices().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let home = (spec.home_is_the_engines && user.uid != 0).then(|| user.home.clone());
    let search = std::env::var("PATH").unwrap_or_default();
    if program::is_process_one(spec.process_one, command, &search) {
        let socket = OwnedFd::from(socket);
        let mut server = Command::new(PROGRAM);
        by_fork(server.args(["serve", &devices]).env_clear().stdin(socket).process_group(0)).spawn()?;
        return Err(program::become_it(command, &user, home.as_deref()));
    }
    let mut server = Server::new(spec, socket, &notes, devices)?;
    match program::start(command, &user, home.as_deref()) {
        Ok(Some(child)) => server.lives_as_long_as(i32::try_from(child.id()).unwrap_or(0)),
        Ok(None) => {}
        Err(error) => {
            let name = command.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            eprintln!("gpurent: the image's program {name:?} cannot be run: {error}");
            return Ok(ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }));
        }
    }
    exit_with(server.run()?)
}

/// Serves beside an image's program that is process 1; standard input is the socket, bound already.
fn serve(devices: String) -> io::Result<ExitCode> {
    let socket = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    exit_with(Server::new(read_spec()?, socket, &[], devices)?.run()?)
}

fn exit_with(code: i32) -> io::Result<ExitCode> {
    Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)))
}

fn session_file(session: &str, ending: &str) -> io::Result<std::path::PathBuf> {
    if session.is_empty() || !session.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no name of a session"));
    }
    Ok(Path::new(CONTROL).with_file_name("sessions").join(format!("{session}{ending}")))
}

/// A program, or the login shell, on a terminal that the engine made. Leaves its number for [`hang_up`].
fn enter(session: &str, command: &[OsString]) -> io::Result<()> {
    files::replace(&session_file(session, "")?, std::process::id().to_string().as_bytes(), 0o600)?;
    if session_file(session, ".gone")?.exists() {
        return Err(io::Error::other("nobody listens any more"));
    }
    session::own_terminal(&io::stdin())?;
    session::by_root(command)
}

/// Ends what [`enter`] began, once nobody listens to it: one that has ended by itself leaves its background to its
/// renter; any other is told as by a terminal that is closed, and ended for good a second later.
fn hang_up(session: &str, how: &str) -> io::Result<()> {
    let (file, gone) = (session_file(session, "")?, session_file(session, ".gone")?);
    if how == "ended" {
        return files::remove(&file);
    }
    // It may not have begun yet: then it does not.
    files::replace(&gone, b"", 0o600)?;
    let tries = std::iter::repeat_n((), 30).map(|()| std::thread::sleep(Duration::from_millis(100)));
    let begun = file.exists() || tries.into_iter().any(|()| file.exists());
    if !begun {
        return Ok(());
    }
    let leader = files::read(&file)?.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
    files::remove(&file)?;
    files::remove(&gone)?;
    let leader = leader.ok_or(io::ErrorKind::InvalidData)?;
    for signal in [rustix::process::Signal::HUP, rustix::process::Signal::KILL] {
        // The whole group, where it leads one; at least itself.
        kill_group(leader, signal);
        kill(leader.as_raw_nonzero().get(), signal.as_raw());
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}
