//! The files that `sshd` reads for each connection: the server's keys, the renter's keys, and its configuration.

use std::io;
use std::path::Path;

use crate::files;
use crate::paths::{KIT, RUN};
use crate::spec::{Credential, Spec};

/// The configuration that each connection's `sshd` reads.
pub(crate) const CONFIG: &str = "/.gpurent/run/sshd_config";

/// Puts the credential and the server's keys in place. `accounts` has the password.
pub(crate) fn write(spec: &Spec) -> io::Result<()> {
    let run = Path::new(RUN);
    let mut config = files::read(Path::new(&format!("{KIT}/sshd_config")))?;
    for (number, key) in spec.host_keys.iter().enumerate() {
        let file = run.join(format!("host-key-{number}"));
        files::replace(&file, key.as_bytes(), 0o600)?;
        config.push_str(&format!("HostKey {}\n", file.display()));
    }
    // Where the container has one family alone, sshd would still ask for both, and give up forwarding X11 for it.
    if std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default().trim().is_empty() {
        config.push_str("AddressFamily inet\n");
    }
    let keys = match &spec.credential {
        Credential::Password(_) => String::new(),
        Credential::Keys(keys) => keys.iter().flat_map(|key| [key.as_str(), "\n"]).collect(),
    };
    // Read with the renter's rights; public keys are nobody's secret.
    files::replace(&run.join("authorized-keys"), keys.as_bytes(), 0o644)?;
    let (password, key) = match spec.credential {
        Credential::Password(_) => ("yes", "no"),
        Credential::Keys(_) => ("no", "yes"),
    };
    config.push_str(&format!(
        "AllowUsers {}\nPasswordAuthentication {password}\nPubkeyAuthentication {key}\nAuthorizedKeysFile {RUN}/authorized-keys\n",
        spec.login
    ));
    files::replace(Path::new(CONFIG), config.as_bytes(), 0o600)
}
