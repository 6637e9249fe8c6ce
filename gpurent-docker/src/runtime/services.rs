//! Services on a tenant's published ports, known by their first words.
//!
//! A connection alone proves nothing: Docker's proxy accepts it before anything listens inside. Most programs are silent until
//! they are spoken to, so each port is asked as a browser would ask; what speaks first is understood all the same.

use std::time::Duration;

use futures_util::StreamExt;
use gpurent_core::model::{PortBinding, Protocol, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// How many ports are asked at once.
const AT_ONCE: usize = 8;

/// A question for a web server.
const REQUEST: &[u8] = b"HEAD / HTTP/1.0\r\n\r\n";

/// A question for a server of TLS (RFC 5246, section 7.4.1.2): one cipher suite and no extensions. A server of any version
/// answers with a greeting or an alert.
const TLS_CLIENT_HELLO: &[u8] =
    b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x03gpurent asks what language it is\x00\x00\x02\x00\x2f\x01\x00";

/// The services that answer at `host`, in order of their ports.
pub(crate) async fn look(host: &str, ports: &[PortBinding]) -> Vec<Service> {
    let looks = ports.iter().map(|binding| answering(host, *binding)).collect::<Vec<_>>();
    let found = futures_util::stream::iter(looks).buffered(AT_ONCE);
    found.filter_map(std::future::ready).collect().await
}

async fn answering(host: &str, PortBinding { container, host: port, .. }: PortBinding) -> Option<Service> {
    Some(Service { container, host: port, protocol: ask((host, port.get())).await? })
}

async fn ask(address: (&str, u16)) -> Option<Protocol> {
    match heard(address, REQUEST).await {
        Some(words) => Some(protocol(words)),
        // Many servers of TLS say nothing to what is none.
        None => heard(address, TLS_CLIENT_HELLO).await.map(protocol).filter(|protocol| *protocol == Protocol::Https),
    }
}

/// The language of what begins so.
fn protocol(words: [u8; 5]) -> Protocol {
    match &words {
        b"HTTP/" => Protocol::Http,
        [b'R', b'F', b'B', b' ', _] => Protocol::Vnc,
        [b'S', b'S', b'H', b'-', _] => Protocol::Ssh,
        // A handshake or an alert (RFC 8446, section 5.1).
        [21 | 22, 3, 0..=4, _, _] => Protocol::Https,
        _ => Protocol::Other,
    }
}

/// The first bytes of an answer, the rest of five left 0; `None` where there is none.
async fn heard(address: (&str, u16), question: &[u8]) -> Option<[u8; 5]> {
    let mut words = [0; 5];
    let mut count = 0;
    let dialogue = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(question).await?;
        while count < words.len() {
            match stream.read(&mut words[count..]).await? {
                0 => break,
                read => count += read,
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // What was heard until then counts, however it ended.
    drop(tokio::time::timeout(ANSWER_TIMEOUT, dialogue).await);
    (count > 0).then_some(words)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server that hears something, says its words and hangs up; one that speaks first does not wait.
    async fn asked(waits: bool, words: &'static [u8]) -> Option<Protocol> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                if waits {
                    assert!(stream.read(&mut [0; 64]).await.unwrap() > 0, "it is asked");
                }
                stream.write_all(words).await.unwrap();
            }
        });
        let heard = ask(("127.0.0.1", port)).await;
        server.abort();
        heard
    }

    #[tokio::test]
    async fn a_service_is_known_by_its_first_words() {
        assert_eq!(asked(true, b"HTTP/1.1 302 Found\r\n\r\n").await, Some(Protocol::Http));
        assert_eq!(asked(false, b"RFB 003.008\n").await, Some(Protocol::Vnc));
        assert_eq!(asked(false, b"SSH-2.0-OpenSSH_9.2\r\n").await, Some(Protocol::Ssh));
        assert_eq!(asked(true, b"\x15\x03\x03\x00\x02\x02\x28").await, Some(Protocol::Https));
        assert_eq!(asked(true, b"-ERR").await, Some(Protocol::Other));
        assert_eq!(asked(true, b"").await, None, "it hangs up");
        assert_eq!(ask(("127.0.0.1", 1)).await, None, "nobody is there");
    }

    #[test]
    fn the_hello_is_as_long_as_it_says() {
        assert_eq!(TLS_CLIENT_HELLO.len(), 5 + usize::from(TLS_CLIENT_HELLO[4]));
        assert_eq!(TLS_CLIENT_HELLO.len(), 9 + usize::from(TLS_CLIENT_HELLO[8]));
    }
}
