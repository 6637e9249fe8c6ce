//! How a renter gets in: the login user, a password or public keys, and the keys by which they know the server.

mod host_keys;
mod public_key;

use std::str::FromStr;

pub use host_keys::{GeneratedHostKeys, HostKey, HostKeySource, HostKeys};
pub use public_key::{PublicKey, PublicKeys};
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::error::ValidationError;

/// The user a renter logs in as; the access kit creates it where the image has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LoginUser(String);

impl LoginUser {
    /// The user's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the superuser of the container.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0 == "root"
    }
}

impl Default for LoginUser {
    fn default() -> Self {
        Self("root".to_owned())
    }
}

impl TryFrom<String> for LoginUser {
    type Error = ValidationError;

    fn try_from(name: String) -> Result<Self, ValidationError> {
        let mut bytes = name.bytes();
        let well_formed = name.len() <= 32
            && bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_')
            && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'));
        if well_formed {
            Ok(Self(name))
        } else {
            Err(ValidationError::new("user", "must be a user name of lower-case letters, digits, '_' and '-'"))
        }
    }
}

impl FromStr for LoginUser {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        Self::try_from(text.to_owned())
    }
}

impl From<LoginUser> for String {
    fn from(user: LoginUser) -> String {
        user.0
    }
}

/// A password for SSH; never printed, not even by `Debug`.
#[derive(Clone, Debug)]
pub struct Password(SecretString);

impl Password {
    /// Takes a renter's password.
    ///
    /// # Errors
    /// Refuses fewer than 7 and more than 256 bytes, and control characters.
    pub fn new(text: String) -> Result<Self, ValidationError> {
        if !(7..=256).contains(&text.len()) || text.chars().any(char::is_control) {
            return Err(ValidationError::new("password", "must be 7 to 256 bytes without control characters"));
        }
        Ok(Self(text.into()))
    }

    /// Makes up 24 letters and digits: 142 bits.
    #[must_use]
    pub fn generate() -> Self {
        const ALPHABET: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz0123456789";
        let mut rng = rand::rng();
        let text: String = (0..24).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect();
        Self(text.into())
    }

    /// The password in clear: for hashing it, or for showing it to its renter.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

/// How a renter asks to get in.
#[derive(Clone, Debug)]
pub enum CredentialRequest {
    /// With this password.
    Password(Password),
    /// With one of these keys.
    PublicKeys(PublicKeys),
    /// With a password that we make up.
    Generate,
}

impl CredentialRequest {
    /// The credential itself, made up where asked for.
    #[must_use]
    pub fn resolve(self) -> Credential {
        match self {
            Self::Password(password) => Credential::Password(password),
            Self::PublicKeys(keys) => Credential::PublicKeys(keys),
            Self::Generate => Credential::Password(Password::generate()),
        }
    }
}

/// How a renter gets in.
#[derive(Clone, Debug)]
pub enum Credential {
    /// With a password.
    Password(Password),
    /// With the private half of one of these keys.
    PublicKeys(PublicKeys),
}

impl Credential {
    /// Which of the two it is.
    #[must_use]
    pub fn kind(&self) -> CredentialKind {
        match self {
            Self::Password(_) => CredentialKind::Password,
            Self::PublicKeys(_) => CredentialKind::PublicKey,
        }
    }

    /// The bytes that are sealed in a store: a letter for the kind, then the text.
    #[must_use]
    pub fn to_plaintext(&self) -> Vec<u8> {
        match self {
            Self::Password(password) => [b"p", password.expose().as_bytes()].concat(),
            Self::PublicKeys(keys) => [b"k", keys.to_string().as_bytes()].concat(),
        }
    }

    /// The reverse of [`Credential::to_plaintext`]; `None` for bytes that it never makes.
    #[must_use]
    pub fn from_plaintext(bytes: &[u8]) -> Option<Self> {
        let text = str::from_utf8(bytes.get(1..)?).ok()?;
        match bytes[0] {
            // A former version took shorter ones.
            b'p' if text.len() <= 256 => Some(Self::Password(Password(text.to_owned().into()))),
            b'k' => text.parse().ok().map(Self::PublicKeys),
            _ => None,
        }
    }
}

/// How to log in to a private image registry. Never printed.
#[derive(Clone, Debug)]
pub struct RegistryLogin {
    username: String,
    password: SecretString,
}

impl RegistryLogin {
    /// Takes a user name and a password or token.
    ///
    /// # Errors
    /// Refuses what is empty, too long (256 bytes and 8 KiB) or has control characters.
    pub fn new(username: String, password: String) -> Result<Self, ValidationError> {
        let fine = |text: &str, most| !text.is_empty() && text.len() <= most && !text.chars().any(char::is_control);
        if !fine(&username, 256) {
            return Err(ValidationError::new("registry.username", "must be 1 to 256 bytes without control characters"));
        }
        if !fine(&password, 8192) {
            return Err(ValidationError::new(
                "registry.password",
                "must be 1 byte to 8 KiB without control characters",
            ));
        }
        Ok(Self { username, password: password.into() })
    }

    /// The user name.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The password or token in clear: for the engine, which passes it on to the registry.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.password.expose_secret()
    }
}

/// Everything of a rental that a store keeps sealed and erases with its end.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// How the renter gets in.
    pub credential: Credential,
    /// The keys by which the renter knows the server. None where an earlier version made the rental.
    pub host_keys: HostKeys,
    /// How the image is fetched, where its registry is private.
    pub registry: Option<RegistryLogin>,
}

/// The form of sealed secrets that hold more than a credential.
#[derive(Serialize, Deserialize)]
struct SealedForm {
    credential: Vec<u8>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    host_keys: Vec<String>,
    /// Of the registry; empty where there is none.
    username: String,
    password: String,
}

impl Secrets {
    /// The bytes that are sealed: those of the credential alone where there is nothing else.
    #[must_use]
    pub fn to_plaintext(&self) -> Vec<u8> {
        let credential = self.credential.to_plaintext();
        if self.registry.is_none() && self.host_keys.is_empty() {
            return credential;
        }
        let login = self.registry.as_ref().map(|login| (login.username.clone(), login.expose().to_owned()));
        let (username, password) = login.unwrap_or_default();
        let host_keys = self.host_keys.iter().map(|key| key.expose().to_owned()).collect();
        let form = SealedForm { credential, host_keys, username, password };
        // A struct of strings and numbers always has a JSON form.
        [b"r".to_vec(), serde_json::to_vec(&form).unwrap_or_default()].concat()
    }

    /// The reverse of [`Secrets::to_plaintext`]; `None` for bytes that it never makes.
    #[must_use]
    pub fn from_plaintext(bytes: &[u8]) -> Option<Self> {
        let Some(json) = bytes.strip_prefix(b"r") else {
            let credential = Credential::from_plaintext(bytes)?;
            return Some(Self { credential, host_keys: HostKeys::default(), registry: None });
        };
        let form: SealedForm = serde_json::from_slice(json).ok()?;
        let registry = match form.username.is_empty() {
            true => None,
            false => Some(RegistryLogin::new(form.username, form.password).ok()?),
        };
        let host_keys = form.host_keys.into_iter().map(HostKey::from_openssh).collect::<Result<_, _>>().ok()?;
        Some(Self { credential: Credential::from_plaintext(&form.credential)?, host_keys, registry })
    }
}

/// Password or key, without the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    /// A password.
    Password,
    /// A public key.
    PublicKey,
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB9dG4kjRhQTtWTVzd2t27+t0DEHBPW7iOD23TUiYLio";

    #[test]
    fn passwords_stay_out_of_debug_output() {
        let password = Password::new("hunter2hunter2".to_owned()).unwrap();
        assert!(!format!("{password:?}").contains("hunter2"));
        assert!(Password::new("a\nroot:x".to_owned()).is_err());
        assert_eq!(Password::generate().expose().len(), 24);
    }

    #[test]
    fn secrets_survive_the_way_through_a_store() {
        let secrets = Secrets {
            credential: Credential::PublicKeys(KEY.parse().unwrap()),
            host_keys: GeneratedHostKeys.next(),
            registry: Some(RegistryLogin::new("me".to_owned(), "token".to_owned()).unwrap()),
        };
        let back = Secrets::from_plaintext(&secrets.to_plaintext()).unwrap();
        assert_eq!(back.credential.kind(), CredentialKind::PublicKey);
        assert_eq!(
            back.registry.map(|login| (login.username().to_owned(), login.expose().to_owned())),
            Some(("me".to_owned(), "token".to_owned()))
        );
        assert_eq!(back.host_keys.known_hosts("here"), secrets.host_keys.known_hosts("here"));
        let plain = Secrets { registry: None, ..secrets };
        let back = Secrets::from_plaintext(&plain.to_plaintext()).unwrap();
        assert!(back.registry.is_none() && back.host_keys.iter().count() == 2);
        let alone = Secrets { host_keys: HostKeys::default(), ..plain.clone() };
        assert_eq!(alone.to_plaintext(), plain.credential.to_plaintext(), "as before there were host keys");
        assert!(!format!("{plain:?}").contains("token"));
    }

    #[test]
    fn credentials_survive_the_way_through_a_store() {
        let credential = Credential::PublicKeys(KEY.parse().unwrap());
        let Some(Credential::PublicKeys(back)) = Credential::from_plaintext(&credential.to_plaintext()) else {
            panic!("not a key any more")
        };
        assert_eq!(back.to_string(), KEY);
    }
}
