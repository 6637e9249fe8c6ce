//! State that handlers may ask for: the host's rentals, and what bounds those who call.

use axum::extract::FromRef;
use gpurent_core::host::Rentals;

use crate::middleware::audit::Audit;
use crate::subscribers::Subscribers;

/// The state that the handlers of all protocols share.
#[derive(Clone)]
pub struct AppState {
    pub(crate) rentals: Rentals,
    pub(crate) subscribers: Subscribers,
    pub(crate) audit: Option<Audit>,
}

impl AppState {
    /// The host's rentals.
    #[must_use]
    pub fn rentals(&self) -> &Rentals {
        &self.rentals
    }

    /// The state of a protocol's handlers, of which this is the shared part.
    pub(crate) fn own<T>(&self, own: T) -> Own<T> {
        Own { shared: self.clone(), own }
    }
}

/// The state of one protocol's handlers: the shared part, and the protocol's own.
#[derive(Clone)]
pub(crate) struct Own<T> {
    pub(crate) shared: AppState,
    pub(crate) own: T,
}

/// Lets handlers take a part of the shared state as theirs.
macro_rules! part {
    ($part:ty, $field:ident) => {
        impl<T> FromRef<Own<T>> for $part {
            fn from_ref(state: &Own<T>) -> Self {
                state.shared.$field.clone()
            }
        }
    };
}

part!(Rentals, rentals);
part!(Subscribers, subscribers);
part!(Option<Audit>, audit);
