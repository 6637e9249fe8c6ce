//! Messages to the renter inside the container, and the credential that it lets in by.

use std::error::Error;

use futures_util::{FutureExt, select_biased};

use crate::host::reconcile::step::{Step, StepError, Trouble};
use crate::model::{Rental, RentalEvent};
use crate::runtime::{LaunchSpec, RuntimeError};

/// How long the renter's container may take to be told something: a help, which holds nothing else up.
const MESSAGE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

impl Step {
    /// Lets in by the stored credential. A container that does not take it now keeps its renter, and is
    /// asked again; one that has ended is found out by the next observation.
    pub(super) async fn replace_access(&self) -> Result<Rental, Trouble> {
        let secrets = match self.secrets().await {
            Ok(secrets) => secrets,
            Err(Trouble::Runtime(error)) => return Err(StepError::Later(Box::new(error)).into()),
            Err(other) => return Err(other),
        };
        self.lease.check()?;
        let replaced = self.context.runtime.replace_access(&LaunchSpec::of(&self.rental), &secrets).await;
        replaced.map_err(|error| StepError::Later(Box::new(error)))?;
        self.context.failpoints.pass("access-unrecorded");
        let rental = self.record(RentalEvent::AccessApplied).await?;
        self.context.failpoints.pass("access");
        Ok(rental)
    }

    /// Leaves a message inside the container. One that does not arrive (the renter's processes may fill
    /// the container) is recorded all the same: the platform heard the event, and time goes on.
    pub(super) async fn message_user(&self, message: &str, event: RentalEvent) -> Result<Rental, Trouble> {
        self.lease.check()?;
        let mut announce = self.context.runtime.message_user(self.rental.launch(), message).fuse();
        let mut too_late = self.sleep.sleep(MESSAGE_TIMEOUT).fuse();
        select_biased! {
            told = announce => if let Err(error) = told {
                tracing::warn!(rental = %self.rental.id(), error = &error as &dyn Error, "the renter was not told");
            },
            () = too_late => tracing::warn!(rental = %self.rental.id(), "the renter was not told in time"),
        }
        self.context.failpoints.pass("warned-unrecorded");
        let rental = self.record(event).await?;
        self.context.failpoints.pass("warned");
        Ok(rental)
    }

    pub(super) fn warning(&self) -> String {
        let left = self.rental.time_left(&self.context.clock.now()).unwrap_or_default();
        let left = match left.as_mins() {
            0 => format!("{} seconds", left.as_secs().max(0)),
            1 => "1 minute".to_owned(),
            minutes => format!("{minutes} minutes"),
        };
        format!("This rental ends at {} UTC, in {left}. Save your work now, or have it extended.", self.end_of_term())
    }

    pub(super) fn all_clear(&self) -> String {
        format!("This rental was extended. It now ends at {} UTC.", self.end_of_term())
    }

    pub(super) fn end_of_term(&self) -> String {
        let end = self.rental.expires_at().unwrap_or_else(|| self.context.clock.now().wall);
        end.strftime("%Y-%m-%d %H:%M:%S").to_string()
    }

    pub(super) async fn signal_stop(&self) -> Result<Rental, Trouble> {
        self.lease.check()?;
        match self.context.runtime.signal_stop(self.rental.launch()).await {
            // A container that is gone or has ended needs no notice; the observation deals with it.
            Ok(()) | Err(RuntimeError::Missing | RuntimeError::Exited(_)) => {}
            // A notice is a courtesy: one that cannot be given must not hold up the end itself.
            Err(error) => tracing::warn!(rental = %self.rental.id(), error = &error as &dyn Error, "no notice given"),
        }
        Ok(self.record(RentalEvent::Notified).await?)
    }
}
