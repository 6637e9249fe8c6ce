//! How a running container is told something, and asked: by a folder, by a socket in it, or by the engine.

pub(crate) mod credential_dir;
pub(crate) mod exec;
pub(crate) mod host_keys;
pub(crate) mod output;
#[cfg(unix)]
pub(crate) mod socket;
#[cfg(not(unix))]
#[path = "no_socket.rs"]
pub(crate) mod socket;
