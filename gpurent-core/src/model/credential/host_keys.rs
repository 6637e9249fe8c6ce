//! The keys by which a renter knows that the server they reach is their rental.
//!
//! They belong to the rental: sealed in the store, the same over relaunch, suspend and resume.

use secrecy::{ExposeSecret, SecretString};
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, EcdsaCurve, LineEnding, PrivateKey};

use crate::error::ValidationError;
use crate::model::PublicKey;

/// A server's key. Its private half is never printed.
#[derive(Clone, Debug)]
pub struct HostKey {
    private: SecretString,
    public: PublicKey,
}

impl HostKey {
    /// Takes a private key in OpenSSH's form, without a passphrase.
    ///
    /// # Errors
    /// Refuses anything else, without repeating it.
    pub fn from_openssh(text: String) -> Result<Self, ValidationError> {
        let wrong =
            || ValidationError::new("host_key", "must be a private key in OpenSSH's form, without a passphrase");
        let key = PrivateKey::from_openssh(&text).map_err(|_| wrong())?;
        if key.is_encrypted() {
            return Err(wrong());
        }
        Ok(Self { private: text.into(), public: PublicKey::canonical(key.public_key().clone())? })
    }

    fn generate(algorithm: Algorithm) -> Option<Self> {
        let key = PrivateKey::random(&mut OsRng, algorithm).ok()?;
        let text = key.to_openssh(LineEnding::LF).ok()?;
        Self::from_openssh(text.to_string()).ok()
    }

    /// The private half in clear: for the server alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.private.expose_secret()
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }
}

/// A rental's host keys, one for each algorithm; none where an earlier version made the rental.
#[derive(Clone, Debug, Default)]
pub struct HostKeys(Vec<HostKey>);

impl HostKeys {
    /// The keys.
    pub fn iter(&self) -> impl Iterator<Item = &HostKey> {
        self.0.iter()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The public halves.
    #[must_use]
    pub fn public(&self) -> Vec<PublicKey> {
        self.0.iter().map(|key| key.public.clone()).collect()
    }

    /// Lines of a file `known_hosts` (sshd(8)) for a server that is called so.
    #[must_use]
    pub fn known_hosts(&self, name: &str) -> String {
        self.0.iter().map(|key| format!("{name} {}\n", key.public)).collect()
    }
}

impl FromIterator<HostKey> for HostKeys {
    fn from_iter<T: IntoIterator<Item = HostKey>>(keys: T) -> Self {
        Self(keys.into_iter().collect())
    }
}

/// Where the host keys of new rentals come from.
pub trait HostKeySource: Send + Sync + 'static {
    /// Keys for one rental, at once: a source that takes its time to make some keeps a stock.
    fn next(&self) -> HostKeys;
}

impl<F: Fn() -> HostKeys + Send + Sync + 'static> HostKeySource for F {
    fn next(&self) -> HostKeys {
        self()
    }
}

/// Makes an Ed25519 and an ECDSA key for each rental. An RSA key takes too long to be made on the way of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct GeneratedHostKeys;

impl HostKeySource for GeneratedHostKeys {
    fn next(&self) -> HostKeys {
        let algorithms = [Algorithm::Ed25519, Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }];
        // Without the system's randomness nothing could be sealed either.
        algorithms.into_iter().filter_map(HostKey::generate).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_each_rentals_own_and_print_no_secret() {
        let (a, b) = (GeneratedHostKeys.next(), GeneratedHostKeys.next());
        assert_eq!(
            a.iter().map(|key| key.public().algorithm()).collect::<Vec<_>>(),
            ["ssh-ed25519", "ecdsa-sha2-nistp256"]
        );
        assert_ne!(a.known_hosts("x"), b.known_hosts("x"));
        assert!(!format!("{a:?}").contains("OPENSSH"));
        let again = HostKey::from_openssh(a.iter().next().unwrap().expose().to_owned()).unwrap();
        assert_eq!(again.public(), a.iter().next().unwrap().public());
        let wrong = HostKey::from_openssh("-----BEGIN OPENSSH PRIVATE KEY-----\nsecret".to_owned()).unwrap_err();
        assert!(!wrong.to_string().contains("secret"));
    }
}
