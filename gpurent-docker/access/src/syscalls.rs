//! System calls that no container of ours makes, beside those that the engine's own profile keeps from it: sockets to the
//! machine's hypervisor (`AF_VSOCK`) and `io_uring`, through which most of what a profile looks at can be done unseen;
//! sockets to the kernel's audit, in whose records a tenant could write; and threads that do not share their process's
//! files, which nobody who looks for open files would find there. Docker's default profile has the first two since version
//! 25; the filter here holds on older engines, and on those whose operator took the profile off.
//!
//! A filter can be added to, never taken off again, and is inherited: by the image's program and every session.

use std::io;

use seccompiler::{BpfProgram, sock_filter};

/// Instructions of a filter (linux/filter.h, linux/bpf_common.h).
mod code {
    /// `BPF_LD | BPF_W | BPF_ABS`
    pub(super) const LOAD: u16 = 0x20;
    /// `BPF_JMP | BPF_JEQ | BPF_K`
    pub(super) const IF_EQUAL: u16 = 0x15;
    /// `BPF_ALU | BPF_AND | BPF_K`
    pub(super) const AND: u16 = 0x54;
    /// `BPF_RET | BPF_K`
    pub(super) const RETURN: u16 = 0x06;
}

/// Answers of a filter (linux/seccomp.h); an error is added to the second one.
const ALLOW: u32 = 0x7fff_0000;
const ERROR: u32 = 0x0005_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EPROTONOSUPPORT: u32 = 93;
const EAFNOSUPPORT: u32 = 97;

/// Offsets in `struct seccomp_data` (seccomp(2)); of an argument the lower half, which is all that the kernel reads
/// of a socket's family.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;
const THIRD_ARGUMENT: u32 = 32;

/// Processors (linux/audit.h), and their number of `socket`. A program for 32-bit x86 may also go by `socketcall`, whose
/// arguments a filter does not see.
const SOCKET: [(u32, u32); 4] = [(0xc000_003e, 41), (0x4000_0003, 359), (0xc000_00b7, 198), (0x4000_0028, 281)];
/// The same of `clone`. (What `clone3` is asked for lies in memory, where a filter does not see it; profiles refuse it.)
const CLONE: [(u32, u32); 4] = [(0xc000_003e, 56), (0x4000_0003, 120), (0xc000_00b7, 220), (0x4000_0028, 120)];
/// x86-64 has every call under a second number, for programs of an abandoned kind (x32).
const X32: u32 = 0x4000_0000;
const X86_64: u32 = 0xc000_003e;
/// `io_uring_setup`, `io_uring_enter`, `io_uring_register`: the same numbers everywhere.
const IO_URING: [u32; 3] = [425, 426, 427];
const AF_VSOCK: u32 = 40;
const AF_NETLINK: u32 = 16;
const NETLINK_AUDIT: u32 = 9;
const CLONE_FILES: u32 = 0x400;
const CLONE_THREAD: u32 = 0x1_0000;

fn instruction(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Goes on with the next instruction where the loaded word is `k`, else past so many.
fn unless_equal(k: u32, past: u8) -> sock_filter {
    instruction(code::IF_EQUAL, k, 0, past)
}

fn load(at: u32) -> sock_filter {
    instruction(code::LOAD, at, 0, 0)
}

fn answer(with: u32) -> sock_filter {
    instruction(code::RETURN, with, 0, 0)
}

fn filter() -> BpfProgram {
    let mut filter = vec![load(NUMBER)];
    for number in IO_URING.into_iter().flat_map(|number| [number, number | X32]) {
        filter.extend([unless_equal(number, 1), answer(ERROR | ENOSYS)]);
    }
    for (architecture, number) in SOCKET.into_iter().chain([(X86_64, 41 | X32)]) {
        filter.extend([
            load(ARCHITECTURE),
            unless_equal(architecture, 9),
            load(NUMBER),
            unless_equal(number, 7),
            load(FIRST_ARGUMENT),
            unless_equal(AF_VSOCK, 1),
            answer(ERROR | EAFNOSUPPORT),
            unless_equal(AF_NETLINK, 3),
            load(THIRD_ARGUMENT),
            unless_equal(NETLINK_AUDIT, 1),
            answer(ERROR | EPROTONOSUPPORT),
        ]);
    }
    for (architecture, number) in CLONE.into_iter().chain([(X86_64, 56 | X32)]) {
        filter.extend([
            load(ARCHITECTURE),
            unless_equal(architecture, 6),
            load(NUMBER),
            unless_equal(number, 4),
            load(FIRST_ARGUMENT),
            instruction(code::AND, CLONE_THREAD | CLONE_FILES, 0, 0),
            unless_equal(CLONE_THREAD, 1),
            answer(ERROR | EPERM),
        ]);
    }
    filter.push(answer(ALLOW));
    filter
}

/// Keeps these calls from this process and all that it will start. Not where renters may become root by sudo: a filter takes
/// `no_new_privs`, under which sudo does not work.
///
/// # Errors
/// Where the kernel does not take the filter.
pub(crate) fn restrict() -> io::Result<()> {
    if !rustix::thread::no_new_privs()? {
        return Ok(());
    }
    seccompiler::apply_filter(&filter()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer of the filter, as the kernel runs it.
    fn run(architecture: u32, number: u32, first: u32, third: u32) -> u32 {
        let (program, mut at, mut word) = (filter(), 0, 0);
        loop {
            let now = &program[at];
            at += 1;
            match now.code {
                code::LOAD => {
                    let data = [number, architecture, 0, 0, first, 0, 0, 0, third];
                    word = data[usize::try_from(now.k / 4).unwrap()];
                }
                code::IF_EQUAL => at += usize::from(if word == now.k { now.jt } else { now.jf }),
                code::AND => word &= now.k,
                _ => return now.k,
            }
        }
    }

    #[test]
    fn what_is_out_of_reach_and_nothing_else() {
        for ((architecture, socket), (_, clone)) in SOCKET.into_iter().zip(CLONE) {
            assert_eq!(run(architecture, socket, AF_VSOCK, 0), ERROR | EAFNOSUPPORT);
            assert_eq!(run(architecture, socket, AF_NETLINK, NETLINK_AUDIT), ERROR | EPROTONOSUPPORT);
            for family in [1, 2, 10, 16, 39, 41] {
                assert_eq!(run(architecture, socket, family, 0), ALLOW);
            }
            // As the C library makes threads and processes.
            for flags in [0x3d_0f00, 0x11, 0x4111, 0x0120_0011] {
                assert_eq!(run(architecture, clone, flags, 0), ALLOW, "{flags:x}");
            }
            assert_eq!(run(architecture, clone, 0x3d_0f00 & !CLONE_FILES, 0), ERROR | EPERM);
            assert!(IO_URING.iter().all(|number| run(architecture, *number, 0, 0) == ERROR | ENOSYS));
            let others = (0..460).filter(|number| ![socket, clone].contains(number) && !IO_URING.contains(number));
            assert!(others.into_iter().all(|number| run(architecture, number, AF_VSOCK, NETLINK_AUDIT) == ALLOW));
        }
        assert_eq!(run(X86_64, 41 | X32, AF_VSOCK, 0), ERROR | EAFNOSUPPORT);
        assert_eq!(run(X86_64, 425 | X32, 0, 0), ERROR | ENOSYS);
    }

    #[test]
    fn the_kernel_takes_the_filter() {
        // In a thread of its own, which keeps it.
        std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            restrict().unwrap();
            let vsock = rustix::net::socket(rustix::net::AddressFamily::VSOCK, rustix::net::SocketType::STREAM, None);
            assert_eq!(vsock.unwrap_err(), rustix::io::Errno::AFNOSUPPORT);
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
        })
        .join()
        .unwrap();
    }
}
