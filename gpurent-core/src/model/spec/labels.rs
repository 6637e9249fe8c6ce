//! The labels that a renter gives a rental.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::ValidationError;

/// Every rental is read with all of its labels, again and again as long as it lives.
const MAX_LABEL_BYTES: usize = 16 * 1024;

/// Marks that a renter puts on a rental; gpurent gives them no meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// One label's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The labels in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = ValidationError;

    fn try_from(labels: BTreeMap<String, String>) -> Result<Self, ValidationError> {
        let name_is_plain = |name: &String| {
            !name.is_empty()
                && name.len() <= 128
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'))
        };
        let value_is_plain = |value: &String| value.len() <= 1024 && !value.chars().any(char::is_control);
        if labels.len() > 64 || !labels.keys().all(name_is_plain) || !labels.values().all(value_is_plain) {
            return Err(ValidationError::new("labels", "must be at most 64, names of letters, digits and . _ - /"));
        }
        if labels.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_LABEL_BYTES {
            return Err(ValidationError::new("labels", "must be at most 16 KiB altogether"));
        }
        if labels.keys().any(|name| name.starts_with("io.gpurent")) {
            return Err(ValidationError::new("labels", "names under io.gpurent are the host's"));
        }
        Ok(Self(labels))
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}
