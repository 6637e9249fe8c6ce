//! Public keys that renters log in with.

use std::fmt;
use std::str::FromStr;

use ssh_key::public::KeyData;

use crate::error::ValidationError;

/// How many keys a rental may have.
const MOST_KEYS: usize = 16;
/// A key with its comment, in bytes.
const MOST_BYTES: usize = 16 * 1024;
/// The shortest RSA key: shorter ones can be broken, and OpenSSH refuses them (`RequiredRSASize`, ssh_config(5)).
const LEAST_RSA_BITS: usize = 2048;

/// An OpenSSH public key, canonical: algorithm and key alone, without options and comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(String);

impl PublicKey {
    /// The key as one line of `authorized_keys`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key's SHA-256 fingerprint as OpenSSH writes it, such as `SHA256:XecL...`.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let key = ssh_key::PublicKey::from_openssh(&self.0);
        key.map(|key| key.fingerprint(ssh_key::HashAlg::Sha256).to_string()).unwrap_or_default()
    }

    /// The key's algorithm, such as `ssh-ed25519`.
    #[must_use]
    pub fn algorithm(&self) -> &str {
        self.0.split(' ').next().unwrap_or_default()
    }

    pub(super) fn canonical(mut key: ssh_key::PublicKey) -> Result<Self, ValidationError> {
        key.set_comment("");
        let line = key.to_openssh().map_err(|_| refused("cannot be written again as an OpenSSH key"))?;
        Ok(Self(line.trim_end().to_owned()))
    }
}

fn refused(reason: &str) -> ValidationError {
    ValidationError::new("ssh_key", reason)
}

/// Takes off what editors and clipboards put around a key.
fn stripped(text: &str) -> &str {
    text.trim_start_matches('\u{feff}').trim()
}

fn refuse_private(text: &str) -> Result<(), ValidationError> {
    if text.contains("PRIVATE KEY") {
        return Err(refused("is a private key: keep it to yourself, and give the public one (from the file .pub)"));
    }
    Ok(())
}

impl FromStr for PublicKey {
    type Err = ValidationError;

    /// Reads one key, with blanks as people leave them, and any comment. Options (`command=...`) and further lines would
    /// end up in `authorized_keys` with meanings of their own, so they are refused.
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        refuse_private(text)?;
        let text = stripped(text);
        if text.len() > MOST_BYTES || text.chars().any(|c| c.is_control() && c != '\t') {
            return Err(refused("must be one line of at most 16 KiB"));
        }
        let wrong = || refused("must be an OpenSSH public key such as 'ssh-ed25519 AAAA...'");
        let mut words = text.split_whitespace();
        let (algorithm, key) = words.next().zip(words.next()).ok_or_else(wrong)?;
        let key = ssh_key::PublicKey::from_openssh(&format!("{algorithm} {key}")).map_err(|_| wrong())?;
        match key.key_data() {
            KeyData::Dsa(_) => return Err(refused("must not be a DSA key: no server accepts them any more")),
            KeyData::Rsa(rsa) if bits(&rsa.n) < LEAST_RSA_BITS => {
                return Err(refused("must be an RSA key of at least 2048 bits"));
            }
            _ => {}
        }
        Self::canonical(key)
    }
}

fn bits(number: &ssh_key::Mpint) -> usize {
    let bytes = number.as_positive_bytes().unwrap_or_default();
    let unused = bytes.first().map_or(0, |first| first.leading_zeros() as usize);
    (bytes.len() * 8).saturating_sub(unused)
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One to sixteen public keys, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKeys(Vec<PublicKey>);

impl PublicKeys {
    /// Takes keys; one that comes twice counts once.
    ///
    /// # Errors
    /// Refuses none, and more than sixteen.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Result<Self, ValidationError> {
        let mut found: Vec<PublicKey> = Vec::new();
        for key in keys {
            if !found.contains(&key) {
                found.push(key);
            }
            if found.len() > MOST_KEYS {
                return Err(refused("must be at most 16 keys"));
            }
        }
        if found.is_empty() {
            return Err(refused("must be at least one OpenSSH public key such as 'ssh-ed25519 AAAA...'"));
        }
        Ok(Self(found))
    }

    /// The keys.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.iter()
    }

    /// Adds a key to these.
    ///
    /// # Errors
    /// Refuses more than sixteen.
    pub fn with(&self, key: PublicKey) -> Result<Self, ValidationError> {
        Self::new(self.0.iter().cloned().chain([key]))
    }

    /// Removes the key that has this fingerprint from these.
    ///
    /// # Errors
    /// Refuses to take the last one away: nobody could log in any more.
    pub fn without(&self, fingerprint: &str) -> Result<Self, ValidationError> {
        let left: Vec<_> = self.0.iter().filter(|key| key.fingerprint() != fingerprint).cloned().collect();
        if left.is_empty() {
            return Err(refused("is the last one: nobody could log in any more"));
        }
        Self::new(left)
    }
}

impl From<PublicKey> for PublicKeys {
    fn from(key: PublicKey) -> Self {
        Self(vec![key])
    }
}

impl FromStr for PublicKeys {
    type Err = ValidationError;

    /// Reads keys, one a line, as a file `authorized_keys` has them: empty lines and comments count for nothing.
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        refuse_private(text)?;
        let lines = stripped(text).split(['\n', '\r']).map(str::trim);
        let keys = lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::parse);
        Self::new(keys.collect::<Result<Vec<PublicKey>, ValidationError>>()?)
    }
}

impl fmt::Display for PublicKeys {
    /// A line for each, without a line feed at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, key) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            f.write_str(key.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB9dG4kjRhQTtWTVzd2t27+t0DEHBPW7iOD23TUiYLio";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPSllXLsMtMHg27B2x0cLvzd8MkV2itHsLVBjgd7KwRg";

    #[test]
    fn a_key_loses_its_comment_and_nothing_else() {
        let (algorithm, key) = KEY.split_once(' ').unwrap();
        for text in [
            format!("{KEY} somebody@somewhere\n"),
            format!("{algorithm}  {key}   two blanks"),
            format!("{algorithm}\t{key}\ttab"),
            format!("{KEY} windows\r\n"),
            format!("\u{feff}{KEY}"),
            format!("  {KEY} \u{6211}\u{7684}\u{7535}\u{8111}"),
        ] {
            assert_eq!(text.parse::<PublicKey>().unwrap().as_str(), KEY, "{text:?}");
        }
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
    fn a_private_key_is_refused_by_that_word_and_not_repeated() {
        let text = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
        for error in [text.parse::<PublicKey>().unwrap_err(), text.parse::<PublicKeys>().unwrap_err()] {
            let said = error.to_string();
            assert!(said.contains("private key") && !said.contains("b3BlbnNz"), "{said}");
        }
    }

    #[test]
    fn rsa_keys_that_are_too_short_are_refused() {
        // The key material is no key; its length is what counts.
        let of = |bytes: usize| {
            let modulus = ssh_key::Mpint::from_positive_bytes(&vec![0xff; bytes]).unwrap();
            let exponent = ssh_key::Mpint::from_positive_bytes(&[1, 0, 1]).unwrap();
            let data = KeyData::Rsa(ssh_key::public::RsaPublicKey { e: exponent, n: modulus });
            ssh_key::PublicKey::new(data, "").to_openssh().unwrap().parse::<PublicKey>()
        };
        assert!(of(128).unwrap_err().to_string().contains("2048"));
        assert_eq!(of(256).unwrap().algorithm(), "ssh-rsa");
    }

    #[test]
    fn several_keys_are_several_lines() {
        let keys: PublicKeys = format!("# mine\r\n{KEY} a\r\n\n{OTHER} b\n{KEY} again\n").parse().unwrap();
        assert_eq!(keys.to_string(), format!("{KEY}\n{OTHER}"));
        let one: PublicKey = KEY.parse().unwrap();
        let left = keys.without(&one.fingerprint()).unwrap();
        assert_eq!(left.to_string(), OTHER);
        let last = left.iter().next().unwrap().fingerprint();
        assert!(last.starts_with("SHA256:") && left.without(&last).is_err());
        assert_eq!(left.with(one).unwrap().iter().count(), 2);
        assert!("".parse::<PublicKeys>().is_err() && "# none".parse::<PublicKeys>().is_err());
    }
}
