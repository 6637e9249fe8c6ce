//! How a renter gets in: the login user, and a password or a public key.

use std::fmt;
use std::str::FromStr;

use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::invalid::Invalid;

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
    type Error = Invalid;

    fn try_from(name: String) -> Result<Self, Invalid> {
        let mut bytes = name.bytes();
        let well_formed = name.len() <= 32
            && bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_')
            && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'));
        if well_formed {
            Ok(Self(name))
        } else {
            Err(Invalid::new("user", "must be a user name of lower-case letters, digits, '_' and '-'"))
        }
    }
}

impl FromStr for LoginUser {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
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
    /// Refuses fewer than 4 and more than 256 bytes, and control characters.
    pub fn new(text: String) -> Result<Self, Invalid> {
        if !(4..=256).contains(&text.len()) || text.chars().any(char::is_control) {
            return Err(Invalid::new("password", "must be 4 to 256 bytes without control characters"));
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

/// An OpenSSH public key, canonical: algorithm and key alone, without options and comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(String);

impl PublicKey {
    /// The key as one line of `authorized_keys`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = Invalid;

    /// Reads one key. Options (`command=...`) and further lines would end up in `authorized_keys` with
    /// meanings of their own, so they are refused.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refused = |reason: &str| Invalid::new("ssh_key", reason);
        let text = text.trim();
        if text.len() > 16 * 1024 || text.chars().any(char::is_control) {
            return Err(refused("must be one line of at most 16 KiB"));
        }
        let mut key = ssh_key::PublicKey::from_openssh(text)
            .map_err(|_| refused("must be an OpenSSH public key such as 'ssh-ed25519 AAAA...'"))?;
        if key.algorithm().is_dsa() {
            return Err(refused("must not be a DSA key: no server accepts them any more"));
        }
        key.set_comment("");
        let line = key.to_openssh().map_err(|_| refused("cannot be written again as an OpenSSH key"))?;
        Ok(Self(line.trim_end().to_owned()))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a renter asks to get in.
#[derive(Clone, Debug)]
pub enum CredentialRequest {
    /// With this password.
    Password(Password),
    /// With this key.
    PublicKey(PublicKey),
    /// With a password that we make up.
    Generate,
}

impl CredentialRequest {
    /// The credential itself, made up where asked for.
    #[must_use]
    pub fn resolve(self) -> Credential {
        match self {
            Self::Password(password) => Credential::Password(password),
            Self::PublicKey(key) => Credential::PublicKey(key),
            Self::Generate => Credential::Password(Password::generate()),
        }
    }
}

/// How a renter gets in.
#[derive(Clone, Debug)]
pub enum Credential {
    /// With a password.
    Password(Password),
    /// With the private half of this key.
    PublicKey(PublicKey),
}

impl Credential {
    /// Which of the two it is.
    #[must_use]
    pub fn kind(&self) -> CredentialKind {
        match self {
            Self::Password(_) => CredentialKind::Password,
            Self::PublicKey(_) => CredentialKind::PublicKey,
        }
    }

    /// The bytes that are sealed in a store: a letter for the kind, then the text.
    #[must_use]
    pub fn to_plaintext(&self) -> Vec<u8> {
        match self {
            Self::Password(password) => [b"p", password.expose().as_bytes()].concat(),
            Self::PublicKey(key) => [b"k", key.as_str().as_bytes()].concat(),
        }
    }

    /// The reverse of [`Credential::to_plaintext`]; `None` for bytes that it never makes.
    #[must_use]
    pub fn from_plaintext(bytes: &[u8]) -> Option<Self> {
        let text = str::from_utf8(bytes.get(1..)?).ok()?;
        match bytes[0] {
            b'p' => Password::new(text.to_owned()).ok().map(Self::Password),
            b'k' => text.parse().ok().map(Self::PublicKey),
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
    pub fn new(username: String, password: String) -> Result<Self, Invalid> {
        let fine = |text: &str, most| !text.is_empty() && text.len() <= most && !text.chars().any(char::is_control);
        if !fine(&username, 256) {
            return Err(Invalid::new("registry.username", "must be 1 to 256 bytes without control characters"));
        }
        if !fine(&password, 8192) {
            return Err(Invalid::new("registry.password", "must be 1 byte to 8 KiB without control characters"));
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
    /// How the image is fetched, where its registry is private.
    pub registry: Option<RegistryLogin>,
}

/// The form of sealed secrets that hold more than a credential.
#[derive(Serialize, Deserialize)]
struct SealedForm {
    credential: Vec<u8>,
    username: String,
    password: String,
}

impl Secrets {
    /// The bytes that are sealed: those of the credential alone where there is nothing else.
    #[must_use]
    pub fn to_plaintext(&self) -> Vec<u8> {
        let credential = self.credential.to_plaintext();
        let Some(registry) = &self.registry else { return credential };
        let form =
            SealedForm { credential, username: registry.username.clone(), password: registry.expose().to_owned() };
        // A struct of strings and numbers always has a JSON form.
        [b"r".to_vec(), serde_json::to_vec(&form).unwrap_or_default()].concat()
    }

    /// The reverse of [`Secrets::to_plaintext`]; `None` for bytes that it never makes.
    #[must_use]
    pub fn from_plaintext(bytes: &[u8]) -> Option<Self> {
        let Some(json) = bytes.strip_prefix(b"r") else {
            return Some(Self { credential: Credential::from_plaintext(bytes)?, registry: None });
        };
        let form: SealedForm = serde_json::from_slice(json).ok()?;
        Some(Self {
            credential: Credential::from_plaintext(&form.credential)?,
            registry: Some(RegistryLogin::new(form.username, form.password).ok()?),
        })
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
    fn a_key_loses_its_comment_and_nothing_else() {
        let key: PublicKey = format!("{KEY} somebody@somewhere\n").parse().unwrap();
        assert_eq!(key.as_str(), KEY);
    }

    #[test]
    fn keys_with_options_or_further_lines_are_refused() {
        for text in [
            format!("command=\"id\" {KEY}"),
            format!("{KEY}\n{KEY}"),
            format!("{KEY}\nroot ALL=(ALL)"),
            "ssh-ed25519".to_owned(),
            "ssh-ed25519 AAAA".to_owned(),
            String::new(),
        ] {
            assert!(text.parse::<PublicKey>().is_err(), "{text:?}");
        }
    }

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
            credential: Credential::PublicKey(KEY.parse().unwrap()),
            registry: Some(RegistryLogin::new("me".to_owned(), "token".to_owned()).unwrap()),
        };
        let back = Secrets::from_plaintext(&secrets.to_plaintext()).unwrap();
        assert_eq!(back.credential.kind(), CredentialKind::PublicKey);
        assert_eq!(
            back.registry.map(|login| (login.username().to_owned(), login.expose().to_owned())),
            Some(("me".to_owned(), "token".to_owned()))
        );
        let plain = Secrets { registry: None, ..secrets };
        assert!(Secrets::from_plaintext(&plain.to_plaintext()).unwrap().registry.is_none());
        assert!(!format!("{plain:?}").contains("token"));
    }

    #[test]
    fn credentials_survive_the_way_through_a_store() {
        let credential = Credential::PublicKey(KEY.parse().unwrap());
        let Some(Credential::PublicKey(back)) = Credential::from_plaintext(&credential.to_plaintext()) else {
            panic!("not a key any more")
        };
        assert_eq!(back.as_str(), KEY);
    }
}
