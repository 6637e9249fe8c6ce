//! Rows as both databases keep them: what is a column, and what is in the JSON beside.

pub(crate) mod api_key;
pub(crate) mod audit;
pub(crate) mod port_range;
pub(crate) mod rental;
