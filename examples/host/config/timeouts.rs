//! How long a rental's steps may take.

use clap::Args;
use gpurent_core::allocation::renter_limits::LATELY;
use gpurent_core::error::ValidationError;
use gpurent_core::model::RentalTiming;
use jiff::SignedDuration;

/// How long a rental's steps may take.
#[derive(Args)]
pub struct Timeouts {
    /// How long a rental may take until its container has started, such as 2h: so long it holds its GPUs while its image is
    /// pulled.
    #[arg(long, env = "GPURENT_START_TIMEOUT", default_value = "2h", value_parser = start_timeout)]
    pub start_timeout: SignedDuration,
    /// How long after its start a container may take until SSH answers, such as 90s.
    #[arg(long, env = "GPURENT_ACCESS_TIMEOUT", default_value = "90s")]
    pub access_timeout: SignedDuration,
}

impl Timeouts {
    /// The times of a rental.
    pub fn timing(&self) -> RentalTiming {
        RentalTiming { access: self.access_timeout, provisioning: self.start_timeout, ..RentalTiming::default() }
    }
}

/// A time to start in. What came to nothing is counted for [three hours](gpurent_core::allocation::renter_limits::LATELY).
fn start_timeout(text: &str) -> Result<SignedDuration, ValidationError> {
    let refused = || ValidationError::new("start-timeout", "must be 1s to 3h");
    let time: SignedDuration = text.parse().map_err(|_| refused())?;
    if (SignedDuration::from_secs(1)..=LATELY).contains(&time) { Ok(time) } else { Err(refused()) }
}
