//! One launch of a rental: its container, and everything that belongs to that container alone.
//!
//! A rental is launched when it is claimed, again where a port of it is taken, and when it is resumed. What belongs to a
//! launch is in one struct, so that the next one begins with nothing of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::id::{Attempt, ContainerId};
use crate::model::{Exit, Files, Service};

/// The present launch of a rental. Its fields are stored beside the rental's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Launch {
    pub(super) attempt: Attempt,
    pub(super) container: Option<ContainerId>,
    pub(super) gpus_attached: bool,
    /// When the container was made, where this host made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created: Option<Moment>,
    /// When the container started, by the engine's own record.
    pub(super) started_at: Option<Timestamp>,
    /// The same instant on both of our clocks; `None` of a container that was adopted.
    pub(super) started: Option<Moment>,
    pub(super) paid_from: Option<Moment>,
    pub(super) warned: bool,
    /// The warning that the renter was given no longer holds.
    pub(super) warning_outdated: bool,
    pub(super) notified: bool,
    /// The container lets in by another credential than the stored one.
    pub(super) access_outdated: bool,
    /// The source of the container's files.
    #[serde(default, skip_serializing_if = "Files::are_new")]
    pub(super) files: Files,
    /// The services that have answered in the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) services: Vec<Service>,
    pub(super) exit: Option<Exit>,
}

impl Launch {
    /// A launch of which there is no container yet.
    pub(super) fn new(attempt: Attempt) -> Self {
        Self {
            attempt,
            container: None,
            gpus_attached: false,
            created: None,
            started_at: None,
            started: None,
            paid_from: None,
            warned: false,
            warning_outdated: false,
            notified: false,
            access_outdated: false,
            files: Files::New,
            services: Vec::new(),
            exit: None,
        }
    }

    /// The launch of a suspended rental: what its container was, without the container.
    pub(super) fn put_away(&self) -> Self {
        Self {
            created: self.created.clone(),
            started_at: self.started_at,
            started: self.started.clone(),
            warned: self.warned,
            warning_outdated: self.warning_outdated,
            notified: self.notified,
            files: self.files,
            exit: self.exit.clone(),
            ..Self::new(self.attempt)
        }
    }
}
