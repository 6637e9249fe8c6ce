//! How much of a host one renter may have at once, whatever is free: so that nobody fills it who pays nothing.

use jiff::{SignedDuration, Timestamp};

use crate::model::{EndReason, Phase, Rental, RentalSpec};

/// How much of a host one renter may have at once. A renter is whoever a rental's `renter` names.
/// One who rents for many under one name is [a platform](crate::host::Rentals::for_a_platform).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenterLimits {
    /// Rentals that have not ended, suspended ones included.
    pub live: u32,
    /// Of these, rentals on their way up: claimed and not yet ready, so that nothing is paid for them.
    pub unready: u32,
    /// Of these, suspended ones, which cost nothing either.
    pub suspended: u32,
    /// GPUs; `None` for as many as there are.
    pub gpus: Option<u32>,
    /// Rentals that were made within the last [three hours](LATELY) and came to nothing that was paid for: each may have had a GPU
    /// work for as long as access takes to be verified, in an image that lets nobody in.
    pub in_vain: u32,
    /// Times that one rental may be resumed, besides once for each [ten minutes](RESUMED_ONCE_IN) of its use: what a host
    /// does to bring a rental up is not paid for.
    pub resumes: u32,
    /// Workspaces, which stay when their rentals have ended.
    pub workspaces: u32,
}

/// The paid time for which a rental may be resumed once more.
pub const RESUMED_ONCE_IN: SignedDuration = SignedDuration::from_mins(10);

/// How long a rental that came to nothing counts against its renter.
///
/// Longer than a rental may take to start: one that waited for its image all the time counts too.
pub const LATELY: SignedDuration = SignedDuration::from_hours(3);

impl Default for RenterLimits {
    fn default() -> Self {
        Self { live: 128, unready: 32, suspended: 16, gpus: None, in_vain: 60, resumes: 6, workspaces: 4 }
    }
}

/// The rentals and GPUs that a renter has on a host, as numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenterHas {
    /// Rentals that have not ended.
    pub live: u32,
    /// Rentals on their way up.
    pub unready: u32,
    /// Rentals that are or are being suspended.
    pub suspended: u32,
    /// GPUs.
    pub gpus: u32,
    /// Rentals that were made lately, have ended, were never paid for, and did not fail [by the host](crate::model::lifecycle::BY_THE_HOST).
    pub in_vain: u32,
}

impl RenterHas {
    /// The sums over these rentals. One that was made after `since` was made lately.
    #[must_use]
    pub fn of<'a>(rentals: impl IntoIterator<Item = &'a Rental>, since: Timestamp) -> Self {
        rentals.into_iter().fold(Self::default(), |has, rental| {
            let (phase, live) = (rental.state().phase(), rental.is_live());
            let by_the_host = rental.state().end_reason().is_some_and(EndReason::is_by_the_host);
            let in_vain = !live && !rental.has_been_ready() && rental.created_at() > since && !by_the_host;
            // An ended rental tells which it had.
            let gpus = if live { u32::try_from(rental.gpus().len()).unwrap_or(u32::MAX) } else { 0 };
            Self {
                live: has.live.saturating_add(u32::from(live)),
                unready: has.unready.saturating_add(u32::from(is_unready(phase))),
                suspended: has.suspended.saturating_add(u32::from(is_suspended(phase))),
                in_vain: has.in_vain.saturating_add(u32::from(in_vain)),
                gpus: has.gpus.saturating_add(gpus),
            }
        })
    }
}

/// Whether a rental in this phase is on its way up.
fn is_unready(phase: Phase) -> bool {
    matches!(phase, Phase::Provisioning | Phase::Running)
}

/// Whether a rental in this phase is or is being suspended.
fn is_suspended(phase: Phase) -> bool {
    matches!(phase, Phase::Suspending | Phase::Suspended)
}

/// The limit that a renter has reached, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TooMany {
    /// Rentals that have not ended: end one.
    #[error("one renter may have {0} rentals at once on this host")]
    Live(u32),
    /// Rentals on their way up: wait until one is ready.
    #[error("one renter may have {0} rentals at once on this host that are not ready yet")]
    Unready(u32),
    /// Suspended rentals: resume or end one.
    #[error("one renter may have {0} suspended rentals on this host")]
    Suspended(u32),
    /// Rentals that came to nothing: wait, and see why they do.
    #[error("{0} rentals of one renter came to nothing on this host within three hours")]
    InVain(u32),
    /// Resumptions: use the rental for a while longer before it is suspended again.
    #[error("a rental may be resumed {0} times on this host, and once more for each 10 minutes that it was used")]
    Resumes(u32),
    /// Workspaces: use one of those that are there.
    #[error("one renter may have {0} workspaces on this host")]
    Workspaces(u32),
    /// GPUs: end a rental.
    #[error("one renter may have {0} GPUs at once on this host")]
    Gpus(u32),
}

/// From when on a rental counts as made lately.
#[must_use]
pub fn lately(now: Timestamp) -> Timestamp {
    now.saturating_sub(LATELY).unwrap_or(Timestamp::MIN)
}

impl RenterLimits {
    /// No limits, for hosts that know all who rent.
    #[must_use]
    pub fn none() -> Self {
        let all = u32::MAX;
        Self { live: all, unready: all, suspended: all, gpus: None, in_vain: all, resumes: all, workspaces: all }
    }

    /// Whether a renter who has so much may have one more rental.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn allow(&self, has: &RenterHas, one_more: &RentalSpec) -> Result<(), TooMany> {
        if has.live >= self.live {
            return Err(TooMany::Live(self.live));
        }
        if has.in_vain >= self.in_vain {
            return Err(TooMany::InVain(self.in_vain));
        }
        self.allow_up(has, one_more)
    }

    /// Whether a renter who has so much may have a suspended rental back up.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn allow_up(&self, has: &RenterHas, rental: &RentalSpec) -> Result<(), TooMany> {
        if has.unready >= self.unready {
            return Err(TooMany::Unready(self.unready));
        }
        let wanted = rental.gpu.as_ref().map_or(0, |gpu| u32::from(gpu.count.get()));
        match self.gpus {
            Some(most) if wanted > 0 && has.gpus.saturating_add(wanted) > most => Err(TooMany::Gpus(most)),
            _ => Ok(()),
        }
    }

    /// Whether a rental may be resumed once more.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn allow_resume(&self, rental: &Rental) -> Result<(), TooMany> {
        let earned = rental.used_before().as_secs() / RESUMED_ONCE_IN.as_secs();
        let most = u64::from(self.resumes).saturating_add(u64::try_from(earned).unwrap_or(0));
        if u64::from(rental.resumed()) >= most { Err(TooMany::Resumes(self.resumes)) } else { Ok(()) }
    }

    /// Whether a renter who has so much may suspend one more rental.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn allow_suspended(&self, has: &RenterHas) -> Result<(), TooMany> {
        if has.suspended >= self.suspended { Err(TooMany::Suspended(self.suspended)) } else { Ok(()) }
    }
}
