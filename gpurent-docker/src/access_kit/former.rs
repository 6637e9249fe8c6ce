//! Tenants that the version before this one started: they keep the kit of scripts and dropbear that they began with.
//!
//! Their kit's commands have the names that this one's still have; what differs is the form of the credential's files,
//! that a signal is what tells their program to end, and that a greeting is all that can be verified. To be removed once
//! no host can have such tenants any more.

use bollard::models::{ContainerInspectResponse, ImageConfig};
use gpurent_access::spec::Credential;
use gpurent_core::id::LaunchId;
use sha2::{Digest, Sha256};

use crate::access_kit::credential::AccessFile;

/// The entry point of their kit.
const INIT: &str = "/.gpurent/kit/init";

/// The names that former versions gave to a launch's container. The first told neighbours the rental's id (reverse DNS); the
/// second did not say which launch it is, so that nothing could be renamed.
pub(crate) fn names(launch: LaunchId) -> [String; 2] {
    let hash = Sha256::digest(format!("gpurent container {}/{}", launch.rental, launch.attempt));
    let hash: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    [format!("gpurent-{}-{}", launch.rental, launch.attempt), format!("gpurent-{hash}")]
}

/// Whether a container has the former kit.
pub(crate) fn has_kit(container: &ContainerInspectResponse) -> bool {
    let entry = container.config.as_ref().and_then(|config| config.entrypoint.as_deref());
    entry.is_some_and(|entry| entry == [INIT])
}

/// The files that the former script `let-in` reads. It knows one key alone: the first.
pub(crate) fn access_files(user: &str, credential: &Credential, image: &ImageConfig) -> Vec<AccessFile> {
    let (kind, hash, key) = match credential {
        Credential::Password(hash) => ("password", hash.as_str(), ""),
        Credential::Keys(keys) => ("key", "", keys.first().map(String::as_str).unwrap_or_default()),
    };
    let one_line = |text: Option<&str>| text.unwrap_or_default().lines().next().unwrap_or_default().to_owned();
    let signal: String = one_line(image.stop_signal.as_deref()).chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let files = [
        ("user", user.to_owned()),
        ("image-user", one_line(image.user.as_deref())),
        ("stop-signal", signal.strip_prefix("SIG").unwrap_or(&signal).to_owned()),
        ("password-hash", hash.to_owned()),
        ("authorized-key", key.to_owned()),
        // Last, so that what it names is there.
        ("kind", kind.to_owned()),
    ];
    files.into_iter().map(|(name, content)| (name, format!("{content}\n").into_bytes())).collect()
}
