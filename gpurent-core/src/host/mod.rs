//! One running host: the [`HostBuilder`] makes the [`Rentals`] that an embedder holds, and the [`Reconciler`] that makes
//! them come true.
//!
//! Both share one context, and wake each other. What happens is told by [events](Update).

mod builder;
mod config;
mod context;
mod deadlines;
mod events;
mod failpoint;
mod health;
#[cfg(all(test, loom))]
mod interleavings;
mod lease;
mod notify;
mod pulls;
mod readiness;
mod reconcile;
mod refusal;
mod rentals;

pub use builder::HostBuilder;
pub use config::ReconcileConfig;
pub use context::AccessError;
pub use events::{FEED_CAPACITY, Followed, Follower, Lagged, RentalFollower, RentalUpdate, Subscription, Update};
pub use failpoint::{FAILPOINTS, FailpointHook};
pub use health::{EngineHealth, Waiting};
pub use reconcile::{Planned, ReconcileError, Reconciler, plan, watch};
pub use refusal::{Refusal, RefusalKind, ToRefusal};
pub use rentals::{
    Access, ChangeAccessError, ExecError, ExtendError, ForceEndError, Logs, LogsError, RentError, Rentals, ResumeError,
    SuspendError, TermExtension, force_end,
};
