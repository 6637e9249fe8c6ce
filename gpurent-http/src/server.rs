//! The server: all surfaces on one listener.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use gpurent_core::rentals::Rentals;
use tokio::net::TcpListener;

use crate::auth::{Authenticator, DEFAULT_ADDRESS};
use crate::surfaces::Surfaces;

/// How long a shutdown waits for requests under way.
const DRAIN: Duration = Duration::from_secs(10);

/// Why a server could not be started, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Everybody who could reach that address could rent, and read passwords.
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
    surfaces: Surfaces,
}

impl Server {
    /// The address that is used where none is configured: 127.0.0.1:8000.
    #[must_use]
    pub fn default_address() -> SocketAddr {
        SocketAddr::new(DEFAULT_ADDRESS, 8000)
    }

    /// Listens on `address`.
    ///
    /// # Errors
    /// [`ServeError::KeylessOffLoopback`] where callers need not prove anything off loopback,
    /// [`ServeError::Bind`] where the address is taken.
    pub async fn bind(
        address: SocketAddr,
        rentals: Rentals,
        authenticator: impl Authenticator,
    ) -> Result<Self, ServeError> {
        if !address.ip().is_loopback() && !authenticator.is_guarded().await {
            return Err(ServeError::KeylessOffLoopback(address));
        }
        let failed = |source| ServeError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { address, listener, surfaces: Surfaces::new(rentals, authenticator) })
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
        let stop = self.surfaces.stopping();
        let token = stop.clone();
        tokio::spawn(async move {
            shutdown.await;
            token.cancel();
        });
        let router: Router = self.surfaces.router();
        let router = router.into_make_service_with_connect_info::<SocketAddr>();
        let serve = axum::serve(self.listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        let too_late = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            result = async { serve.await } => result.map_err(ServeError::Io)?,
            () = too_late => tracing::warn!("requests were still under way when the server ended"),
        }
        drop(tokio::time::timeout(DRAIN, self.surfaces.stop()).await);
        Ok(())
    }
}
