//! The program that runs in every rented container, as its entry point.
//!
//! It reads whom to let in ([`spec`]), puts that in place, listens for SSH, hands each connection to OpenSSH's
//! `sshd -i`, and runs the image's own program beside it. The host talks to it over a socket ([`wire`]), so that
//! nothing has to be run in the container from outside.
//!
//! What this program relies on is its own: the image's accounts, name services and preloaded libraries reach neither
//! it nor the kit's `sshd`, whose copies of the C library read their accounts from [`paths::RUN`].
//!
//! [`paths`], [`spec`] and [`wire`] are shared with the host's side and compile everywhere; the rest is Linux alone.

#![cfg_attr(not(test), forbid(unsafe_code))]

pub mod paths;
pub mod spec;
pub mod wire;

#[cfg(target_os = "linux")]
mod accounts;
#[cfg(target_os = "linux")]
mod check;
#[cfg(target_os = "linux")]
mod control;
#[cfg(target_os = "linux")]
mod credential;
#[cfg(target_os = "linux")]
mod files;
#[cfg(target_os = "linux")]
mod greeting;
#[cfg(target_os = "linux")]
mod listener;
#[cfg(target_os = "linux")]
mod message;
#[cfg(target_os = "linux")]
mod mounts;
#[cfg(target_os = "linux")]
mod processes;
#[cfg(target_os = "linux")]
mod program;
#[cfg(target_os = "linux")]
mod reach;
#[cfg(target_os = "linux")]
mod relay;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod session;
#[cfg(target_os = "linux")]
mod signals;
#[cfg(target_os = "linux")]
mod syscalls;

#[cfg(target_os = "linux")]
pub mod entry;
