//! The layers that every request goes through before a handler sees it.

pub(crate) mod audit;
pub(crate) mod auth;
pub(crate) mod rate_limit;
