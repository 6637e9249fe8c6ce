//! The server: all protocols on one listener, with or without TLS, whatever is done to its connections.

mod connections;
#[cfg(not(feature = "tls"))]
mod no_tls;
#[cfg(feature = "tls")]
mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::response::Response;
use gpurent_core::host::Rentals;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
#[cfg(not(feature = "tls"))]
use no_tls::Tls;
#[cfg(feature = "tls")]
pub use tls::{Tls, TlsError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::limits::HttpLimits;
use crate::middleware::auth::{Authenticator, DEFAULT_ADDRESS};
use crate::router::HttpApi;
use crate::server::connections::{Connection, Connections};

/// How long a shutdown waits for requests under way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to agree on TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// After an error of the listener itself, such as too many open files.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// How much the kernel keeps for a client who reads slowly, and how many connections it keeps that wait for us.
const UNREAD: u32 = 128 * 1024;
const BACKLOG: u32 = 1024;
/// The largest head of a request, and how many headers it has at most; more is answered with 431.
const HEAD: usize = 64 * 1024;
const HEADERS: usize = 100;

/// Why a server could not be started, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address could be reached by others, who could all rent, and read passwords.
    #[error("without an API key the server listens on loopback only, not on {0}")]
    KeylessOffLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The listener broke.
    #[error("the server ended")]
    Io(#[source] std::io::Error),
}

/// A server that listens already, and answers once it is [run](Server::run).
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    api: HttpApi,
    router: Router,
    tls: Option<Tls>,
    /// Whether no other server has the same API.
    is_alone: bool,
}

impl Server {
    /// The address that is used where none is configured: 127.0.0.1:8000.
    #[must_use]
    pub fn default_address() -> SocketAddr {
        SocketAddr::new(DEFAULT_ADDRESS, 8000)
    }

    /// Listens on `address`, for `/v1`, the `rent` and the `instances` protocol.
    ///
    /// # Errors
    /// [`ServeError::KeylessOffLoopback`] where callers need not prove anything off loopback,
    /// [`ServeError::Bind`] where the address is taken.
    pub async fn bind(
        address: SocketAddr,
        rentals: Rentals,
        authenticator: impl Authenticator,
    ) -> Result<Self, ServeError> {
        Self::bind_api(address, HttpApi::new(rentals, authenticator)).await
    }

    /// Listens on `address`, for all of this API.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub async fn bind_api(address: SocketAddr, api: HttpApi) -> Result<Self, ServeError> {
        let router = api.router();
        let server = Self::bind_router(address, api, router).await?;
        Ok(Self { is_alone: true, ..server })
    }

    /// Serves `router`, some of the API's protocols, on an address of its own. Shut this server down before the one made by
    /// [`Server::bind_api`], which flushes the audit log.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub async fn bind_router(address: SocketAddr, api: HttpApi, router: Router) -> Result<Self, ServeError> {
        if !address.ip().is_loopback() && !api.is_guarded().await {
            return Err(ServeError::KeylessOffLoopback(address));
        }
        let failed = |source| ServeError::Bind { address, source };
        let listener = listen(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { address, listener, api, router, tls: None, is_alone: false })
    }

    /// Speaks TLS, and nothing else.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` ends; then lets requests under way finish, for at most ten seconds, and
    /// tells WebSockets goodbye.
    ///
    /// # Errors
    /// [`ServeError::Io`] where the listener broke.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), ServeError> {
        let stop = self.api.stopping();
        let limits = self.api.limits().clone();
        let connections = Connections::new(limits.connections, limits.connections_of_an_address);
        let tasks = TaskTracker::new();
        let watch = self.tls.clone().map(|tls| tokio::spawn(tls.watch()));
        let mut shutdown = pin!(shutdown);
        loop {
            let (stream, peer) = tokio::select! {
                () = &mut shutdown => break,
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "a connection was not accepted");
                        tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                        continue;
                    }
                },
            };
            // Too many, and all of them in use: closed at once, as a full backlog would.
            let Some(connection) = connections.open(peer.ip()) else { continue };
            let serving =
                Serving { router: self.router.clone(), peer, limits: limits.clone(), stop: stop.clone(), connection };
            let tls = self.tls.clone();
            tasks.spawn(async move {
                // Answers are small and wanted at once. Where that cannot be set, they come a little later.
                drop(stream.set_nodelay(true));
                match tls {
                    None => serving.serve(stream).await,
                    Some(tls) => serving.agree_and_serve(&tls, stream).await,
                }
            });
        }
        drop(self.listener);
        stop.cancel();
        tasks.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, tasks.wait()).await.is_err() {
            tracing::warn!("requests were still under way when the server ended");
        }
        if let Some(watch) = watch {
            watch.abort();
        }
        if self.is_alone && tokio::time::timeout(DRAIN_TIMEOUT, self.api.stop()).await.is_err() {
            tracing::warn!("not everything that was done could be written down when the server ended");
        }
        Ok(())
    }
}

/// Listens, with bounded buffers for what clients have yet to read: the kernel would let them grow to megabytes for
/// each of thousands who read slowly.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As listeners do: a restart need not wait for connections of the process before.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(UNREAD)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The parts that one connection is served with.
struct Serving {
    router: Router,
    peer: SocketAddr,
    limits: HttpLimits,
    stop: CancellationToken,
    connection: Connection,
}

impl Serving {
    async fn agree_and_serve(self, tls: &Tls, stream: TcpStream) {
        let agreed = tokio::select! {
            agreed = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.agree(stream)) => agreed,
            () = self.connection.closed.cancelled() => return,
        };
        // Who does not agree speaks something else, or scans the internet.
        if let Ok(Ok(stream)) = agreed {
            self.serve(stream).await;
        }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Send + 'static) {
        let Self { router, peer, limits, stop, connection } = self;
        // A client that does not read holds nothing for long.
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(limits.write_time));
        let connection = std::sync::Arc::new(connection);
        let counted = std::sync::Arc::clone(&connection);
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let (router, in_use) = (router.clone(), counted.in_use());
            async move {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(ConnectInfo(peer));
                let response: Result<Response, Infallible> = router.oneshot(request).await;
                response.map(|response| {
                    // In use until the answer is written. A WebSocket is no connection of HTTP any more: there is a limit
                    // of their own for those who listen.
                    response.map(|body| Body::new(Holding { body, _in_use: in_use }))
                })
            }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(limits.head_time).max_buf_size(HEAD).max_headers(HEADERS);
        let mut served = pin!(http.serve_connection(TokioIo::new(Box::pin(stream)), service).with_upgrades());
        let ended = tokio::select! {
            ended = served.as_mut() => ended,
            () = connection.closed.cancelled() => return,
            () = stop.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = ended {
            // Clients go away, or speak something else; none of that is ours to mend.
            tracing::trace!(%peer, error = &error as &dyn std::error::Error, "a connection broke");
        }
    }
}

/// A body that keeps its connection counted as used until it is written.
struct Holding {
    body: Body,
    _in_use: crate::server::connections::InUse,
}

impl hyper::body::Body for Holding {
    type Data = axum::body::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}
