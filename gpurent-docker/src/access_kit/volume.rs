//! The volume that holds the kit on one engine.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType, MountVolumeOptions, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, ListVolumesOptionsBuilder, RemoveVolumeOptions,
    UploadToContainerOptionsBuilder,
};
use futures_util::StreamExt;
use gpurent_access::paths::KIT;
use gpurent_core::runtime::RuntimeError;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use crate::access_kit::AccessKit;
use crate::engine::error::{classify, is_missing, refusal, unavailable};
use crate::engine::helper_image;
use crate::engine::state::remove_by_name;

/// How often a volume that somebody else fills is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(40);
/// How long a filler may be there before whoever made it counts as dead, and launches wait for it. Filling takes less than a
/// second; to remove a slow one does no harm, as it fills in the same again.
const FILL_TIMEOUT: Duration = Duration::from_secs(5);
/// More than any kit has.
const MOST_BYTES: usize = 128 * 1024 * 1024;
/// A kit that no container uses is kept for so long: a container may be about to be made with it.
const KEEP_UNUSED: Duration = Duration::from_secs(60 * 60);

/// The kit on one engine.
pub(crate) struct KitVolume {
    pub(crate) kit: AccessKit,
    /// Held while the volume is looked at or filled.
    is_whole: Mutex<bool>,
}

impl KitVolume {
    pub(crate) fn new(kit: AccessKit) -> Self {
        Self { kit, is_whole: Mutex::new(false) }
    }

    /// Looks whether the volume is still there: somebody may have pruned it while no tenant ran, and the
    /// engine would silently make an empty one.
    pub(crate) async fn ensure_still(&self, docker: &Docker) -> Result<(), RuntimeError> {
        match docker.inspect_volume(&self.kit.volume()).await {
            Ok(_) => {}
            Err(error) if is_missing(&error) => return self.ensure_anew(docker).await,
            Err(error) => return Err(unavailable(error)),
        }
        self.ensure(docker).await
    }

    /// Looks at the volume again although it was whole: it was found missing, or empty by a container that has it.
    pub(crate) async fn ensure_anew(&self, docker: &Docker) -> Result<(), RuntimeError> {
        *self.is_whole.lock().await = false;
        self.ensure(docker).await
    }

    /// Makes sure that the volume holds the kit, whole: every file of it is read and compared once in this process's
    /// life, and put there anew where it is another. The volume is reached through a container of our own image, which
    /// is made, never started, and removed; its name keeps others from filling the volume at the same time.
    pub(crate) async fn ensure(&self, docker: &Docker) -> Result<(), RuntimeError> {
        let mut is_whole = self.is_whole.lock().await;
        if *is_whole {
            return Ok(());
        }
        helper_image::ensure(docker).await?;
        let volume = VolumeCreateRequest { name: Some(self.kit.volume()), ..VolumeCreateRequest::default() };
        docker.create_volume(volume).await.map_err(|error| classify(error, &[]))?;
        let filler = format!("{}-fill", self.kit.volume());
        let mut seen: Option<(String, Instant)> = None;
        loop {
            match self.create_filler(docker, &filler).await {
                Ok(()) => break,
                Err(error) if !matches!(refusal(&error), Some((409, _))) => return Err(classify(error, &[])),
                Err(_) => {}
            }
            let id = match docker.inspect_container(&filler, None).await {
                Ok(found) => found.id.unwrap_or_default(),
                Err(error) if is_missing(&error) => continue,
                Err(error) => return Err(unavailable(error)),
            };
            match &seen {
                Some((known, since)) if *known == id && since.elapsed() > FILL_TIMEOUT => {
                    remove_by_name(docker, &id).await?;
                }
                Some((known, _)) if *known == id => tokio::time::sleep(POLL_INTERVAL).await,
                _ => seen = Some((id, Instant::now())),
            }
        }
        let filled = self.fill(docker, &filler).await;
        remove_by_name(docker, &filler).await?;
        filled?;
        *is_whole = true;
        drop(is_whole);
        self.remove_former(docker).await;
        Ok(())
    }

    async fn create_filler(&self, docker: &Docker, name: &str) -> Result<(), bollard::errors::Error> {
        let body = ContainerCreateBody {
            image: Some(helper_image::image()),
            // Never run; an image without a command needs one to be accepted.
            entrypoint: Some(vec!["/none".to_owned()]),
            host_config: Some(HostConfig { mounts: Some(vec![kit_mount(&self.kit, false)]), ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        docker.create_container(Some(options), body).await.map(|_| ())
    }

    async fn fill(&self, docker: &Docker, filler: &str) -> Result<(), RuntimeError> {
        if self.holds_kit(docker, filler).await? {
            return Ok(());
        }
        let options = UploadToContainerOptionsBuilder::default().path(KIT).build();
        let archive = bollard::body_full(self.kit.archive().into());
        docker.upload_to_container(filler, Some(options), archive).await.map_err(|error| classify(error, &[]))?;
        if self.holds_kit(docker, filler).await? {
            return Ok(());
        }
        Err(RuntimeError::Refused(format!("the volume {} does not take the kit: remove it", self.kit.volume()).into()))
    }

    /// Whether every file of the kit is in the volume, as seen through a container that has it.
    async fn holds_kit(&self, docker: &Docker, filler: &str) -> Result<bool, RuntimeError> {
        let options = DownloadFromContainerOptionsBuilder::default().path(&format!("{KIT}/.")).build();
        let mut stream = docker.download_from_container(filler, Some(options));
        let mut found = Vec::new();
        while let Some(chunk) = stream.next().await {
            found.extend_from_slice(&chunk.map_err(|error| classify(error, &[]))?);
            if found.len() > MOST_BYTES {
                return Ok(false);
            }
        }
        let expected = self.kit.archive();
        let compare = move || {
            let (expected, found) = (contents(&expected)?, contents(&found)?);
            Ok::<_, std::io::Error>(expected.iter().all(|(path, entry)| found.get(path) == Some(entry)))
        };
        // Sixteen megabytes of hashes are too much for the executor's threads.
        let compared = tokio::task::spawn_blocking(compare).await;
        // An archive that cannot be read is no kit.
        Ok(compared.map_err(|panic| RuntimeError::Unavailable(Box::new(panic)))?.unwrap_or(false))
    }

    /// Removes the kits of former versions that nobody uses. Those in use the engine keeps.
    async fn remove_former(&self, docker: &Docker) {
        let filters = HashMap::from([("name".to_owned(), vec!["gpurent-kit-".to_owned()])]);
        let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
        let listed = match docker.list_volumes(Some(options)).await {
            Ok(listed) => listed.volumes.unwrap_or_default(),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "former kits were not looked for");
                return;
            }
        };
        let ours = self.kit.volume();
        let old = |made: Option<Timestamp>| {
            made.is_some_and(|made| Timestamp::now().duration_since(made).unsigned_abs() > KEEP_UNUSED)
        };
        for volume in listed.into_iter().filter(|volume| volume.name != ours && volume.name.starts_with("gpurent-kit-"))
        {
            let made = volume.created_at.as_ref().and_then(|made| made.to_string().parse().ok());
            if old(made) && docker.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await.is_ok() {
                tracing::info!(volume = volume.name, "an unused kit was removed");
            }
        }
    }
}

/// The contents of an archive: for each path its kind, and the hash of its content or where it leads.
fn contents(archive: &[u8]) -> std::io::Result<BTreeMap<String, (u8, Vec<u8>)>> {
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().trim_start_matches("./").trim_end_matches('/').to_owned();
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            continue;
        }
        let content = match entry.link_name()? {
            Some(link) => link.to_string_lossy().into_owned().into_bytes(),
            None => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                Sha256::digest(&content).to_vec()
            }
        };
        found.insert(path, (kind.as_byte(), content));
    }
    Ok(found)
}

/// The kit's volume. Without `no_copy` Docker would fill an empty volume from the image, and so let one
/// tenant's image bring the entry point of all others.
pub(crate) fn kit_mount(kit: &AccessKit, read_only: bool) -> Mount {
    Mount {
        target: Some(KIT.to_owned()),
        source: Some(kit.volume()),
        typ: Some(MountType::VOLUME),
        read_only: Some(read_only),
        volume_options: Some(MountVolumeOptions { no_copy: Some(true), ..MountVolumeOptions::default() }),
        ..Mount::default()
    }
}
