//! Image references in the grammar of the OCI distribution specification.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::ValidationError;

/// A reference to a container image: `[registry/]path[:tag][@digest]`.
///
/// The grammar is that of <https://github.com/distribution/reference>; nothing is resolved or completed
/// here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef(String);

impl ImageRef {
    /// The reference as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part that names the image, without tag and digest.
    #[must_use]
    pub fn name(&self) -> &str {
        let bare = self.0.split_once('@').map_or(self.0.as_str(), |(bare, _)| bare);
        split_tag(bare).0
    }

    /// The part of a name that selects one image: the digest if there is one, else the tag, else `latest`.
    #[must_use]
    pub fn selector(&self) -> &str {
        match self.0.split_once('@') {
            Some((_, digest)) => digest,
            None => split_tag(&self.0).1.unwrap_or("latest"),
        }
    }
}

impl ImageRef {
    /// Whether the reference selects its image by a digest, whose meaning no registry can change.
    #[must_use]
    pub fn has_digest(&self) -> bool {
        self.0.contains('@')
    }

    /// The same image, but exactly what has this digest, whatever its tag comes to mean.
    #[must_use]
    pub fn pinned(&self, digest: &ImageDigest) -> Self {
        Self(format!("{}@{}", self.name(), digest.0))
    }
}

/// The hash of an image's content: `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageDigest(String);

impl ImageDigest {
    /// The digest with its algorithm.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ImageDigest {
    type Error = ValidationError;

    fn try_from(text: String) -> Result<Self, ValidationError> {
        if is_digest(&text) {
            Ok(Self(text))
        } else {
            Err(ValidationError::new("digest", "must be sha256: and 64 hex digits"))
        }
    }
}

impl FromStr for ImageDigest {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        Self::try_from(text.to_owned())
    }
}

impl From<ImageDigest> for String {
    fn from(digest: ImageDigest) -> String {
        digest.0
    }
}

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The image that a container was made of: what its reference meant on the engine then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedImage {
    /// The digest in its registry; `None` where it was never in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<ImageDigest>,
    /// The time at which it was built, as far as its maker says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_at: Option<Timestamp>,
    /// The time at which the engine last got it under its tag: what the tag has come to mean since then is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched_at: Option<Timestamp>,
}

/// Splits off a tag: a colon after the last slash (one before it belongs to the registry's port).
fn split_tag(bare: &str) -> (&str, Option<&str>) {
    let path_at = bare.rfind('/').map_or(0, |slash| slash + 1);
    match bare[path_at..].find(':') {
        Some(colon) => (&bare[..path_at + colon], Some(&bare[path_at + colon + 1..])),
        None => (bare, None),
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128 && tag.bytes().next().is_some_and(word) && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let known = [("sha256:", 64), ("sha512:", 128)];
    known.iter().any(|(algorithm, length)| {
        digest
            .strip_prefix(algorithm)
            .is_some_and(|hex| hex.len() == *length && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    })
}

/// Lower-case letters and digits, separated by one dot, one or two underscores, or any dashes.
fn is_path_component(part: &str) -> bool {
    let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    part.starts_with(alnum)
        && part.ends_with(alnum)
        && part.split(alnum).all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.chars().all(|c| c == '-'))
}

fn is_registry(host: &str) -> bool {
    let (name, port) = host.rsplit_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    name.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

impl TryFrom<String> for ImageRef {
    type Error = ValidationError;

    fn try_from(text: String) -> Result<Self, ValidationError> {
        let refused = || ValidationError::new("image", "must be an image reference such as ubuntu:22.04");
        if text.len() > 512 {
            return Err(refused());
        }
        let (bare, digest) = text.split_once('@').map_or((text.as_str(), None), |(b, d)| (b, Some(d)));
        let (name, tag) = split_tag(bare);
        // The first part is a registry if it looks like a host: the rule of Docker's own clients.
        let path = match name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => {
                if !is_registry(host) {
                    return Err(refused());
                }
                path
            }
            _ => name,
        };
        let well_formed = name.len() <= 255
            && path.split('/').all(is_path_component)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(is_digest);
        if well_formed { Ok(Self(text)) } else { Err(refused()) }
    }
}

impl FromStr for ImageRef {
    type Err = ValidationError;

    /// Reads it with blanks around it, as people paste them. A line feed is more than that.
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        Self::try_from(text.trim_matches([' ', '\t']).to_owned())
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> String {
        image.0
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_that_docker_accepts() {
        let digest = format!("a/b@sha256:{}", "0".repeat(64));
        for (text, name, selector) in [
            ("ubuntu:20.04", "ubuntu", "20.04"),
            ("busybox", "busybox", "latest"),
            ("localhost:5000/team/img:v1", "localhost:5000/team/img", "v1"),
            ("ghcr.io/a/b_c__d.e--f", "ghcr.io/a/b_c__d.e--f", "latest"),
            (digest.as_str(), "a/b", &digest[4..]),
        ] {
            let image: ImageRef = text.parse().unwrap();
            assert_eq!((image.name(), image.selector()), (name, selector), "{text}");
        }
    }

    #[test]
    fn references_that_are_none() {
        for text in [
            "",
            ":tag",
            "UPPER",
            "a//b",
            "a/",
            "a b",
            "a:",
            "a@sha256:12",
            "-a",
            "a\n",
            "../x",
            "a.-b",
            "a:b c",
            "h:99999/x",
        ] {
            assert!(text.parse::<ImageRef>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_reads_the_same_again(text in "[a-zA-Z0-9./:@_\\- ]{0,40}") {
            if let Ok(image) = text.parse::<ImageRef>() {
                prop_assert_eq!(image.to_string(), text.trim_matches(' '));
                prop_assert!(!image.name().is_empty() && !image.selector().is_empty());
            }
        }
    }
}
