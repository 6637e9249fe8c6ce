//! Where things lie in a container. A path that a running tenant relies on keeps its name.

/// The kit, a read-only volume.
pub const KIT: &str = "/.gpurent/kit";
/// The program's own file: every container's entry point.
pub const PROGRAM: &str = "/.gpurent/kit/access";
/// The folder with whom to let in, which the host writes and the container only reads.
pub const ACCESS: &str = "/.gpurent/access";
/// The file in [`ACCESS`] that holds a [`Spec`](crate::spec::Spec).
pub const SPEC: &str = "spec";
/// The host's socket in [`ACCESS`], where there is one.
pub const LINE: &str = "line";
/// The folder in memory that the program writes to.
pub const RUN: &str = "/.gpurent/run";
/// A link to [`RUN`] whose name is short enough to stand in place of `/etc` in a compiled program.
pub const RUN_LINK: &str = "/.gp";
/// The last message that the renter was shown.
pub const NOTICE: &str = "/.gpurent/notice";
/// The program's own socket, for commands that the engine runs in the container.
pub const CONTROL: &str = "/.gpurent/run/control";
/// The port inside on which SSH is listened for. Above what is given out to outgoing connections, and none that
/// images use: an image's own SSH server keeps port 22.
pub const SSH_PORT: u16 = 61_022;

/// The paths that the kit's copies of `sshd` and of the C library have instead of these, so that accounts, name services
/// and preloaded libraries of an image do not reach them. Each pair has the same length.
pub const RELOCATED: [(&str, &str); 10] = [
    ("/etc/passwd", "/.gp/passwd"),
    ("/etc/group", "/.gp/group"),
    ("/etc/shadow", "/.gp/shadow"),
    ("/etc/nsswitch.conf", "/.gp/nsswitch.conf"),
    ("/etc/ld.so.preload", "/.gp/ld.so.preload"),
    ("/etc/ld.so.cache", "/.gp/ld.so.cache"),
    ("/etc/hosts.allow", "/.gp/hosts.allow"),
    ("/etc/hosts.deny", "/.gp/hosts.deny"),
    ("/etc/nologin", "/.gp/nologin"),
    ("/run/sshd", "/.gp/sshd"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relocated_path_fits_where_the_former_one_was() {
        for (from, to) in RELOCATED {
            assert_eq!(from.len(), to.len(), "{from}");
            assert!(to.starts_with(RUN_LINK), "{to}");
        }
    }
}
