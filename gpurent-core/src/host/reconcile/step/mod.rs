//! One action on one rental: the effect on the engine, then its record in the store.
//!
//! Effects are idempotent and come before their record, so a crash in between repeats the effect, which
//! finds itself done.

mod bring_up;
mod logs;
mod messages;
mod record;
mod take_down;
mod take_up;

use std::error::Error;
use std::sync::Arc;

use crate::clock::{Moment, Sleep};
use crate::host::context::HostContext;
use crate::host::lease::{Lapsed, Lease};
use crate::id::LaunchId;
use crate::model::{Action, Adoption, Rental, RentalEvent};
use crate::runtime::{InspectedContainer, RuntimeError};
use crate::store::{HostOwnership, StoreError};

/// How a step ended.
#[derive(Debug)]
pub(super) enum Stepped {
    /// The image is here; nothing was recorded, since nothing depends on it.
    Prepared,
    /// The rental moved on.
    Moved(Box<Rental>),
}

/// Why a step did not move the rental.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    /// The rental is another than it was believed to be: read it again.
    #[error("the rental changed in between")]
    Stale,
    /// The rental, as somebody else has changed it: what happened is not true of it any more.
    #[error("the rental changed in between")]
    Overtaken(Box<Rental>),
    /// The host is no longer ours.
    #[error("the host is no longer ours")]
    Fenced,
    /// Something does not answer: try again later.
    #[error("something does not answer")]
    Later(#[source] Box<dyn Error + Send + Sync>),
    /// The same, and something is due in this time: try again by then.
    #[error("something does not answer")]
    LaterBut(#[source] Box<dyn Error + Send + Sync>, std::time::Duration),
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict => Self::Stale,
            StoreError::Fenced => Self::Fenced,
            other => Self::Later(Box::new(other)),
        }
    }
}

/// A step's failure before it is decided what that means.
enum Trouble {
    Runtime(RuntimeError),
    Step(StepError),
}

impl From<RuntimeError> for Trouble {
    fn from(error: RuntimeError) -> Self {
        Self::Runtime(error)
    }
}

impl From<Lapsed> for StepError {
    fn from(lapsed: Lapsed) -> Self {
        Self::Later(Box::new(lapsed))
    }
}

impl From<Lapsed> for Trouble {
    fn from(lapsed: Lapsed) -> Self {
        Self::Step(lapsed.into())
    }
}

impl From<StepError> for Trouble {
    fn from(error: StepError) -> Self {
        Self::Step(error)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Step(error.into())
    }
}

/// One rental, as it was read, in the hands of one step.
pub(super) struct Step {
    pub(super) context: Arc<HostContext>,
    pub(super) sleep: Arc<dyn Sleep>,
    pub(super) owner: HostOwnership,
    pub(super) rental: Arc<Rental>,
    pub(super) lease: Lease,
    /// When its container was last seen running.
    pub(super) last_seen: Option<Moment>,
}

impl Step {
    /// Carries out `action` and records it.
    pub(super) async fn take(self, action: Action) -> Result<Stepped, StepError> {
        let result = match action {
            Action::Prepare => return self.prepare().await,
            Action::Create => self.create().await,
            Action::Start => self.start().await,
            Action::Verify { within } => self.verify(within).await,
            Action::ReplaceAccess => self.replace_access().await,
            Action::Warn => self.message_user(&self.warning(), RentalEvent::Warned).await,
            Action::WithdrawWarning => self.message_user(&self.all_clear(), RentalEvent::WarningWithdrawn).await,
            Action::WarnOfDisk { used, limit } => {
                let message = format!(
                    "This rental uses {} that it may have on this host's disk. Make room: it ends if it writes beyond that.",
                    used.beside(limit)
                );
                self.message_user(&message, RentalEvent::DiskWarned { used, limit }).await
            }
            Action::TellServices(services) => {
                self.record(RentalEvent::ServicesUp { services }).await.map_err(Trouble::Step)
            }
            Action::Notify => self.signal_stop().await,
            Action::End(reason) => self.end(reason).await,
            Action::Stop { grace } => self.stop(grace).await,
            Action::Retain => self.retain().await,
            Action::Remove => self.remove().await,
        };
        match result {
            Ok(rental) => Ok(Stepped::Moved(Box::new(rental))),
            Err(Trouble::Step(error)) => Err(error),
            Err(Trouble::Runtime(error)) => self.give_up_or_retry(error).await,
        }
    }
}

/// The event by which a container that was found is taken up, from what it says of its launch.
pub(super) fn adopted(launch: LaunchId, found: &InspectedContainer) -> RentalEvent {
    RentalEvent::Adopted(Box::new(Adoption {
        attempt: launch.attempt,
        container: found.container.clone(),
        ports: found.claim.ports.clone(),
        gpus_attached: found.gpus_attached,
        started_at: found.started_at.map(crate::clock::to_micros),
        claim: found.claim.clone(),
    }))
}

/// An error and its causes in one line: for the rental's own record, which has no room for a chain.
pub(super) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text.chars().filter(|c| !c.is_control()).take(1024).collect()
}
