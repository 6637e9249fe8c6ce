//! Environment variables that a renter sets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::invalid::Invalid;

/// Names and values for a container's environment.
///
/// Refused are names that would reach around the isolation: `NVIDIA_*` chooses GPUs by itself,
/// `LD_PRELOAD` and `LD_AUDIT` load code into our own entry point, `GPURENT_*` is ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Environment(BTreeMap<String, String>);

const MAX_VARIABLES: usize = 256;
const MAX_BYTES: usize = 64 * 1024;

impl Environment {
    /// The variables in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of one variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 256
        && bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn is_reserved(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    upper.starts_with("NVIDIA_") || upper.starts_with("GPURENT_") || upper == "LD_PRELOAD" || upper == "LD_AUDIT"
}

impl TryFrom<BTreeMap<String, String>> for Environment {
    type Error = Invalid;

    fn try_from(variables: BTreeMap<String, String>) -> Result<Self, Invalid> {
        let refused = |reason: &str| Err(Invalid::new("environment", reason));
        let bytes: usize = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
        if variables.len() > MAX_VARIABLES || bytes > MAX_BYTES {
            return refused("must be at most 256 variables and 64 KiB");
        }
        if !variables.keys().all(|name| is_name(name)) {
            return refused("names must be letters, digits and '_', and not begin with a digit");
        }
        if let Some(name) = variables.keys().find(|name| is_reserved(name)) {
            return refused(&format!("{name} is set by the host"));
        }
        if variables.values().any(|value| value.contains('\0')) {
            return refused("values must not contain NUL");
        }
        Ok(Self(variables))
    }
}

impl From<Environment> for BTreeMap<String, String> {
    fn from(environment: Environment) -> Self {
        environment.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str, value: &str) -> Result<Environment, Invalid> {
        BTreeMap::from([(name.to_owned(), value.to_owned())]).try_into()
    }

    #[test]
    fn ordinary_variables_pass() {
        assert_eq!(environment("PYTHONPATH", "/workspace").unwrap().get("PYTHONPATH"), Some("/workspace"));
        assert!(environment("CUDA_VISIBLE_DEVICES", "0").is_ok());
        assert!(environment("LD_LIBRARY_PATH", "/opt/lib").is_ok());
    }

    #[test]
    fn hostile_variables_are_refused() {
        for name in
            ["", "1A", "A B", "A=B", "a\n", "NVIDIA_VISIBLE_DEVICES", "nvidia_x", "Ld_Preload", "LD_AUDIT", "GPURENT_X"]
        {
            assert!(environment(name, "x").is_err(), "{name:?}");
        }
        assert!(environment("A", "x\0y").is_err());
        assert!(environment("A", &"x".repeat(70_000)).is_err());
    }
}
