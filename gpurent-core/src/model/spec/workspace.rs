//! A folder of the host that a container sees, and that outlives it.
//!
//! A renter names at most a part of the folder's name, never a path: where folders lie is the operator's
//! decision, and every renter has their own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::ValidationError;
use crate::id::{InstanceName, RenterId};

/// A folder that survives the container, and where the container sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// The folder, below the operator's root.
    pub folder: WorkspaceFolder,
    /// Where the container sees it.
    pub mount: MountPath,
}

/// A folder's name: one component of a path, and no renter's name gives another renter's folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkspaceFolder(String);

impl WorkspaceFolder {
    /// The renter's one folder. A name of letters, digits, `_`, `-` and inner dots stands for itself; anything
    /// else is written as in a URL.
    #[must_use]
    pub fn of(renter: &RenterId) -> Self {
        Self(escaped(renter.as_str()))
    }

    /// One of several folders of a renter.
    #[must_use]
    pub fn named(renter: &RenterId, name: &InstanceName) -> Self {
        Self(format!("{}@{}", escaped(renter.as_str()), escaped(name.as_str())))
    }

    /// Whether it is one of the renter's.
    #[must_use]
    pub fn is_of(&self, renter: &RenterId) -> bool {
        let own = escaped(renter.as_str());
        self.0.strip_prefix(&own).is_some_and(|rest| rest.is_empty() || rest.starts_with('@'))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// So much of a folder's name may be one of its two parts; longer ones end in a hash instead.
const PART: usize = 110;

fn escaped(name: &str) -> String {
    let text = escaped_whole(name);
    if text.len() <= PART {
        return text;
    }
    // No escape is written like this.
    let hash: String = Sha256::digest(name).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let begin: String = text.chars().take(PART - 40).collect();
    format!("{begin}%h{hash}")
}

fn escaped_whole(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for (n, byte) in name.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || (byte == b'.' && n > 0);
        if plain {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

impl TryFrom<String> for WorkspaceFolder {
    type Error = ValidationError;

    fn try_from(text: String) -> Result<Self, ValidationError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'%' | b'@');
        if text.is_empty() || text.len() > 240 || text.starts_with('.') || !text.bytes().all(plain) {
            return Err(ValidationError::new("workspace", "must be a plain folder name"));
        }
        Ok(Self(text))
    }
}

impl FromStr for WorkspaceFolder {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        Self::try_from(text.to_owned())
    }
}

impl From<WorkspaceFolder> for String {
    fn from(folder: WorkspaceFolder) -> Self {
        folder.0
    }
}

impl fmt::Display for WorkspaceFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An absolute path inside a container at which something may be mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MountPath(String);

/// Folders that a container cannot do without, or is protected by.
const NOT_BELOW: [&str; 15] = [
    "bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "proc", "run", "sbin", "sys", "usr", "var", ".gp", ".gpurent",
];

impl MountPath {
    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for MountPath {
    /// `/workspace`
    fn default() -> Self {
        Self("/workspace".to_owned())
    }
}

impl TryFrom<String> for MountPath {
    type Error = ValidationError;

    fn try_from(text: String) -> Result<Self, ValidationError> {
        let refused = |reason: &str| Err(ValidationError::new("mount", reason));
        let Some(inner) = text.strip_prefix('/').map(|inner| inner.trim_end_matches('/')) else {
            return refused("must be an absolute path");
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'+' | b'@');
        let is_name = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(plain);
        if inner.len() > 255 || !inner.split('/').all(is_name) {
            return refused("must be a path of plain names");
        }
        if inner.split('/').next().is_some_and(|first| NOT_BELOW.contains(&first)) {
            return refused("must not be in a folder of the system");
        }
        Ok(Self(format!("/{inner}")))
    }
}

impl FromStr for MountPath {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        Self::try_from(text.to_owned())
    }
}

impl From<MountPath> for String {
    fn from(path: MountPath) -> Self {
        path.0
    }
}

impl fmt::Display for MountPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn folder(renter: &str) -> String {
        WorkspaceFolder::of(&renter.parse().unwrap()).to_string()
    }

    #[test]
    fn a_plain_name_stands_for_itself_and_nothing_leads_out() {
        assert_eq!(folder("user1"), "user1");
        assert_eq!(folder("../esc/u1"), "%2E.%2Fesc%2Fu1");
        assert_eq!(folder("a@b"), "a%40b");
        assert_eq!(WorkspaceFolder::named(&"a".parse().unwrap(), &"b".parse().unwrap()).as_str(), "a@b");
        let long = "a/".repeat(64);
        assert!(folder(&long).len() <= 110 && folder(&long) != folder(&format!("{}b", &long[..127])));
        for wrong in ["", "..", ".hidden", "a/b", "a\0b"] {
            assert!(WorkspaceFolder::try_from(wrong.to_owned()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn nothing_is_mounted_over_the_system() {
        assert_eq!("/home/developer/workspace/".parse::<MountPath>().unwrap().as_str(), "/home/developer/workspace");
        for wrong in ["", "/", "workspace", "/etc", "/usr/bin", "/a/../etc", "/a//b", "/proc/1", "/.gpurent", "/a b"] {
            assert!(wrong.parse::<MountPath>().is_err(), "{wrong:?}");
        }
    }

    proptest! {
        /// Every name has a folder of its own, and every folder is one component that is read back.
        #[test]
        fn no_two_renters_share_a_folder(names in proptest::collection::btree_set("[a-zA-Z0-9._@:/+-]{1,12}", 1..20)) {
            let folders: BTreeSet<_> = names.iter().map(|name| WorkspaceFolder::of(&name.parse().unwrap())).collect();
            prop_assert_eq!(folders.len(), names.len());
            for folder in folders {
                prop_assert_eq!(WorkspaceFolder::try_from(folder.to_string()).unwrap(), folder);
            }
        }
    }
}
