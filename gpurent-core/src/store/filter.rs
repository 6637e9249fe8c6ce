//! Which rentals a list shows.

use crate::id::{InstanceName, RenterId};
use crate::model::{EndKind, Phase, Rental, RentalState};

/// Which rentals to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this renter only.
    pub renter: Option<RenterId>,
    /// Of this name only.
    pub name: Option<InstanceName>,
    /// With this label and value only.
    pub label: Option<(String, String)>,
    /// In one of these phases, or ended in one of the `ends`. All, where both are empty.
    pub phases: Vec<Phase>,
    /// See `phases`.
    pub ends: Vec<EndKind>,
}

impl Filter {
    /// Whether a rental passes.
    #[must_use]
    pub fn passes(&self, rental: &Rental) -> bool {
        let spec = rental.spec();
        let ended_so = || match rental.state() {
            RentalState::Ended { reason, .. } => self.ends.contains(&reason.kind()),
            _ => false,
        };
        let every_state = self.phases.is_empty() && self.ends.is_empty();
        self.renter.as_ref().is_none_or(|renter| spec.renter == *renter)
            && self.name.as_ref().is_none_or(|name| rental.name() == name)
            && self.label.as_ref().is_none_or(|(name, value)| spec.labels.get(name) == Some(value.as_str()))
            && (every_state || self.phases.contains(&rental.state().phase()) || ended_so())
    }
}
