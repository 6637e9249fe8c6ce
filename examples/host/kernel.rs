//! Counts of the kernel that all tenants share with each other and with root, since without user namespaces they are one
//! user: one tenant can use them up, and nobody else gets any.

use std::path::Path;

use crate::finding::{Finding, Part};

/// A count, and how much of it each tenant should be able to have.
struct Count {
    setting: &'static str,
    each: u64,
    /// The work that nobody else can do where a tenant uses it up.
    without: &'static str,
}

/// Counts whose limits are low by default.
const COUNTS: [Count; 3] = [
    Count { setting: "fs.inotify.max_user_instances", each: 128, without: "watches files" },
    Count { setting: "kernel.pty.max", each: 4096, without: "gets a terminal" },
    Count { setting: "fs.aio-max-nr", each: 65_536, without: "starts a database with asynchronous I/O" },
];

/// The counts by which so many tenants can keep each other from something.
pub fn scarce_counts(tenants: u32) -> Vec<Finding> {
    let scarce = COUNTS.iter().filter_map(|Count { setting, each, without }| {
        let file = Path::new("/proc/sys").join(setting.replace('.', "/"));
        let wanted = too_few(&file, *each, tenants)?;
        let found = format!("one tenant can use up what all share, so that nobody else {without}");
        Some(Finding::new(Part::Kernel, found, format!("sysctl -w {setting}={wanted}")))
    });
    scarce.collect()
}

/// How many there should be, where there are fewer; `None` too where nobody can tell.
fn too_few(setting: &Path, each: u64, tenants: u32) -> Option<u64> {
    let wanted = each.saturating_mul(u64::from(tenants) + 1);
    // Another system's kernel, or one that has no such thing.
    let found: u64 = std::fs::read_to_string(setting).ok()?.trim().parse().ok()?;
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
        assert_eq!(too_few(&setting, 128, 8), Some(1152));
        std::fs::write(&setting, "8192\n").unwrap();
        assert_eq!(too_few(&setting, 128, 8), None);
        assert_eq!(too_few(Path::new("/nowhere"), 128, 8), None);
    }
}
