//! Telling a renter something: in a file that every later login shows, and on the terminals that are open.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::files;
use crate::paths::NOTICE;

/// How many terminals are written to.
const MOST_TERMINALS: usize = 64;

/// Leaves the message. A terminal that takes no output (Ctrl-S) is not waited for.
pub(crate) fn leave(text: &str) -> io::Result<()> {
    files::replace(Path::new(NOTICE), format!("{text}\n").as_bytes(), 0o644)?;
    let entries = std::fs::read_dir("/dev/pts").into_iter().flatten().filter_map(Result::ok);
    let terminals =
        entries.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()));
    for terminal in terminals.take(MOST_TERMINALS) {
        if terminal.file_type().is_ok_and(|kind| kind.is_char_device()) {
            let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or(0);
            let open = OpenOptions::new().write(true).custom_flags(flags).open(terminal.path());
            // Closed meanwhile, or stopped: the file tells at the next login.
            drop(open.and_then(|mut open| write!(open, "\r\n\x07*** {text}\r\n")));
        }
    }
    Ok(())
}
