//! Named places where a test may stop the world.
//!
//! Between every effect and its record lies a window in which a crash must do no harm. Each such
//! boundary has two names: `created-unrecorded` is passed when the container exists and the store does
//! not know, `created` when both do. In production nobody listens.

use std::sync::Arc;

/// Hears the name of every boundary that is passed.
pub type FailpointHook = Arc<dyn Fn(&str) + Send + Sync>;

/// The boundaries, in the order of a life.
pub const FAILPOINTS: [&str; 20] = [
    "claimed",
    "created-unrecorded",
    "created",
    "started-unrecorded",
    "started",
    "ready-unrecorded",
    "ready",
    "access-unrecorded",
    "access",
    "warned-unrecorded",
    "warned",
    "stopped-unrecorded",
    "stopped",
    "suspended-unrecorded",
    "suspended",
    "resumed",
    "removed-unrecorded",
    "removed",
    "adopted-unrecorded",
    "adopted",
];

#[derive(Clone, Default)]
pub(crate) struct Failpoints(Option<FailpointHook>);

impl Failpoints {
    pub(crate) fn new(hook: Option<FailpointHook>) -> Self {
        Self(hook)
    }

    pub(crate) fn pass(&self, name: &'static str) {
        debug_assert!(FAILPOINTS.contains(&name), "{name} is not among the named boundaries");
        if let Some(hook) = &self.0 {
            hook(name);
        }
    }
}
