//! The engine's view of containers, one by one, and waiting for what it is about to do.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

use bollard::models::{ContainerCreateBody, ContainerInspectResponse, ContainerState, ContainerStateStatusEnum};
use bollard::query_parameters::CreateContainerOptionsBuilder;
use gpurent_core::id::LaunchId;
use gpurent_core::model::Files;
use gpurent_core::runtime::{ContainerStatus, Created, LaunchSpec, ObservedContainer, RuntimeError, labels};

use crate::container::LABEL_IMAGE;
use crate::container::names::{Named, Standing};
use crate::engine::error::{is_missing, refusal, unavailable};
use crate::engine::helper_image;
use crate::engine::state::{container_id, exit, is_running, presence, remove_by_name};
use crate::image;
use crate::runtime::credentials::access_folder;
use crate::runtime::{DockerRuntime, INSPECT_TIMEOUT, POLL_INTERVAL, REMOVAL_TIMEOUT, as_of_this_launch};

impl DockerRuntime {
    /// The name of a launch's container, whether or not there is one.
    pub(crate) async fn name(&self, launch: LaunchId) -> Result<String, RuntimeError> {
        self.names.of(&self.docker, launch).await
    }

    /// A launch's container, whatever it is named by now, and how it stands.
    pub(super) async fn find(
        &self,
        launch: LaunchId,
    ) -> Result<Option<(Standing, ContainerInspectResponse)>, RuntimeError> {
        if let Some(found) = self.inspect(&self.name(launch).await?).await? {
            return Ok(Some((Standing::Current, found)));
        }
        for standing in [Standing::TakenUp, Standing::Retained] {
            if let Some(mut found) = self.inspect(&standing.name(launch)).await? {
                if standing == Standing::TakenUp {
                    found.state = found.state.map(as_of_this_launch);
                }
                return Ok(Some((standing, found)));
            }
        }
        Ok(None)
    }

    pub(super) async fn inspect(&self, name: &str) -> Result<Option<ContainerInspectResponse>, RuntimeError> {
        match self.docker.inspect_container(name, None).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// The state of a launch's container that was not put away.
    pub(super) async fn state(&self, launch: LaunchId) -> Result<Option<ContainerState>, RuntimeError> {
        let found = self.find(launch).await?.filter(|(standing, _)| *standing != Standing::Retained);
        Ok(found.map(|(_, container)| container.state.unwrap_or_default()))
    }

    /// Forgets what is known of a launch's container.
    pub(super) async fn forget(&self, launch: LaunchId) {
        if let Ok(name) = self.name(launch).await {
            self.execs.forget(&name);
        }
        self.never_started().remove(&launch);
        self.known_tokens().remove(&launch);
        self.lines.close(launch);
        self.name_servers.forget(launch);
    }

    pub(super) fn being_made(&self) -> MutexGuard<'_, BTreeSet<LaunchId>> {
        self.being_made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that the engine is not still making a container whose making did not come back: it has its name from the
    /// beginning, and shows only in the end. An image with a large volume can keep it busy for minutes.
    pub(super) async fn expect_not_being_made(&self, launch: LaunchId, name: &str) -> Result<(), RuntimeError> {
        if !self.being_made().contains(&launch) {
            return Ok(());
        }
        helper_image::ensure(&self.docker).await?;
        let body = ContainerCreateBody {
            image: Some(helper_image::image()),
            entrypoint: Some(vec!["/none".to_owned()]),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        match self.docker.create_container(Some(options), body).await {
            Ok(_) => {
                remove_by_name(&self.docker, name).await?;
                self.being_made().remove(&launch);
                Ok(())
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    pub(super) fn never_started(&self) -> MutexGuard<'_, BTreeSet<LaunchId>> {
        self.never_started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn expect_running(&self, launch: LaunchId) -> Result<(), RuntimeError> {
        let state = self.state(launch).await?.ok_or(RuntimeError::Missing)?;
        if is_running(&state) {
            return Ok(());
        }
        Err(exit(&state).map_or(RuntimeError::Missing, RuntimeError::Exited))
    }

    pub(super) async fn pulled_image(
        &self,
        launch: &LaunchSpec,
    ) -> Result<bollard::models::ImageInspect, RuntimeError> {
        match image::inspect(&self.docker, &launch.image).await? {
            Some(image) => Ok(image),
            // By the operator, or so says an engine that is out of files: it is looked for again.
            None => Err(RuntimeError::Unavailable("the image is gone again".into())),
        }
    }

    /// The sight of one listed container; `None` where it is gone by now.
    pub(super) async fn see(&self, named: Named) -> Result<Option<ObservedContainer>, RuntimeError> {
        let Named { launch, standing, listed, .. } = named;
        let Some(id) = listed.id else { return Ok(None) };
        let running =
            listed.state.is_some_and(|state| state.to_string() == ContainerStateStatusEnum::RUNNING.to_string());
        let presence = if running {
            // Listened to again after a start of this process, and limited where its start was not ours.
            self.line(launch);
            self.limit_name_server(launch, &id);
            ContainerStatus::Running
        } else if standing == Standing::TakenUp {
            ContainerStatus::Created
        } else {
            // The list does not tell when it ended. An engine that hangs over one container knows the others.
            match tokio::time::timeout(INSPECT_TIMEOUT, self.docker.inspect_container(&id, None)).await {
                Ok(Ok(found)) => presence(&found.state.unwrap_or_default()),
                Ok(Err(error)) if is_missing(&error) => return Ok(None),
                // It is asked no more than this one can answer for.
                Ok(Err(error)) if refusal(&error).is_none() => return Err(unavailable(error)),
                Ok(Err(_)) | Err(_) => {
                    tracing::warn!(%launch, "the engine does not say how this container is");
                    ContainerStatus::Unknown
                }
            }
        };
        let labels = listed.labels.unwrap_or_default();
        let (gpus, ports) = labels::claim_of(&labels).map(|claim| (claim.gpus, claim.ports)).unwrap_or_default();
        Ok(Some(ObservedContainer {
            launch,
            container: container_id(id)?,
            status: presence,
            gpus: gpus.into_iter().map(|gpu| gpu.uuid).collect(),
            ports: ports.iter().map(|binding| binding.host).collect(),
            retained: standing == Standing::Retained,
        }))
    }

    /// Looks again and again until `done`, for at most [`REMOVAL_TIMEOUT`].
    pub(super) async fn settled(
        &self,
        launch: LaunchId,
        done: impl Fn(Option<&ContainerState>) -> bool,
    ) -> Result<Option<ContainerState>, RuntimeError> {
        let begun = Instant::now();
        loop {
            let state = self.state(launch).await?;
            if done(state.as_ref()) {
                return Ok(state);
            }
            if begun.elapsed() > REMOVAL_TIMEOUT {
                return Err(RuntimeError::Unavailable("the engine has not done in 30 s what it said it would".into()));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Finds the container that already has the launch's name; it is ours if it was made of the same.
    pub(super) async fn reuse_existing(
        &self,
        launch: &LaunchSpec,
        source: bollard::errors::Error,
    ) -> Result<(Created, Option<PathBuf>), RuntimeError> {
        let Some(found) = self.inspect(&self.name(launch.id).await?).await? else {
            // Gone again: the next try makes it.
            return Err(unavailable(source));
        };
        let folder = access_folder(&found);
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        if !labels::is_made_of(&labels, launch) {
            return Err(RuntimeError::Refused(
                "the name belongs to a container that was made of something else".into(),
            ));
        }
        let created = Created {
            container: container_id(found.id.unwrap_or_default())?,
            gpus_attached: labels::gpus_attached(&labels),
            is_new: false,
            image: None,
            copied_bytes: 0,
            files: match launch.carries_files {
                _ if labels.contains_key(LABEL_IMAGE) => Files::Copied,
                _ if labels::launch_of(&labels).is_some_and(|made_for| made_for != launch.id) => Files::Same,
                true => Files::Lost,
                false => Files::New,
            },
        };
        Ok((created, folder))
    }
}
