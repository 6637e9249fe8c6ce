//! Into a rental's container: its output as it comes, a program on a terminal, how much it uses.

use std::sync::Arc;

use crate::host::{InsideError, Rentals};
use crate::model::{Rental, State};
use crate::runtime::{Bytes, Inside, Program, Session, Usage};

impl Rentals {
    /// The container's output: the last `lines`, then whatever comes, until it ends.
    ///
    /// # Errors
    /// [`InsideError`]
    pub async fn follow_output(&self, rental: &Rental, lines: usize) -> Result<Bytes, InsideError> {
        let inside = self.way_in(rental, |state| state.is_up() || state.is_going_down())?;
        Ok(inside.follow(rental.launch(), lines).await?)
    }

    /// Runs a program in a rental that is ready, as its user.
    ///
    /// # Errors
    /// [`InsideError`]
    pub async fn run_inside(&self, rental: &Rental, program: &Program) -> Result<Session, InsideError> {
        let inside = self.way_in(rental, |state| matches!(state, State::Ready))?;
        Ok(inside.run(rental.launch(), program).await?)
    }

    /// The last logins to a rental: from where, and which failed.
    ///
    /// # Errors
    /// [`InsideError`]
    pub async fn access_log(&self, rental: &Rental, lines: usize) -> Result<Vec<String>, InsideError> {
        let inside = self.way_in(rental, State::is_up)?;
        Ok(inside.access_log(rental.launch(), lines).await?)
    }

    /// How much a rental's container uses.
    ///
    /// # Errors
    /// [`InsideError`]
    pub async fn usage(&self, rental: &Rental) -> Result<Usage, InsideError> {
        let inside = self.way_in(rental, State::is_up)?;
        Ok(inside.usage(rental.launch()).await?)
    }

    fn way_in(&self, rental: &Rental, is_there: impl Fn(&State) -> bool) -> Result<&Arc<dyn Inside>, InsideError> {
        let inside = self.shared.inside.as_ref().ok_or(InsideError::NoWayIn)?;
        if is_there(rental.state()) { Ok(inside) } else { Err(InsideError::NotRunning) }
    }
}
