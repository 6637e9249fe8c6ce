//! Findings: faults of the machine or its settings, each with its remedy. `serve` tells them in its log, `doctor` when it is
//! asked.

use std::fmt;

use serde::Serialize;

/// A fault that the operator can mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The part of the host that has the fault.
    pub part: Part,
    /// The fault, and what comes of it.
    pub found: String,
    /// The command or the setting that mends it.
    pub remedy: String,
}

/// The parts of a host that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    Database,
    Engine,
    Files,
    Gpus,
    Kernel,
    Settings,
}

impl Finding {
    pub fn new(part: Part, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { part, found: found.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; to mend it: {}", self.found, self.remedy)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Database => "database",
            Self::Engine => "engine",
            Self::Files => "files",
            Self::Gpus => "gpus",
            Self::Kernel => "kernel",
            Self::Settings => "settings",
        })
    }
}
