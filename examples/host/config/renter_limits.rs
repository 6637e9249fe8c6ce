//! The limits of certain renters, as an operator writes them.

use std::str::FromStr;

use gpurent_core::allocation::RenterLimits;
use gpurent_core::error::ValidationError;
use gpurent_core::id::RenterId;

/// The limits of a certain renter that are other than usual.
#[derive(Clone, Debug)]
pub struct LimitsOf {
    pub(super) renter: RenterId,
    changes: Vec<Change>,
}

#[derive(Clone, Debug)]
struct Change {
    set: fn(&mut RenterLimits, u32),
    to: u32,
}

impl LimitsOf {
    pub(super) fn in_place_of(&self, mut limits: RenterLimits) -> RenterLimits {
        self.changes.iter().for_each(|change| (change.set)(&mut limits, change.to));
        limits
    }
}

impl FromStr for LimitsOf {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let refused = || {
            ValidationError::new("renter limits", "must be RENTER=WHAT:NUMBER,..., such as alice=rentals:200,gpus:8")
        };
        let (renter, changes) = text.rsplit_once('=').ok_or_else(refused)?;
        let change = |text: &str| {
            let (what, number) = text.split_once(':').ok_or_else(refused)?;
            let set: fn(&mut RenterLimits, u32) = match what.trim() {
                "rentals" => |limits, number| limits.live = number,
                "unready" => |limits, number| limits.unready = number,
                "suspended" => |limits, number| limits.suspended = number,
                "in-vain" => |limits, number| limits.in_vain = number,
                "resumes" => |limits, number| limits.resumes = number,
                "workspaces" => |limits, number| limits.workspaces = number,
                "gpus" => |limits, number| limits.gpus = Some(number),
                _ => return Err(refused()),
            };
            Ok(Change { set, to: number.trim().parse().map_err(|_| refused())? })
        };
        Ok(Self { renter: renter.trim().parse()?, changes: changes.split(',').map(change).collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_a_certain_renter_change_only_what_they_name() {
        let alice: LimitsOf = "alice=rentals:200, gpus:8".parse().unwrap();
        let usual = RenterLimits::default();
        let hers = alice.in_place_of(usual);
        assert_eq!(alice.renter, "alice".parse().unwrap());
        assert_eq!((hers.live, hers.gpus, hers.suspended), (200, Some(8), usual.suspended));
        for text in ["alice", "alice=", "alice=cows:1", "alice=rentals:many", "alice=rentals:-1", "=rentals:1"] {
            assert!(text.parse::<LimitsOf>().is_err(), "{text}");
        }
    }
}
