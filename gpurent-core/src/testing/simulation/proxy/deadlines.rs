//! The host's own book of deadlines on a faulty disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use crate::memory::MemoryDeadlines;
use crate::store::{Deadline, DeadlineBook, DeadlineError};
use crate::testing::simulation::environment::at_once;
use crate::testing::simulation::fault_point::FaultPoint;
use crate::testing::simulation::proxy::FaultProxy;

/// The host's book on a disk that may be full.
pub(in crate::testing::simulation) struct FaultyBook {
    pub(in crate::testing::simulation) proxy: FaultProxy,
    pub(in crate::testing::simulation) book: MemoryDeadlines,
    /// Writes that were asked for, and the last one that was carried out: a later one is never undone.
    pub(in crate::testing::simulation) asked: AtomicU64,
    pub(in crate::testing::simulation) written: Arc<AtomicU64>,
}

fn full(what: &'static str) -> DeadlineError {
    DeadlineError::Io(std::io::Error::other(what))
}

#[async_trait]
impl DeadlineBook for FaultyBook {
    async fn read(&self) -> Result<Vec<Deadline>, DeadlineError> {
        let (book, about) = (self.book.clone(), self.proxy.about_host());
        let effect = move || at_once(book.read());
        self.proxy.call(FaultPoint::ReadBook, about, effect, |what| Err(full(what)), || Err(full("refused"))).await
    }

    async fn write(&self, deadlines: &[Deadline]) -> Result<(), DeadlineError> {
        let (book, about, deadlines) = (self.book.clone(), self.proxy.about_host(), deadlines.to_vec());
        let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let (written, environment, process) =
            (Arc::clone(&self.written), self.proxy.environment.clone(), self.proxy.process);
        let effect = move || {
            // A disk that hangs keeps a killed process, and with it the machine's lock, until the write is through.
            if written.fetch_max(number, Ordering::Relaxed) > number || environment.is_dead(process) {
                return Ok(());
            }
            at_once(book.write(&deadlines))
        };
        self.proxy.call(FaultPoint::WriteBook, about, effect, |what| Err(full(what)), || Err(full("refused"))).await
    }
}
