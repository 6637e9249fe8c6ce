//! Counts of the kernel that all tenants share with each other and with root, since without user namespaces they are one
//! user: one tenant can use them up.

use std::path::Path;

/// What a tenant may need of inotify instances, by the kernel's own word: as many as it gives to one user.
const PER_TENANT: u32 = 128;

/// Warns of a machine where one tenant can keep all others, and the host itself, from watching files.
pub fn warn_of_scarce_inotify(tenants: u32) {
    let setting = "/proc/sys/fs/inotify/max_user_instances";
    if let Some(wanted) = too_few(Path::new(setting), tenants) {
        tracing::warn!(
            "inotify instances are scarce, and one tenant can use them all up: sysctl -w \
             fs.inotify.max_user_instances={wanted}, or run the engine with userns-remap"
        );
    }
}

/// How many there should be, where there are fewer; `None` too where nobody can tell.
fn too_few(setting: &Path, tenants: u32) -> Option<u32> {
    let wanted = PER_TENANT.saturating_mul(tenants.saturating_add(1));
    // Another system's kernel, or one without inotify.
    let found: u32 = std::fs::read_to_string(setting).ok()?.trim().parse().ok()?;
    (found < wanted).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tenant_and_the_host_have_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let setting = folder.path().join("max_user_instances");
        std::fs::write(&setting, "128\n").unwrap();
        assert_eq!(too_few(&setting, 8), Some(1152));
        std::fs::write(&setting, "8192\n").unwrap();
        assert_eq!(too_few(&setting, 8), None);
        assert_eq!(too_few(Path::new("/nowhere"), 8), None);
    }
}
