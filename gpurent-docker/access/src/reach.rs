//! The addresses that can be reached from here: the host's probe of its own isolation, in containers on the tenants' network.

use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// How long the one that waits to be reached waits at most.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How long it waits before it tries.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// How long a connection may take. What is dropped never answers.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// `await PORT`: listens there, until it is killed, or for a minute.
///
/// # Errors
/// Where the port is taken.
pub(crate) fn wait(port: &str) -> io::Result<()> {
    let port = port.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "await PORT"))?;
    let _listener = TcpListener::bind(("0.0.0.0", port))?;
    std::thread::sleep(MAX_WAIT);
    Ok(())
}

/// `reach ADDRESS:PORT ...`: tries to connect to each. The exit code has a bit for each that answered, by whatever: the first
/// one's is the lowest.
///
/// # Errors
/// Where one is no address.
pub(crate) fn reach(targets: &[OsString]) -> io::Result<ExitCode> {
    let parse = |target: &OsString| target.to_string_lossy().parse::<SocketAddr>();
    let targets: Result<Vec<_>, _> = targets.iter().map(parse).collect();
    let targets = targets.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    // As every tenant's, this container's port of the bridge is isolated a moment after its start.
    std::thread::sleep(RETRY_DELAY);
    let answers = |target: &SocketAddr| match TcpStream::connect_timeout(target, CONNECT_TIMEOUT) {
        Ok(_) => true,
        // It came as far as somebody who says no.
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    };
    let bits = targets.iter().enumerate().filter(|(_, target)| answers(target));
    Ok(ExitCode::from(bits.fold(0, |code, (n, _)| code | 1u8.wrapping_shl(u32::try_from(n).unwrap_or(7)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answers_or_refuses_is_reached() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let code =
            |targets: &[&str]| format!("{:?}", reach(&targets.iter().map(OsString::from).collect::<Vec<_>>()).unwrap());
        // Everybody, to whom TCP connects not.
        let (open, closed, nobody) = (open.to_string(), closed.to_string(), "255.255.255.255:9");
        assert_eq!(code(&[&open]), format!("{:?}", ExitCode::from(1)));
        assert_eq!(code(&[nobody, &closed, &open]), format!("{:?}", ExitCode::from(6)));
        assert_eq!(code(&[nobody]), format!("{:?}", ExitCode::from(0)));
        assert!(reach(&["nowhere".into()]).is_err());
    }
}
