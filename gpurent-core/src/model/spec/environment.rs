//! Environment variables that a renter sets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::ValidationError;

/// Names and values for a container's environment.
///
/// Names are what a container engine takes: anything without `=` and NUL, dots and dashes included. Refused are names that
/// would reach around the isolation: `NVIDIA_*` chooses GPUs by itself, but for `NVIDIA_DRIVER_CAPABILITIES`, which says
/// what is used of them; `LD_PRELOAD` and `LD_AUDIT` load code into whatever starts; `GPURENT_*` is ours.
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
    (1..=256).contains(&name.len())
        && !name.contains(['=', '\0'])
        && !name.chars().any(|c| c.is_control() || c.is_whitespace())
}

const DRIVER_CAPABILITIES: &str = "NVIDIA_DRIVER_CAPABILITIES";

/// Whether these are capabilities that the NVIDIA container toolkit knows
/// (<https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/docker-specialized.html#driver-capabilities>).
fn are_capabilities(value: &str) -> bool {
    let known = ["all", "compute", "compat32", "display", "graphics", "ngx", "utility", "video"];
    value.split(',').all(|capability| known.contains(&capability))
}

fn is_reserved(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    (upper.starts_with("NVIDIA_") && name != DRIVER_CAPABILITIES)
        || upper.starts_with("GPURENT_")
        || upper == "LD_PRELOAD"
        || upper == "LD_AUDIT"
}

impl TryFrom<BTreeMap<String, String>> for Environment {
    type Error = ValidationError;

    fn try_from(variables: BTreeMap<String, String>) -> Result<Self, ValidationError> {
        let refused = |reason: &str| Err(ValidationError::new("environment", reason));
        let bytes: usize = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
        if variables.len() > MAX_VARIABLES || bytes > MAX_BYTES {
            return refused("must be at most 256 variables and 64 KiB");
        }
        if !variables.keys().all(|name| is_name(name)) {
            return refused("names must be 1 to 256 bytes without '=', blanks and control characters");
        }
        if let Some(name) = variables.keys().find(|name| is_reserved(name)) {
            return refused(&format!("{name} is set by the host"));
        }
        if variables.get(DRIVER_CAPABILITIES).is_some_and(|value| !are_capabilities(value)) {
            return refused("NVIDIA_DRIVER_CAPABILITIES must be a list such as 'compute,utility,video'");
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

    fn environment(name: &str, value: &str) -> Result<Environment, ValidationError> {
        BTreeMap::from([(name.to_owned(), value.to_owned())]).try_into()
    }

    #[test]
    fn ordinary_variables_pass() {
        assert_eq!(environment("PYTHONPATH", "/workspace").unwrap().get("PYTHONPATH"), Some("/workspace"));
        assert!(environment("CUDA_VISIBLE_DEVICES", "0").is_ok());
        assert!(environment("LD_LIBRARY_PATH", "/opt/lib").is_ok());
        assert!(environment("spring.datasource.url", "jdbc:x").is_ok());
        assert!(environment("my-app.a", "").is_ok() && environment("1A", "two\nlines").is_ok());
        assert!(environment("NVIDIA_DRIVER_CAPABILITIES", "compute,utility,video").is_ok());
        assert!(environment("A", &"x".repeat(60 * 1024)).is_ok());
    }

    #[test]
    fn hostile_variables_are_refused() {
        for name in
            ["", "A B", "A=B", "a\n", "NVIDIA_VISIBLE_DEVICES", "nvidia_x", "Ld_Preload", "LD_AUDIT", "GPURENT_X"]
        {
            assert!(environment(name, "x").is_err(), "{name:?}");
        }
        assert!(environment("NVIDIA_DRIVER_CAPABILITIES", "all,privileged").is_err());
        assert!(environment("A", "x\0y").is_err());
        assert!(environment("A", &"x".repeat(70_000)).is_err());
    }
}
