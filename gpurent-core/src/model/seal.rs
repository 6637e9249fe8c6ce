//! Sealing: what must be shown again but must not lie in a database in clear.
//!
//! A sealed value names its key, so that keys can be rotated, and is bound to its rental, so that it
//! cannot be moved to another row.

use chacha20poly1305::aead::{Aead, Generate, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::ValidationError;
use crate::id::RentalId;

/// A sealed value as a store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Which key opens it.
    pub key_id: String,
    /// Nonce and ciphertext.
    pub bytes: Vec<u8>,
}

/// Why a sealed value could not be opened (or, practically never, sealed).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The value was sealed with another key; the operator has to bring that key back, or the value is lost.
    #[error("sealed with key {0}, which this process does not have")]
    UnknownKey(String),
    /// The value was altered, belongs to another rental, or the cipher refused.
    #[error("the sealed value does not belong here")]
    Forged,
}

/// Seals secrets at rest, and makes fingerprints that reveal nothing without the key.
pub trait Sealer: Send + Sync + 'static {
    /// Seals `plaintext` for one rental.
    ///
    /// # Errors
    /// [`SealError`] where the cipher refuses; the rental is then not made.
    fn seal(&self, rental: RentalId, plaintext: &[u8]) -> Result<Sealed, SealError>;

    /// Opens what was sealed for the same rental.
    ///
    /// # Errors
    /// [`SealError`]: the key is another, or the value was altered or moved.
    fn open(&self, rental: RentalId, sealed: &Sealed) -> Result<Vec<u8>, SealError>;

    /// A keyed hash, to tell whether two requests are the same without keeping their secrets.
    fn fingerprint(&self, message: &[u8]) -> Fingerprint;
}

/// See [`Sealer::fingerprint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub [u8; 32]);

/// Seals with XChaCha20-Poly1305 under one 256-bit key; fingerprints are HMAC-SHA-256 under a key
/// derived from it.
pub struct SealKey {
    id: String,
    cipher: XChaCha20Poly1305,
    /// One block of HMAC-SHA-256: a shorter key is filled up with zeros, as HMAC itself would.
    fingerprint_key: [u8; 64],
}

impl SealKey {
    /// Takes a key of 64 hexadecimal digits.
    ///
    /// # Errors
    /// Refuses anything else.
    pub fn from_hex(hex: &str) -> Result<Self, ValidationError> {
        let hex = hex.trim();
        let refused = || ValidationError::new("seal key", "must be 64 hexadecimal digits");
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(refused());
        }
        let mut key = [0u8; 32];
        for (byte, pair) in key.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let pair = str::from_utf8(pair).map_err(|_| refused())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| refused())?;
        }
        Ok(Self::new(key))
    }

    /// A random key and its hexadecimal form, to be kept somewhere safe.
    #[must_use]
    pub fn generate() -> (Self, String) {
        let key: [u8; 32] = rand::random();
        (Self::new(key), key.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn new(key: [u8; 32]) -> Self {
        // The id tells keys apart and tells nothing of them.
        let mut fingerprint_key = [0; 64];
        fingerprint_key[..32].copy_from_slice(&Sha256::digest([b"gpurent fingerprint".as_slice(), &key].concat()));
        let digest = Sha256::digest([b"gpurent key id".as_slice(), &key].concat());
        Self {
            id: digest[..4].iter().map(|byte| format!("{byte:02x}")).collect(),
            fingerprint_key,
            cipher: XChaCha20Poly1305::new(&Key::from(key)),
        }
    }
}

impl Sealer for SealKey {
    fn seal(&self, rental: RentalId, plaintext: &[u8]) -> Result<Sealed, SealError> {
        let nonce = XNonce::generate();
        let payload = Payload { msg: plaintext, aad: rental.as_uuid().as_bytes() };
        let ciphertext = self.cipher.encrypt(&nonce, payload).map_err(|_| SealError::Forged)?;
        Ok(Sealed { key_id: self.id.clone(), bytes: [nonce.as_slice(), &ciphertext].concat() })
    }

    fn open(&self, rental: RentalId, sealed: &Sealed) -> Result<Vec<u8>, SealError> {
        if sealed.key_id != self.id {
            return Err(SealError::UnknownKey(sealed.key_id.clone()));
        }
        let (nonce, ciphertext) = sealed.bytes.split_first_chunk::<24>().ok_or(SealError::Forged)?;
        let payload = Payload { msg: ciphertext, aad: rental.as_uuid().as_bytes() };
        self.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| SealError::Forged)
    }

    fn fingerprint(&self, message: &[u8]) -> Fingerprint {
        let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new(&self.fingerprint_key.into());
        mac.update(message);
        Fingerprint(mac.finalize().into_bytes().into())
    }
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_and_rental_open_a_seal() {
        let (key, hex) = SealKey::generate();
        let (rental, other) = (RentalId::generate(), RentalId::generate());
        let sealed = key.seal(rental, b"secret").unwrap();
        assert_eq!(SealKey::from_hex(&hex).unwrap().open(rental, &sealed).unwrap(), b"secret");
        assert!(matches!(key.open(other, &sealed), Err(SealError::Forged)));
        assert!(matches!(SealKey::generate().0.open(rental, &sealed), Err(SealError::UnknownKey(_))));
    }

    #[test]
    fn fingerprints_depend_on_message_and_key() {
        let (key, _) = SealKey::generate();
        assert_eq!(key.fingerprint(b"a"), key.fingerprint(b"a"));
        assert_ne!(key.fingerprint(b"a"), key.fingerprint(b"b"));
        assert_ne!(key.fingerprint(b"a"), SealKey::generate().0.fingerprint(b"a"));
    }
}
