//! Verifying that a renter can get in: our side reads SSH's own greeting through the published port.
//!
//! A connection alone proves nothing, since Docker's proxy accepts it before anything listens inside.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// How long one try may take.
const ONE_TRY: Duration = Duration::from_millis(1500);

/// Whether an SSH server greets at `address` (RFC 4253, section 4.2).
pub(crate) async fn greets(address: (&str, u16)) -> bool {
    let greeting = async {
        let mut stream = TcpStream::connect(address).await?;
        let mut greeting = [0; 4];
        stream.read_exact(&mut greeting).await?;
        Ok::<_, std::io::Error>(greeting == *b"SSH-")
    };
    matches!(tokio::time::timeout(ONE_TRY, greeting).await, Ok(Ok(true)))
}
