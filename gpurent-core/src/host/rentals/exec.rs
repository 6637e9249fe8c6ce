//! Into a rental's container: its output as it comes, a program on a terminal, how much it uses.

use std::sync::Arc;

use crate::host::{ExecError, Rentals};
use crate::model::{Rental, RentalState};
use crate::runtime::{Bytes, ContainerExec, Program, Session, Usage};

impl Rentals {
    /// The container's output: the last `lines`, then whatever comes, until it ends.
    ///
    /// # Errors
    /// [`ExecError`]
    pub async fn follow_output(&self, rental: &Rental, lines: usize) -> Result<Bytes, ExecError> {
        let inside = self.way_in(rental, |state| state.is_up() || state.is_going_down())?;
        Ok(inside.follow(rental.launch(), lines).await?)
    }

    /// Runs a program in a rental that is ready, as its user.
    ///
    /// # Errors
    /// [`ExecError`]
    pub async fn run_inside(&self, rental: &Rental, program: &Program) -> Result<Session, ExecError> {
        let inside = self.way_in(rental, |state| matches!(state, RentalState::Ready))?;
        Ok(inside.run(rental.launch(), program).await?)
    }

    /// The last logins to a rental: from where, and which failed.
    ///
    /// # Errors
    /// [`ExecError`]
    pub async fn access_log(&self, rental: &Rental, lines: usize) -> Result<Vec<String>, ExecError> {
        let inside = self.way_in(rental, RentalState::is_up)?;
        Ok(inside.access_log(rental.launch(), lines).await?)
    }

    /// How much a rental's container uses.
    ///
    /// # Errors
    /// [`ExecError`]
    pub async fn usage(&self, rental: &Rental) -> Result<Usage, ExecError> {
        let inside = self.way_in(rental, RentalState::is_up)?;
        Ok(inside.usage(rental.launch()).await?)
    }

    fn way_in(
        &self,
        rental: &Rental,
        is_there: impl Fn(&RentalState) -> bool,
    ) -> Result<&Arc<dyn ContainerExec>, ExecError> {
        let inside = self.context.inside.as_ref().ok_or(ExecError::NotSupported)?;
        if is_there(rental.state()) { Ok(inside) } else { Err(ExecError::NotRunning) }
    }
}
