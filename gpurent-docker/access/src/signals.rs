//! Signals as something that can be waited for together with sockets.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::signal as number;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

/// The signals that are passed on to the image's program, beside its own stop signal.
const PASSED_ON: [i32; 8] = [
    number::SIGHUP,
    number::SIGINT,
    number::SIGQUIT,
    number::SIGUSR1,
    number::SIGUSR2,
    number::SIGALRM,
    number::SIGTERM,
    number::SIGWINCH,
];

/// A child has ended.
pub(crate) const CHILD: i32 = number::SIGCHLD;

/// The signals that came.
pub(crate) struct Signals(SignalDelivery<UnixStream, SignalOnly>);

impl Signals {
    /// Begins to listen, to `stop` too where it can be listened to.
    pub(crate) fn listen(stop: i32) -> io::Result<Self> {
        let mut signals = vec![CHILD];
        signals.extend(PASSED_ON);
        let usable = !signal_hook::consts::FORBIDDEN.contains(&stop) && !signals.contains(&stop);
        let (read, write) = UnixStream::pair()?;
        let made = if usable {
            let with_stop = signals.iter().copied().chain([stop]);
            SignalDelivery::with_pipe(read.try_clone()?, write.try_clone()?, SignalOnly, with_stop)
        } else {
            Err(io::ErrorKind::Unsupported.into())
        };
        // What the C library keeps to itself cannot be listened to, and so ends us, as the kernel has it.
        made.or_else(|_| SignalDelivery::with_pipe(read, write, SignalOnly, &signals)).map(Self)
    }

    /// The descriptor that becomes readable when a signal comes.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_read().as_fd()
    }

    /// The signals that came since.
    pub(crate) fn pending(&mut self) -> Vec<i32> {
        self.0.pending().collect()
    }
}
