//! The volume that holds the kit on one engine.

use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, VolumeCreateRequest};
use bollard::query_parameters::{
    ContainerArchiveInfoOptionsBuilder, CreateContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use gpurent_core::runtime::RuntimeError;
use tokio::sync::Mutex;

use super::{AccessKit, MARKER, MOUNT};
use crate::container::kit_mount;
use crate::error::{classify, is_missing, refusal, unavailable};
use crate::state::remove_by_name;

/// How often a volume that somebody else fills is looked at, and for how long.
const LOOK_EVERY: Duration = Duration::from_millis(40);
const SETTLE: Duration = Duration::from_secs(30);

/// The kit on one engine.
pub(crate) struct KitVolume {
    pub(crate) kit: AccessKit,
    /// Held while the volume is looked at or filled.
    is_there: Mutex<bool>,
}

impl KitVolume {
    pub(crate) fn new(kit: AccessKit) -> Self {
        Self { kit, is_there: Mutex::new(false) }
    }

    /// Looks whether the volume is still there: somebody may have pruned it while no tenant ran, and the
    /// engine would silently make an empty one.
    pub(crate) async fn ensure_still(&self, docker: &Docker, image: &str) -> Result<(), RuntimeError> {
        match docker.inspect_volume(&self.kit.volume()).await {
            Ok(_) => {}
            Err(error) if is_missing(&error) => *self.is_there.lock().await = false,
            Err(error) => return Err(unavailable(error)),
        }
        self.ensure(docker, image).await
    }

    /// Puts the kit into its volume unless it is there. The volume is filled through a container that is
    /// made, never started, and removed; its name keeps others from filling the volume at the same time.
    pub(crate) async fn ensure(&self, docker: &Docker, image: &str) -> Result<(), RuntimeError> {
        let mut is_there = self.is_there.lock().await;
        if *is_there {
            return Ok(());
        }
        let volume = VolumeCreateRequest { name: Some(self.kit.volume()), ..VolumeCreateRequest::default() };
        docker.create_volume(volume).await.map_err(|error| classify(error, &[]))?;
        let filler = format!("{}-fill", self.kit.volume());
        let begun = Instant::now();
        loop {
            match self.create_filler(docker, &filler, image).await {
                Ok(_) => break,
                Err(error) if !matches!(refusal(&error), Some((409, _))) => return Err(classify(error, &[])),
                Err(_) if has_kit(docker, &filler).await => {
                    *is_there = true;
                    return Ok(());
                }
                // Whoever made it died over it.
                Err(_) if begun.elapsed() > SETTLE => remove_by_name(docker, &filler).await?,
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
        let filled = self.fill(docker, &filler).await;
        remove_by_name(docker, &filler).await?;
        filled?;
        *is_there = true;
        Ok(())
    }

    async fn create_filler(&self, docker: &Docker, name: &str, image: &str) -> Result<(), bollard::errors::Error> {
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            // Never run; an image without a command needs one to be accepted.
            entrypoint: Some(vec!["/none".to_owned()]),
            host_config: Some(HostConfig { mounts: Some(vec![kit_mount(&self.kit, false)]), ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        docker.create_container(Some(options), body).await.map(|_| ())
    }

    async fn fill(&self, docker: &Docker, filler: &str) -> Result<(), RuntimeError> {
        if has_kit(docker, filler).await {
            return Ok(());
        }
        let options = UploadToContainerOptionsBuilder::default().path(MOUNT).build();
        let archive = bollard::body_full(self.kit.archive().into());
        docker.upload_to_container(filler, Some(options), archive).await.map_err(|error| classify(error, &[]))
    }
}

/// Whether the kit is complete, as seen through the filler: its last file is there.
async fn has_kit(docker: &Docker, filler: &str) -> bool {
    let marker = ContainerArchiveInfoOptionsBuilder::default().path(MARKER).build();
    docker.get_container_archive_info(filler, Some(marker)).await.is_ok()
}
