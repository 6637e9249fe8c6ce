//! A container's last lines of output, which outlive it.

use futures_util::{FutureExt, select_biased};
use jiff::Timestamp;

use crate::host::reconcile::step::Step;
use crate::model::FailureKind;
use crate::store::LogTail;

/// How many lines of output outlive the container.
const KEPT_LINES: usize = 200;

/// How long a stopped container's output may take to be read.
const LOG_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// How many of the container's last lines a failure keeps.
const LOG_TAIL_LINES: usize = 20;

/// How much of one such line.
const LOG_LINE_CHARS: usize = 512;

impl Step {
    pub(super) async fn log_tail(&self, kind: FailureKind) -> Vec<String> {
        if !matches!(
            kind,
            FailureKind::ExitedEarly | FailureKind::AccessTimeout | FailureKind::NoLogin | FailureKind::Refused
        ) {
            return Vec::new();
        }
        self.last_lines(LOG_TAIL_LINES).await
    }

    /// The lines of a stopped container's output that are kept once it is gone.
    pub(super) async fn kept_log(&self, now: Timestamp) -> LogTail {
        let until = now.saturating_add(self.context.timing.keep_logs).unwrap_or(now);
        LogTail { lines: self.last_lines(KEPT_LINES).await, at: now, until }
    }

    /// The output is a help for people; a record without it is better than none.
    pub(super) async fn last_lines(&self, most: usize) -> Vec<String> {
        let mut read = self.context.runtime.logs(self.rental.launch(), most).fuse();
        let mut too_late = self.sleep.sleep(LOG_TIMEOUT).fuse();
        let lines = select_biased! {
            lines = read => lines.unwrap_or_default(),
            () = too_late => Vec::new(),
        };
        // A program may print anything; control characters do not belong into a database or a terminal.
        let plain = |line: String| line.chars().filter(|c| !c.is_control()).take(LOG_LINE_CHARS).collect();
        lines.into_iter().map(plain).collect()
    }
}
