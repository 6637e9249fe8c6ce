//! A book of deadlines in memory. Its copies are the same book, so that it can outlive an agent in a test.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::store::{Deadline, DeadlineBook, DeadlineError};

/// A book for tests, and for hosts whose store never goes away.
#[derive(Clone, Debug, Default)]
pub struct MemoryDeadlines {
    written: Arc<Mutex<Vec<Deadline>>>,
}

#[async_trait]
impl DeadlineBook for MemoryDeadlines {
    async fn read(&self) -> Result<Vec<Deadline>, DeadlineError> {
        Ok(self.written.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    async fn write(&self, deadlines: &[Deadline]) -> Result<(), DeadlineError> {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = deadlines.to_vec();
        Ok(())
    }
}
