//! The states of a rental, why it ends, and whose fault that is.
//!
//! ```text
//!     claim              started              access verified
//!  ──────────▶ Provisioning ────▶ Running ─────────────────▶ Ready
//!               ▲  │  ▲             │                           │  cancelled · expired · exited · lost · failed
//!        resume │  │  └─ relaunch   │                           │
//!               │  ├────────────────┼───────────────────────────┤
//!               │  │ suspend        │                           │
//!               │  └──▶ Suspending{cause} ── stopped ── absent  │
//!               │                       │            │          │
//!            Suspended{cause} ◀─────────┼────────────┘          │
//!                  └────────────────────┴─────────┬─────────────┘
//!                                                 ▼
//!                               Ending{reason} ── stopped ── absence confirmed ──▶ Ended{reason}
//! ```
//!
//! Failure is a reason, not a state: every rental leaves by the same door, so nothing skips the clean-up. A
//! launch that fails after its rental was ready once suspends it instead: what was paid for is not lost.

mod end_reason;
mod failure;
mod fault;
mod state;

pub use end_reason::{EndKind, EndReason};
pub use failure::{BY_THE_HOST, Exit, Failure, FailureKind};
pub use fault::Blame;
pub use state::{Phase, RentalState, SuspendCause};
