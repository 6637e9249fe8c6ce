//! The next action on a rental, and when: computed from what is stored, never from a message that could be lost.

use std::time::Duration;

use jiff::SignedDuration;

use crate::clock::Moment;
use crate::model::{DiskUse, EndReason, Failure, FailureKind, Rental, RentalState, Service};

/// The times that decide when a rental is warned, notified and given up.
#[derive(Clone, Debug)]
pub struct RentalTiming {
    /// How long a rental may take from its claim to its start, pulls included.
    pub provisioning: SignedDuration,
    /// How long after its start it may take until SSH answers.
    pub access: SignedDuration,
    /// How long before the end the renter is warned; at most a quarter of the term.
    pub warning: SignedDuration,
    /// How long before the end the renter's program gets SIGTERM; at most a tenth of the term.
    pub notice: SignedDuration,
    /// How long a program may take to stop when a rental ends before its time.
    pub stop_grace: Duration,
    /// How often a launch is tried again when somebody else holds one of its ports.
    pub relaunches: u32,
    /// How long the last lines of a rental's output are kept after its container is gone.
    pub keep_logs: SignedDuration,
    /// How long a suspended rental is kept for its renter to resume it.
    pub keep_suspended: SignedDuration,
}

impl Default for RentalTiming {
    fn default() -> Self {
        Self {
            provisioning: SignedDuration::from_hours(2),
            access: SignedDuration::from_secs(90),
            warning: SignedDuration::from_mins(5),
            notice: SignedDuration::from_secs(10),
            stop_grace: Duration::from_secs(10),
            relaunches: 3,
            keep_logs: SignedDuration::from_hours(7 * 24),
            keep_suspended: SignedDuration::from_hours(30 * 24),
        }
    }
}

/// An action that a rental needs now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fetch the image. Nothing is recorded of it, and so it is always what a rental without a container needs; a process
    /// that has done it goes on with [`Create`](Self::Create).
    Prepare,
    /// Make the container.
    Create,
    /// Start the container.
    Start,
    /// Find out whether the renter can log in, within this time.
    Verify {
        /// The time that is left for it.
        within: Duration,
    },
    /// Let in by the stored credential, and no longer by the one before.
    ReplaceAccess,
    /// Tell the renter that the end is near.
    Warn,
    /// Tell the renter that it is not so near any more.
    WithdrawWarning,
    /// Tell the renter that the rental writes more on the disk than it may, or almost. Found by looking, not by the clock.
    WarnOfDisk {
        /// The space that it uses.
        used: DiskUse,
        /// The space that it may use.
        limit: DiskUse,
    },
    /// Tell that services answer on published ports. Found by looking.
    TellServices(Vec<Service>),
    /// Tell the renter's program to finish.
    Notify,
    /// Record that it ends.
    End(EndReason),
    /// Stop the container, with this much grace.
    Stop {
        /// Between SIGTERM and SIGKILL.
        grace: Duration,
    },
    /// Put the stopped container away and free the GPUs and ports: it is suspended then.
    Retain,
    /// Remove the container and free what the rental holds: it has ended then.
    Remove,
}

/// The next action, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The action is due.
    Now(Action),
    /// Ask again after this time, or when something is observed.
    After(SignedDuration),
    /// Nothing until something is observed.
    Idle,
}

impl Rental {
    /// The next action: computed from what is stored, never from a message that could be lost.
    #[must_use]
    pub fn next(&self, now: &Moment, timing: &RentalTiming) -> Next {
        match &self.state {
            RentalState::Provisioning if !self.time_to_start(now).is_positive() => {
                Next::Now(Action::End(EndReason::Failed(Failure {
                    kind: FailureKind::DeadlineExceeded,
                    detail: "The container did not start in time".to_owned(),
                    log_tail: Vec::new(),
                })))
            }
            RentalState::Provisioning if self.launch.container.is_none() => Next::Now(Action::Prepare),
            RentalState::Provisioning => Next::Now(Action::Start),
            RentalState::Running => {
                let since = match &self.launch.started {
                    Some(started) => now.since(started),
                    None => now.wall.duration_since(self.launch.started_at.unwrap_or(self.created_at)),
                };
                let left = timing.access - since;
                if self.launch.access_outdated {
                    // A container that does not take the credential must not run unpaid for ever.
                    return Next::Now(if left.is_positive() {
                        Action::ReplaceAccess
                    } else {
                        Action::End(EndReason::Failed(Failure {
                            kind: FailureKind::AccessTimeout,
                            detail: "The container did not take its new credential in time".to_owned(),
                            log_tail: Vec::new(),
                        }))
                    });
                }
                // Clamped to [access/3, access]: after the agent was down the check still gets a fair chance, and a clock
                // step does not lengthen it.
                let within = left.max(timing.access / 3).min(timing.access).unsigned_abs();
                Next::Now(Action::Verify { within })
            }
            RentalState::Ready => match self.next_by_the_clock(now, timing) {
                // What is bound to a time comes first.
                Next::Now(action) => Next::Now(action),
                _ if self.launch.access_outdated => Next::Now(Action::ReplaceAccess),
                _ if self.launch.warning_outdated => Next::Now(Action::WithdrawWarning),
                later => later,
            },
            RentalState::Suspending { stopped: true, .. } => Next::Now(Action::Retain),
            RentalState::Ending { stopped: true, .. } => Next::Now(Action::Remove),
            RentalState::Suspending { .. } => Next::Now(Action::Stop { grace: self.grace(now, timing) }),
            RentalState::Suspended { since, .. } => {
                let kept = timing.keep_suspended - now.since(since);
                if self.time_left(now).is_some_and(|left| !left.is_positive()) {
                    Next::Now(Action::End(EndReason::Expired))
                } else if kept.is_positive() {
                    Next::After(kept)
                } else {
                    Next::Now(Action::End(EndReason::Abandoned))
                }
            }
            RentalState::Ending { reason, .. } => {
                let grace = if reason.leaves_a_grace() { self.grace(now, timing) } else { Duration::ZERO };
                Next::Now(Action::Stop { grace })
            }
            RentalState::Ended { .. } => Next::Idle,
        }
    }

    /// How long the program may take to stop before the end of its time.
    fn grace(&self, now: &Moment, timing: &RentalTiming) -> Duration {
        match self.time_left(now) {
            Some(left) => timing.stop_grace.min(left.max(SignedDuration::ZERO).unsigned_abs()),
            None => timing.stop_grace,
        }
    }

    fn next_by_the_clock(&self, now: &Moment, timing: &RentalTiming) -> Next {
        let (Some(term), Some(left)) = (self.spec.term.duration(), self.time_left(now)) else { return Next::Idle };
        let warning = timing.warning.min(term / 4);
        let notice = timing.notice.min(term / 10);
        if left <= SignedDuration::ZERO {
            Next::Now(Action::End(EndReason::Expired))
        } else if left <= notice && !self.launch.notified {
            Next::Now(Action::Notify)
        } else if left <= warning && !self.launch.warned {
            Next::Now(Action::Warn)
        } else if !self.launch.warned {
            Next::After(left - warning)
        } else if !self.launch.notified {
            Next::After(left - notice)
        } else {
            Next::After(left)
        }
    }

    /// How long until something is due by the clock alone, whatever else there is to do now.
    pub(crate) fn until_due(&self, now: &Moment, timing: &RentalTiming) -> Option<SignedDuration> {
        let by_the_clock = match self.next_by_the_clock(now, timing) {
            Next::After(wait) if matches!(self.state, RentalState::Ready) => Some(wait),
            _ => None,
        };
        [by_the_clock, self.time_to_end(now)].into_iter().flatten().min()
    }
}
