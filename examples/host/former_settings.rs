//! Settings of other agents' environments that this host does not read, and what takes their place: an operator who moves an
//! `.env` file over hears of each.

use crate::finding::{Finding, Part};

/// Each variable, and what is to be known of it.
const NOT_READ: [(&str, &str); 7] = [
    ("DOCKER_MEM_SWAP", "containers have no swap besides their memory"),
    ("DOCKER_CPU_PERCENT", "engines on Linux have no such limit; DOCKER_CPU is read"),
    ("DOCKER_HOSTNAME", "a container's host name is the beginning of its id"),
    ("SUDO_PASSWORD", "who may become root is said by --allow-sudo"),
    ("GUEST_OS_MOUNT", "offer folders with --workspace-read-only FOLDER:WHERE"),
    ("QVP_BINARY_MOUNT", "offer folders with --workspace-read-only FOLDER:WHERE"),
    ("TOOLS_MOUNT", "offer folders with --workspace-read-only FOLDER:WHERE"),
];

/// Each of these variables that is set.
pub fn findings(is_set: impl Fn(&str) -> bool) -> Vec<Finding> {
    let set = NOT_READ.iter().filter(|(name, _)| is_set(name));
    set.map(|(name, instead)| {
        Finding::new(Part::Settings, format!("{name} is set and not read"), format!("unset it; {instead}"))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_named_and_nothing_else() {
        assert_eq!(findings(|_| false), []);
        let said: Vec<_> =
            findings(|name| name == "DOCKER_MEM_SWAP" || name == "PATH").iter().map(Finding::to_string).collect();
        assert_eq!(
            said,
            ["DOCKER_MEM_SWAP is set and not read; to mend it: unset it; containers have no swap besides their memory"]
        );
    }
}
