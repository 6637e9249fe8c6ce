//! Whether a service really answers on a published port: what does not answer is not advertised.

use std::time::Duration;

use gpurent_core::port::HostPort;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_millis(500);

/// Whether a web server answers.
pub(super) async fn speaks_http(port: HostPort) -> bool {
    answers(port, b"HEAD / HTTP/1.0\r\n\r\n", b"HTTP/").await
}

/// Whether a VNC server greets (RFC 6143, section 7.1.1).
pub(super) async fn speaks_vnc(port: HostPort) -> bool {
    answers(port, b"", b"RFB ").await
}

async fn answers<const N: usize>(port: HostPort, say: &[u8], hear: &[u8; N]) -> bool {
    let dialogue = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port.get())).await?;
        stream.write_all(say).await?;
        let mut heard = [0; N];
        stream.read_exact(&mut heard).await?;
        Ok::<_, std::io::Error>(heard == *hear)
    };
    matches!(tokio::time::timeout(PATIENCE, dialogue).await, Ok(Ok(true)))
}
