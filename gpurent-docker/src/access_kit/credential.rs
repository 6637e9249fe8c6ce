//! The spec that one container's entry point reads of its renter. Passwords go in hashed.

use bollard::models::ImageConfig;
use gpurent_access::paths::{ACCESS, SPEC};
use gpurent_access::spec;
use gpurent_access::spec::{Greeting, ProcessOne, Spec, Tokens};
use gpurent_core::model::{Credential, GeneratedHostKeys, HostKeySource, Secrets};
use gpurent_core::runtime::{LaunchSpec, RuntimeError};
use rand::distr::{Alphanumeric, SampleString};
use sha_crypt::{PasswordHasher, ShaCrypt};

/// A file for a container, with its name in the access folder.
pub(crate) type AccessFile = (&'static str, Vec<u8>);

/// A credential as it goes into a container: never the clear password.
pub(crate) async fn hashed(credential: &Credential) -> Result<spec::Credential, RuntimeError> {
    Ok(match credential {
        Credential::Password(password) => {
            let hash = hash(password.expose().to_owned()).await;
            spec::Credential::Password(hash.map_err(|error| RuntimeError::Refused(Box::new(error)))?)
        }
        Credential::PublicKeys(keys) => {
            spec::Credential::Keys(keys.iter().map(|key| key.as_str().to_owned()).collect())
        }
    })
}

/// Tokens that nobody has had before.
fn tokens() -> Tokens {
    let token = || Alphanumeric.sample_string(&mut rand::rng(), 32);
    Tokens { question: token(), answer: token() }
}

/// Everything that a container's entry point is told.
pub(crate) async fn spec_of(
    launch: &LaunchSpec,
    secrets: &Secrets,
    image: &ImageConfig,
    sudo: bool,
) -> Result<Spec, RuntimeError> {
    let sets_home = |entry: &String| entry.starts_with("HOME=");
    let image_sets_home = image.env.as_deref().unwrap_or_default().iter().any(sets_home);
    // A rental that an earlier version made has none that are kept.
    let host_keys = if secrets.host_keys.is_empty() { GeneratedHostKeys.next() } else { secrets.host_keys.clone() };
    let one_line =
        |text: &Option<String>| text.as_deref().unwrap_or_default().lines().next().unwrap_or_default().to_owned();
    Ok(Spec {
        login: launch.login.as_str().to_owned(),
        credential: hashed(&secrets.credential).await?,
        host_keys: host_keys.iter().map(|key| key.expose().to_owned()).collect(),
        program_user: one_line(&image.user),
        home_is_the_engines: !image_sets_home && launch.environment.get("HOME").is_none(),
        stop_signal: one_line(&image.stop_signal),
        process_one: match launch.init {
            None => ProcessOne::Detect,
            Some(true) => ProcessOne::Access,
            Some(false) => ProcessOne::Image,
        },
        sudo,
        tokens: tokens(),
        greeting: greeting(launch),
    })
}

fn greeting(launch: &LaunchSpec) -> Greeting {
    let name = launch.claim.as_ref().map_or_else(|| launch.id.rental.to_string(), |claim| claim.name.to_string());
    let left = launch.claim.as_ref().and_then(|claim| {
        let left = claim.spec.term.duration()?.checked_sub(claim.used)?;
        u64::try_from(left.as_secs()).ok()
    });
    Greeting { name, seconds: left, survives: launch.workspace.as_ref().map(|workspace| workspace.mount.to_string()) }
}

/// The one file that a spec is.
pub(crate) fn file(spec: &Spec) -> Vec<AccessFile> {
    vec![(SPEC, spec.encode())]
}

/// Files as an archive to be unpacked at the root.
pub(crate) fn archive(files: &[AccessFile]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let folder = ACCESS.trim_start_matches('/');
    crate::access_kit::append(&mut tar, &format!("{folder}/"), tar::EntryType::Directory, 0o700, &[])?;
    for (name, content) in files {
        crate::access_kit::append(&mut tar, &format!("{folder}/{name}"), tar::EntryType::Regular, 0o600, content)?;
    }
    tar.into_inner()
}

async fn hash(password: String) -> Result<String, std::io::Error> {
    // Thousands of rounds on purpose: not on the executor's threads.
    let hashed = tokio::task::spawn_blocking(move || {
        // 12 bytes are 16 letters of salt: crypt(3) reads no more, and so cannot verify a longer one.
        let salt: [u8; 12] = rand::random();
        ShaCrypt::default().hash_password_with_salt(password.as_bytes(), &salt).map(|hash| hash.to_string())
    });
    hashed.await.map_err(std::io::Error::other)?.map_err(|error| std::io::Error::other(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_goes_in_hashed() {
        let password = gpurent_core::model::Password::new("opensesame".to_owned()).unwrap();
        let hashed = hashed(&Credential::Password(password)).await.unwrap();
        let spec::Credential::Password(hash) = hashed else { panic!("no password any more") };
        assert!(hash.starts_with("$6$") && !hash.contains("opensesame"));
    }
}
