//! Why a store did not do what it was asked.

use crate::id::EngineId;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store does not answer, or not in time. The work may or may not have been done: read, then
    /// decide again.
    #[error("the store does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another process changed the rental, or holds what the change needs: read, then decide again.
    #[error("the rental was changed by somebody else")]
    Conflict,
    /// Another process has taken over the host: stop acting for it.
    #[error("another process has taken over this host")]
    Fenced,
    /// The host id belongs to another engine, or to one of this id on another machine: two machines are configured with one
    /// host id.
    #[error("this host id is pinned to the engine {0}, on the machine where its rentals run")]
    HostPinned(EngineId),
    /// The database is set up so that it must not be used as asked: somebody has to change that, and its own sentence says
    /// what.
    #[error(transparent)]
    Misconfigured(Box<dyn std::error::Error + Send + Sync>),
    /// The stored data cannot be understood: an operator has to look.
    #[error("the store holds something unreadable")]
    Corrupt(#[source] Box<dyn std::error::Error + Send + Sync>),
}
