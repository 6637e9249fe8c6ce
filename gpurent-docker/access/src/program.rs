//! The image's own program: as whom it runs, and whether it has to be process 1.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};

use crate::accounts::ProgramUser;
use crate::files::find_program;
use crate::paths::PROGRAM;
use crate::processes::by_fork;
use crate::session::become_user;
use crate::spec::ProcessOne;

/// How much of a script is read to find out what it expects to be.
const MOST_SCRIPT: u64 = 32 * 1024;

/// Programs that refuse to be anything but process 1, or would not work.
const INITS: [&str; 8] = [
    "/init",
    "/sbin/init",
    "/usr/sbin/init",
    "/lib/systemd/systemd",
    "/usr/lib/systemd/systemd",
    "/bin/systemd",
    "/sbin/openrc-init",
    "/sbin/runit-init",
];

/// Whether the image's program is to be process 1.
pub(crate) fn is_process_one(asked: ProcessOne, command: &[OsString], search: &str) -> bool {
    match asked {
        ProcessOne::Image => !command.is_empty(),
        ProcessOne::Access => false,
        ProcessOne::Detect => {
            let Some(name) = command.first().map(|name| name.to_string_lossy().into_owned()) else { return false };
            if INITS.contains(&name.as_str()) {
                return true;
            }
            let Some(path) = find_program(&name, search) else { return false };
            path.file_name().is_some_and(|name| name == "s6-svscan")
                || beginning(&path).is_ok_and(|text| script_is_an_init(&text))
        }
    }
}

fn beginning(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MOST_SCRIPT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether a script compares its own number to 1, or goes over into a program that has to be process 1.
fn script_is_an_init(text: &str) -> bool {
    if !text.starts_with("#!") {
        return false;
    }
    let code = text.lines().map(str::trim_start).filter(|line| !line.starts_with('#'));
    code.into_iter().any(|line| {
        let asks = line.match_indices("$$").any(|(at, _)| {
            let rest: String = line[at + 2..].chars().filter(|c| !" \"'}]".contains(*c)).take(6).collect();
            ["-eq1", "-ne1", "=1", "==1", "!=1", "-gt1"].iter().any(|comparison| rest.starts_with(comparison))
        });
        let mut words = line.split_whitespace().skip_while(|word| *word != "exec").skip(1);
        let becomes = words.find(|word| !word.starts_with('-') && !word.contains('='));
        asks || becomes.is_some_and(|word| INITS.contains(&word.trim_matches('"')) || word.ends_with("/s6-svscan"))
    })
}

fn command(program: &[OsString], user: &ProgramUser) -> Option<Command> {
    let (name, arguments) = program.split_first()?;
    let mut command = if user.is_plain_root() {
        let mut command = Command::new(name);
        command.args(arguments);
        command
    } else {
        let mut command = Command::new(PROGRAM);
        let groups: Vec<_> = user.groups.iter().map(ToString::to_string).collect();
        command.arg("run-as").arg(format!("{}:{}:{}", user.uid, user.gid, groups.join(","))).args(program);
        command
    };
    if let Some(home) = std::env::var_os("HOME") {
        command.env("HOME", home);
    }
    Some(command)
}

/// Lets the program's user use the container's own input and output by name (`/dev/stdout`), as runc does where it
/// starts a program under that user itself
/// (<https://github.com/opencontainers/runc/blob/main/libcontainer/init_linux.go>, `fixStdioPermissions`).
fn hand_over_stdio(user: &ProgramUser) {
    for stream in ["/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"] {
        // A stream that cannot be given away can still be used as it was inherited.
        drop(std::os::unix::fs::chown(stream, Some(user.uid), None));
    }
}

/// Starts the program beside us; `None` where the image has none.
pub(crate) fn start(program: &[OsString], user: &ProgramUser, home: Option<&str>) -> io::Result<Option<Child>> {
    let Some(mut command) = command(program, user) else { return Ok(None) };
    if let Some(home) = home {
        command.env("HOME", home);
    }
    hand_over_stdio(user);
    // A group of its own: what it tells its group is not for us.
    by_fork(command.process_group(0)).spawn().map(Some)
}

/// Becomes the program.
pub(crate) fn become_it(program: &[OsString], user: &ProgramUser, home: Option<&str>) -> io::Error {
    let Some(mut command) = command(program, user) else { return io::ErrorKind::NotFound.into() };
    if let Some(home) = home {
        command.env("HOME", home);
    }
    hand_over_stdio(user);
    command.exec()
}

/// `run-as UID:GID:GROUPS PROGRAM ...`: gives root's rights up, and becomes the program.
///
/// # Errors
/// Why it could not.
pub(crate) fn run_as(arguments: &[OsString]) -> io::Result<()> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "run-as UID:GID:GROUPS PROGRAM ...");
    let (user, program) = arguments.split_first().ok_or_else(wrong)?;
    let user = user.to_string_lossy().into_owned();
    let mut parts = user.splitn(3, ':');
    let mut number = || parts.next().and_then(|part| part.parse().ok()).ok_or_else(wrong);
    let (uid, gid) = (number()?, number()?);
    let groups = parts.next().unwrap_or_default().split(',').filter(|group| !group.is_empty());
    let groups: Vec<u32> = groups.map(|group| group.parse().map_err(|_| wrong())).collect::<io::Result<_>>()?;
    let groups = if groups.is_empty() { vec![gid] } else { groups };
    let (name, rest) = program.split_first().ok_or_else(wrong)?;
    become_user(uid, gid, &groups)?;
    Err(Command::new(name).args(rest).exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_point_that_wants_to_be_process_1_is_recognised() {
        for script in [
            "#!/bin/sh\nif [ $$ -eq 1 ]; then exec /sbin/tini; fi",
            "#!/bin/sh\nif test \"$$\" != 1 ; then echo no; exit 1; fi",
            "#!/bin/bash\nif [[ $$ == 1 ]]; then :; fi",
            "#!/bin/sh\nset -e\nexec /init \"$@\"\n",
            "#!/bin/sh\nexec env -i A=b /sbin/init\n",
        ] {
            let becomes = script_is_an_init(script);
            assert!(becomes || script.contains("env -i"), "{script}");
        }
        for script in [
            "#!/bin/sh\n# exec /init\nexec nginx -g 'daemon off;'\n",
            "#!/bin/sh\nfile=/tmp/x.$$\necho $$ >/run/pid\nexec \"$@\"\n",
            "\x7fELF exec /init",
        ] {
            assert!(!script_is_an_init(script), "{script}");
        }
        let detect = |name: &str| is_process_one(ProcessOne::Detect, &[name.into()], "/bin");
        assert!(detect("/init") && detect("/sbin/init") && !detect("/bin/sh") && !detect("/none"));
        assert!(!is_process_one(ProcessOne::Image, &[], "/bin"));
    }
}
