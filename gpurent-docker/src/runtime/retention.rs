//! The containers of suspended rentals: put away, taken over as they are, or copied.
//!
//! What a container wrote lies in its own layer. Docker starts a stopped container with the GPUs and ports that it was made
//! with, so it is taken over as it is where those are the same, under the next launch's name; elsewhere its layer becomes an
//! image of its own (`docker commit`), of which the next launch's container is made. Each step is told by the engine itself,
//! by names, so that a crash in between leaves nothing to be remembered.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerConfig, ContainerInspectResponse, ImageInspect, Mount, MountType, MountVolumeOptions};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, InspectContainerOptionsBuilder, KillContainerOptionsBuilder,
    ListImagesOptionsBuilder, RemoveImageOptionsBuilder, RemoveVolumeOptions, RenameContainerOptionsBuilder,
};
use gpurent_core::id::{Attempt, LaunchId, RentalId};
use gpurent_core::model::{Files, Retained, Secrets};
use gpurent_core::runtime::{Created, LaunchSpec, Progress, PullProgress, RuntimeError, labels};

use super::DockerRuntime;
use super::credentials::access_folder;
use crate::access_kit::{credential, former};
use crate::container::names::{Named, Standing};
use crate::container::{LABEL_FILES_OF, LABEL_IMAGE, names};
use crate::control::credential_dir as access_dir;
use crate::engine::error::{classify, is_missing, refusal, unavailable};
use crate::engine::helper_image::MARKS;
use crate::engine::state::{container_id, is_running, remove_by_name};
use crate::network;

/// How long the engine may take to copy what a container wrote.
const COPY_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long it may take to tell how much that is.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(5);

/// The containers of the launches before a new one, as it finds them.
enum Before {
    /// Nothing: its files are gone.
    Nothing,
    /// A container that has what this launch needs: it is started again.
    Same(Box<ContainerInspectResponse>, LaunchId),
    /// A container with other GPUs, ports or credentials' folder, and the launch that it was: its files are copied.
    Other(Box<ContainerInspectResponse>, LaunchId),
}

/// The parts of a container that is made anew with another one's files.
pub(super) struct Copy {
    /// The image of those files.
    pub(super) image: ImageInspect,
    /// The image that the rental asked for.
    pub(super) original: ImageInspect,
    /// The volumes of the other container, which have no other copy.
    pub(super) volumes: Vec<Mount>,
}

impl Copy {
    /// The bytes of all copies that lie above the image that the rental asked for.
    pub(super) fn bytes(&self) -> u64 {
        let size = |image: &ImageInspect| image.size.unwrap_or_default();
        u64::try_from(size(&self.image) - size(&self.original)).unwrap_or(0)
    }
}

impl DockerRuntime {
    /// Makes sure that a launch that takes files over finds them: in the container as it is, or copied. False where there
    /// are none.
    pub(super) async fn prepare_files(
        &self,
        launch: &LaunchSpec,
        progress: &dyn PullProgress,
    ) -> Result<bool, RuntimeError> {
        let found = names::of_rental(&self.docker, launch.id.rental).await?;
        if found.iter().any(|named| named.launch == launch.id && named.standing != Standing::Retained) {
            return Ok(true);
        }
        // The name of the network is in it, and the engine may have to be asked.
        network::ensure(&self.docker).await?;
        match self.before(launch).await? {
            Before::Nothing => Ok(false),
            Before::Same(..) => Ok(true),
            Before::Other(last, of) => {
                match self.look_into(&last, launch).await {
                    // It cannot be mounted as it is any more: the copy is looked at, when a container is made of it.
                    Ok(()) | Err(RuntimeError::Unavailable(_)) => {}
                    Err(refused) => return Err(refused),
                }
                self.copy_files(of, &last, progress).await?;
                Ok(true)
            }
        }
    }

    /// Takes over the rental's last container as it is, or finds that this was done. `None` where a new one is to be made.
    pub(super) async fn take_up(
        &self,
        launch: &LaunchSpec,
        secrets: &Secrets,
    ) -> Result<Option<Created>, RuntimeError> {
        let found = names::of_rental(&self.docker, launch.id.rental).await?;
        let is_over = |named: &Named| {
            named.launch.attempt > launch.id.attempt
                || (named.launch == launch.id && named.standing == Standing::Retained)
        };
        if found.iter().any(is_over) {
            return Err(RuntimeError::Unavailable("a later launch of the rental is there".into()));
        }
        if let Some(named) = found.iter().find(|named| named.launch == launch.id && named.standing == Standing::TakenUp)
        {
            let container = self.inspect(named.id()).await?.ok_or(RuntimeError::Missing)?;
            return self.let_in(launch, container, secrets, false).await.map(Some);
        }
        if found.iter().any(|named| named.launch == launch.id) {
            return Ok(None);
        }
        let Before::Same(last, before) = self.before(launch).await? else { return Ok(None) };
        self.look_into(&last, launch).await?;
        let id = last.id.clone().unwrap_or_default();
        let options = RenameContainerOptionsBuilder::default().name(&Standing::TakenUp.name(launch.id)).build();
        self.docker.rename_container(&id, options).await.map_err(unavailable)?;
        tracing::debug!(launch = %launch.id, %before, "the rental's last container is taken over as it is");
        self.let_in(launch, *last, secrets, true).await.map(Some)
    }

    /// Makes sure that a stopped container may be started again, or copied: its tenant may have laid anything in it.
    async fn look_into(&self, last: &ContainerInspectResponse, launch: &LaunchSpec) -> Result<(), RuntimeError> {
        let workspace = launch.workspace.as_ref().map(|workspace| &workspace.mount);
        let config = self.original(last).await?.config.unwrap_or_default();
        if let Some(folder) = access_folder(last) {
            // The engine looks into no container of which it cannot mount everything.
            access_dir::write(&folder, &[]).await.map_err(|error| RuntimeError::Unavailable(Box::new(error)))?;
        }
        let id = last.id.as_deref().unwrap_or_default();
        self.screening.expect_harmless_container(&self.docker, id, &config, workspace).await
    }

    /// Hands the launch's credentials over to a container that was taken up, and has not been started since.
    async fn let_in(
        &self,
        launch: &LaunchSpec,
        container: ContainerInspectResponse,
        secrets: &Secrets,
        is_new: bool,
    ) -> Result<Created, RuntimeError> {
        let config = self.original(&container).await?.config.unwrap_or_default();
        let spec = credential::spec_of(launch, secrets, &config, self.sudo).await?;
        let folder = access_folder(&container);
        let name = container.id.clone().unwrap_or_default();
        self.hand_over(&name, &credential::file(&spec), folder.as_deref()).await?;
        if let (Some(folder), Some(directory)) = (&folder, &self.access_dir) {
            directory.lead(launch.id, folder).await.map_err(|error| RuntimeError::Refused(Box::new(error)))?;
            // Before the container calls.
            self.line(launch.id);
        }
        self.known_tokens().insert(launch.id, spec.tokens);
        let labels = container.config.and_then(|config| config.labels).unwrap_or_default();
        Ok(Created {
            container: container_id(container.id.unwrap_or_default())?,
            gpus_attached: labels::gpus_attached(&labels),
            is_new,
            image: None,
            files: Files::Same,
            copied_bytes: 0,
        })
    }

    /// Starts a container that was taken over from an earlier launch, or finds it started; then it is its launch's. False
    /// where there is none.
    pub(super) async fn start_taken_up(&self, launch: &LaunchSpec) -> Result<bool, RuntimeError> {
        let name = Standing::TakenUp.name(launch.id);
        let Some(found) = self.inspect(&name).await? else { return Ok(false) };
        if !is_running(&found.state.unwrap_or_default()) {
            self.start_container(&name, launch).await?;
            self.firewall.isolate_new().await;
        }
        let options = RenameContainerOptionsBuilder::default().name(&Standing::Current.name(launch.id)).build();
        self.docker.rename_container(&name, options).await.map_err(unavailable)?;
        Ok(true)
    }

    /// The parts of a new container for a launch that takes files over; `None` where there are none.
    pub(super) async fn copy_for(&self, launch: &LaunchSpec) -> Result<Option<Copy>, RuntimeError> {
        if !launch.carries_files {
            return Ok(None);
        }
        let (last, of) = match self.before(launch).await? {
            Before::Nothing => return Ok(None),
            Before::Same(last, of) | Before::Other(last, of) => (last, of),
        };
        let Some(image) = self.inspect_image(&files_of(of)).await? else {
            return Err(RuntimeError::Unavailable("the rental's files are not copied yet".into()));
        };
        Ok(Some(Copy { image, original: self.original(&last).await?, volumes: own_volumes(&last) }))
    }

    /// Looks at the rental's latest container before this launch, which is put away first.
    async fn before(&self, launch: &LaunchSpec) -> Result<Before, RuntimeError> {
        let found = names::of_rental(&self.docker, launch.id.rental).await?;
        let earlier: Vec<Named> = found.into_iter().filter(|named| named.launch.attempt < launch.id.attempt).collect();
        let Some(last) = earlier.last() else { return Ok(Before::Nothing) };
        let of = last.launch;
        if earlier.iter().any(|named| named.standing != Standing::Retained) {
            self.put_away(last.launch).await?;
        }
        let Some(last) = self.inspect(last.id()).await? else {
            return Err(RuntimeError::Unavailable("the rental's last container changes at the moment".into()));
        };
        let labels = last.config.as_ref().and_then(|config| config.labels.clone()).unwrap_or_default();
        let Some(made_for) = labels::launch_of(&labels) else { return Ok(Before::Other(Box::new(last), of)) };
        let attaches = self.attaching.attaches(&self.docker, &self.kit.kit, launch).await?;
        let folder = self.access_dir().await.map(|directory| directory.folder(made_for));
        let is_same = labels::is_made_of(&labels, launch)
            && labels::gpus_attached(&labels) == attaches
            && access_folder(&last) == folder
            && !former::has_kit(&last)
            && self.is_locked_as_now(&last)
            && self.has_the_network(&last).await?;
        Ok(if is_same { Before::Same(Box::new(last), of) } else { Before::Other(Box::new(last), of) })
    }

    /// Whether a container has the locks that a new one would have: the operator may have changed that.
    fn is_locked_as_now(&self, container: &ContainerInspectResponse) -> bool {
        let options = container.host_config.as_ref().and_then(|config| config.security_opt.as_ref());
        let may_gain = !options.into_iter().flatten().any(|option| option.starts_with("no-new-privileges"));
        may_gain == self.sudo
    }

    /// Whether the network that a container was made for is still there: unused ones are often pruned.
    async fn has_the_network(&self, container: &ContainerInspectResponse) -> Result<bool, RuntimeError> {
        let networks = container.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
        let made_for = networks.and_then(|networks| networks.get(network::NAME)?.network_id.clone());
        Ok(made_for.as_ref().is_some_and(|id| !id.is_empty()) && made_for == network::id(&self.docker).await?)
    }

    /// Makes an image of what a container wrote, unless there is one already: it was put away, and nobody writes any more.
    /// Goes on where nobody waits for it any more, and is not done twice at once.
    async fn copy_files(
        &self,
        of: LaunchId,
        last: &ContainerInspectResponse,
        progress: &dyn PullProgress,
    ) -> Result<(), RuntimeError> {
        let name = files_of(of);
        if self.inspect_image(&name).await?.is_some() {
            return Ok(());
        }
        if !self.copying().insert(of) {
            return Err(RuntimeError::Unavailable("the rental's files are being copied".into()));
        }
        let id = last.id.clone().unwrap_or_default();
        let bytes = self.size_of(&id).await.unwrap_or_default();
        let status = "Copying the files of the suspended container".to_owned();
        progress.update(Progress { current_bytes: 0, total_bytes: bytes, status });
        let (docker, copying) = (self.docker.clone(), Arc::clone(&self.copying));
        let copied = tokio::spawn(async move {
            let copied = copy(&docker, &id, of, &name).await;
            copying.lock().unwrap_or_else(PoisonError::into_inner).remove(&of);
            copied
        });
        copied.await.map_err(|panic| RuntimeError::Unavailable(Box::new(panic)))??;
        progress.update(Progress { current_bytes: bytes, total_bytes: bytes, status: "Files copied".to_owned() });
        Ok(())
    }

    fn copying(&self) -> MutexGuard<'_, BTreeSet<LaunchId>> {
        self.copying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image that a container's rental asked for: its own, or, of one that was made with copied files, the one before.
    pub(super) async fn original(&self, container: &ContainerInspectResponse) -> Result<ImageInspect, RuntimeError> {
        let labels = container.config.as_ref().and_then(|config| config.labels.as_ref());
        let id = labels.and_then(|labels| labels.get(LABEL_IMAGE)).or(container.image.as_ref());
        let id = id.ok_or_else(|| RuntimeError::Unavailable("the engine does not tell a container's image".into()))?;
        self.docker.inspect_image(id).await.map_err(|error| classify(error, &[]))
    }

    async fn inspect_image(&self, name: &str) -> Result<Option<ImageInspect>, RuntimeError> {
        match self.docker.inspect_image(name).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// The bytes that a container wrote; `None` where the engine does not tell soon.
    async fn size_of(&self, container: &str) -> Option<u64> {
        let options = InspectContainerOptionsBuilder::default().size(true).build();
        let asked =
            tokio::time::timeout(MEASURE_TIMEOUT, self.docker.inspect_container(container, Some(options))).await;
        // Where it is not known, the rental counts with all that it may have, and people are told no number.
        asked.ok()?.ok()?.size_rw.and_then(|bytes| u64::try_from(bytes).ok())
    }

    /// Puts a rental's containers away, up to this launch: see [`ContainerRuntime::retain`](super::ContainerRuntime::retain).
    pub(super) async fn put_away(&self, launch: LaunchId) -> Result<Option<Retained>, RuntimeError> {
        let found = names::of_rental(&self.docker, launch.rental).await?;
        let mut latest = None;
        for named in found.into_iter().filter(|named| named.launch.attempt <= launch.attempt) {
            self.forget(named.launch).await;
            // By names alone: by then it may be another launch's, and is not to be touched.
            let name = Standing::Retained.name(named.launch);
            if named.standing != Standing::Retained {
                // From here on nothing that was sent for its launch arrives.
                let options = RenameContainerOptionsBuilder::default().name(&name).build();
                match self.docker.rename_container(&named.name, options).await {
                    Ok(()) => {}
                    Err(error) if is_missing(&error) => continue,
                    Err(error) => return Err(unavailable(error)),
                }
            }
            let Some(container) = self.inspect(&name).await? else { continue };
            if is_running(container.state.as_ref().unwrap_or(&Default::default())) {
                let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
                self.docker.kill_container(&name, Some(options)).await.map_err(unavailable)?;
                return Err(RuntimeError::Unavailable("a container to be put away was still running".into()));
            }
            latest = Some((named.launch, container));
        }
        if let Some(directory) = &self.access_dir {
            let removed = directory.remove_up_to(launch).await;
            removed.map_err(|error| RuntimeError::Unavailable(Box::new(error)))?;
        }
        let Some((launch, container)) = latest else { return Ok(None) };
        self.retention(launch, &container).await.map(Some)
    }

    /// The files of a container that was put away, as far as they are kept.
    pub(super) async fn retention(
        &self,
        launch: LaunchId,
        container: &ContainerInspectResponse,
    ) -> Result<Retained, RuntimeError> {
        let labels = container.config.as_ref().and_then(|config| config.labels.clone()).unwrap_or_default();
        let (gpus, ports) = labels::claim_of(&labels).map(|claim| (claim.gpus, claim.ports)).unwrap_or_default();
        let id = container.id.clone().unwrap_or_default();
        Ok(Retained {
            attempt: launch.attempt,
            bytes: self.size_of(&id).await,
            container: container_id(id)?,
            gpus: gpus.into_iter().map(|gpu| gpu.uuid).collect(),
            ports,
        })
    }

    /// Removes a rental's containers, up to this launch, with what only they had: volumes and copies of files.
    pub(super) async fn remove_up_to(&self, launch: LaunchId) -> Result<(), RuntimeError> {
        let found = names::of_rental(&self.docker, launch.rental).await?;
        for named in found.iter().filter(|named| named.launch.attempt <= launch.attempt) {
            let Some(container) = self.inspect(named.id()).await? else { continue };
            remove_by_name(&self.docker, named.id()).await?;
            self.forget(named.launch).await;
            // The engine takes those for named ones that were handed on.
            for volume in own_volumes(&container) {
                self.remove_volume(volume.source.as_deref().unwrap_or_default()).await?;
            }
        }
        // No first launch takes files over.
        if launch.attempt > Attempt::new(1) {
            self.remove_copies(launch.rental).await?;
        }
        Ok(())
    }

    async fn remove_volume(&self, name: &str) -> Result<(), RuntimeError> {
        match self.docker.remove_volume(name, None::<RemoveVolumeOptions>).await {
            Ok(()) => Ok(()),
            // Gone with its container; or the rental's next container has it.
            Err(error) if matches!(refusal(&error), Some((404 | 409, _))) => Ok(()),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Removes the copies of a rental's files that no container is made of.
    async fn remove_copies(&self, rental: RentalId) -> Result<(), RuntimeError> {
        let filters = [("label".to_owned(), vec![format!("{LABEL_FILES_OF}={rental}")])].into();
        let options = ListImagesOptionsBuilder::default().filters(&filters).build();
        let mut images = self.docker.list_images(Some(options)).await.map_err(unavailable)?;
        // A copy of a copy goes before what it is a copy of.
        images.sort_by_key(|image| Reverse(image.created));
        for image in images {
            let options = RemoveImageOptionsBuilder::default().build();
            match self.docker.remove_image(&image.id, Some(options), None).await {
                Ok(_) => {}
                // Gone already, or a container is made of it.
                Err(error) if matches!(refusal(&error), Some((404 | 409, _))) => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
        Ok(())
    }
}

/// Makes an image of what a container wrote; of a rental that has ended meanwhile nothing is left.
async fn copy(docker: &Docker, container: &str, of: LaunchId, name: &str) -> Result<(), RuntimeError> {
    let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
    let options =
        CommitContainerOptionsBuilder::default().container(container).repo(repository).tag(tag).pause(false).build();
    let labels = [(LABEL_FILES_OF.to_owned(), of.rental.to_string())];
    let config = ContainerConfig { labels: Some(labels.into()), ..ContainerConfig::default() };
    let copied = docker.clone().with_timeout(COPY_TIMEOUT).commit_container(options, config).await;
    // An engine whose disk is full says so by this.
    copied.map_err(|error| classify(error, &[]))?;
    if names::of_rental(docker, of.rental).await?.is_empty() {
        let options = RemoveImageOptionsBuilder::default().build();
        docker.remove_image(name, Some(options), None).await.map_err(unavailable)?;
        return Err(RuntimeError::Missing);
    }
    Ok(())
}

/// The name of the image with the files of a launch. Nobody rents it.
fn files_of(launch: LaunchId) -> String {
    format!("{MARKS}/files:{}", launch.container_name())
}

/// The volumes that the engine made for this container alone, or for the one whose files it took over: they have a random
/// name of 64 digits.
fn own_volumes(container: &ContainerInspectResponse) -> Vec<Mount> {
    let mounts = container.mounts.iter().flatten();
    let volumes = mounts.filter(|mount| mount.typ.as_deref() == Some("volume"));
    let is_its_own = |name: &String| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    volumes
        .filter_map(|mount| {
            Some(Mount {
                target: mount.destination.clone(),
                source: Some(mount.name.clone().filter(is_its_own)?),
                typ: Some(MountType::VOLUME),
                volume_options: Some(MountVolumeOptions { no_copy: Some(true), ..MountVolumeOptions::default() }),
                ..Mount::default()
            })
        })
        .collect()
}
