//! TLS from files, read again whenever they change: certificates are renewed under a running host.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How often the files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read, or has no certificate or key in it (PEM).
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate and key do not go together, or are of a kind that is not spoken.
    #[error("the certificate in {path} cannot be used with its key")]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// A certificate with its chain, and its key, in two PEM files.
#[derive(Clone)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    acceptor: Arc<RwLock<TlsAcceptor>>,
}

impl Tls {
    /// Reads both files.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let acceptor = read(certificate, key)?;
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), acceptor: Arc::new(RwLock::new(acceptor)) })
    }

    /// Agrees with a client on TLS.
    pub(super) async fn agree(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = self.acceptor.read().unwrap_or_else(PoisonError::into_inner).clone();
        acceptor.accept(stream).await
    }

    /// Reads the files again whenever they change, for ever. What cannot be used is told of, and the old one goes on:
    /// a certificate and its key are seldom replaced in one moment.
    pub(super) async fn watch(self) {
        let mut seen = self.stamp().await;
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            let now = self.stamp().await;
            if now == seen {
                continue;
            }
            let (certificate, key) = (self.certificate.clone(), self.key.clone());
            match tokio::task::spawn_blocking(move || read(&certificate, &key)).await {
                Ok(Ok(acceptor)) => {
                    *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
                    seen = now;
                    tracing::info!(certificate = %self.certificate.display(), "TLS certificate read again");
                }
                Ok(Err(error)) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "the new certificate is not used");
                }
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "the new certificate was not read");
                }
            }
        }
    }

    async fn stamp(&self) -> [Option<SystemTime>; 2] {
        let changed = async |path: &Path| tokio::fs::metadata(path).await.and_then(|found| found.modified()).ok();
        [changed(&self.certificate).await, changed(&self.key).await]
    }
}

fn read(certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Read { path, source }
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).map_err(failed(certificate))?.collect();
    let chain = chain.map_err(failed(certificate))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(failed(key))?;
    let unusable = |source| TlsError::Unusable { path: certificate.to_owned(), source };
    // Named here, so that a library that uses this one need not choose for the whole process.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config.map_err(unusable)?.with_no_client_auth().with_single_cert(chain, key).map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
