//! Docker Engine itself: the connection, what its errors and its word on a container mean, and an image of our own in it.

pub(crate) mod client;
pub(crate) mod error;
pub(crate) mod helper_image;
pub(crate) mod state;
