//! Verifying that a renter can get in: the host asks the container's own server, through the published port.
//!
//! A connection alone proves nothing, since Docker's proxy accepts it before anything listens inside; and an SSH greeting
//! proves little, since any program of the image can speak it. So the host says a secret word, and hears another with
//! what the server found when it tried the renter's login itself.

use std::time::Duration;

use gpurent_access::spec::Tokens;
use gpurent_access::wire::{Verdict, question};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a greeting may take.
const BANNER_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long a verdict may take, once somebody has taken the question: it runs the image's shell.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(12);
/// The longest line that is read.
const MOST_BYTES: u64 = 1024;

/// The answer at the rental's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The container's own server has looked.
    Verdict(Verdict),
    /// Something else speaks there.
    Stranger,
    /// Nothing.
    Nothing,
}

/// Asks at `address` whether the renter would get in.
pub(crate) async fn ask(address: (&str, u16), tokens: &Tokens) -> Heard {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(question(&tokens.question).as_bytes()).await?;
        let mut line = String::new();
        stream.take(MOST_BYTES).read_to_string(&mut line).await?;
        Ok::<_, std::io::Error>(line)
    };
    match tokio::time::timeout(LOGIN_TIMEOUT, asked).await {
        Ok(Ok(line)) if line.is_empty() => Heard::Nothing,
        Ok(Ok(line)) => Verdict::from_line(&line, &tokens.answer).map_or(Heard::Stranger, Heard::Verdict),
        _ => Heard::Nothing,
    }
}

/// Whether an SSH server greets at `address` (RFC 4253, section 4.2): all that tells of a container with the former kit.
pub(crate) async fn greets(address: (&str, u16)) -> bool {
    let greeting = async {
        let mut stream = TcpStream::connect(address).await?;
        let mut greeting = [0; 4];
        stream.read_exact(&mut greeting).await?;
        Ok::<_, std::io::Error>(greeting == *b"SSH-")
    };
    matches!(tokio::time::timeout(BANNER_TIMEOUT, greeting).await, Ok(Ok(true)))
}
