//! How a container is told something, and asked: whom to let in goes over the access folder or by an upload, requests over
//! its line or by a command that the engine runs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{DownloadFromContainerOptionsBuilder, UploadToContainerOptionsBuilder};
use futures_util::StreamExt;
use gpurent_access::paths::{ACCESS, KIT, SPEC};
use gpurent_access::spec::{Spec, Tokens};
use gpurent_access::wire::{Reply, Request};
use gpurent_core::id::LaunchId;
use gpurent_core::runtime::RuntimeError;

use super::DockerRuntime;
use crate::access_kit;
use crate::access_kit::credential::AccessFile;
use crate::access_kit::{credential, former};
use crate::control::credential_dir as access_dir;
use crate::control::credential_dir::AccessDir;
use crate::control::socket::Line;
use crate::engine::error::classify;

/// The largest file that is read out of a container.
const MOST_FILE: usize = 4 * 1024 * 1024;

impl DockerRuntime {
    /// The folder by which the launch's credentials are handed over, unless they have to be uploaded.
    pub(super) async fn access_dir(&self) -> Option<&AccessDir> {
        let directory = self.access_dir.as_ref()?;
        let try_out = async || {
            // On a task of its own: a pull that is cancelled now must not leave the trial's container behind.
            let (docker, directory) = (self.docker.clone(), directory.clone());
            let trial = tokio::spawn(async move { directory.is_seen_by(&docker).await });
            let seen = trial.await.map_err(std::io::Error::other)??;
            if !seen {
                tracing::warn!(
                    "the engine does not see the access folder: credentials are uploaded, which takes longer"
                );
            }
            Ok::<_, bollard::errors::Error>(seen)
        };
        match self.binds_access.get_or_try_init(try_out).await {
            Ok(seen) => seen.then_some(directory),
            Err(error) => {
                // Uploaded this time, and tried again the next.
                tracing::warn!(error = &error as &dyn std::error::Error, "the access folder could not be tried out");
                None
            }
        }
    }

    /// Hands a launch's credentials over to its container, by its name or id, which may run already: into the folder that
    /// the container sees, whatever is configured by now, or by an upload where it sees none.
    pub(super) async fn hand_over(
        &self,
        container: &str,
        files: &[AccessFile],
        folder: Option<&Path>,
    ) -> Result<(), RuntimeError> {
        let refused = |error: std::io::Error| RuntimeError::Refused(Box::new(error));
        if let Some(folder) = folder {
            return access_dir::write(folder, files).await.map_err(refused);
        }
        let archive = credential::archive(files).map_err(refused)?;
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        let archive = bollard::body_full(archive.into());
        let uploaded = self.docker.upload_to_container(container, Some(options), archive).await;
        uploaded.map_err(|error| classify(error, &[]))
    }

    /// The launch's line, where it has a folder that its container sees.
    pub(crate) fn line(&self, launch: LaunchId) -> Option<Arc<Line>> {
        let folder = self.access_dir.as_ref()?.folder(launch);
        if !folder.join(SPEC).exists() {
            return None;
        }
        match self.lines.of(launch, &folder) {
            Ok(line) => Some(line),
            Err(error) => {
                tracing::debug!(%launch, error = &error as &dyn std::error::Error, "commands are run in the container");
                None
            }
        }
    }

    /// Asks a container's entry point for something: over its line, or, where there is none, by a command that the engine
    /// runs in the container.
    pub(super) async fn ask(
        &self,
        launch: LaunchId,
        request: &Request,
        command: &[&str],
    ) -> Result<String, RuntimeError> {
        self.expect_running(launch).await?;
        if let Some(line) = self.line(launch) {
            // Never by exec instead: where the line is down, the container is to blame.
            return match line.ask(request).await? {
                Reply::Text(text) => Ok(text),
                _ => Ok(String::new()),
            };
        }
        let (name, arguments) = command.split_first().unwrap_or((&"", &[]));
        let command = std::iter::once(format!("{KIT}/{name}")).chain(arguments.iter().map(|word| (*word).to_owned()));
        self.execs.run(&self.name(launch).await?, command.collect()).await
    }

    /// The logins to a container, as it kept them: a line each, the time as seconds first.
    pub(crate) async fn read_access_log(&self, launch: LaunchId) -> Result<String, RuntimeError> {
        self.ask(launch, &Request::AccessLog, &["access-log"]).await
    }

    pub(super) fn known_tokens(&self) -> MutexGuard<'_, HashMap<LaunchId, Tokens>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the launch's container is asked whether its renter would get in; `None` where it has the former kit.
    pub(super) async fn tokens_of(&self, launch: LaunchId) -> Result<Option<Tokens>, RuntimeError> {
        if let Some(known) = self.known_tokens().get(&launch) {
            return Ok(Some(known.clone()));
        }
        let found = self.inspect(&self.name(launch).await?).await?.ok_or(RuntimeError::Missing)?;
        if former::has_kit(&found) {
            return Ok(None);
        }
        let spec = match access_folder(&found) {
            Some(folder) => {
                tokio::fs::read(folder.join(SPEC)).await.map_err(|error| RuntimeError::Refused(Box::new(error)))?
            }
            // The tenant's to change: then it is asked in vain.
            None => self.download(&self.name(launch).await?, &format!("{ACCESS}/{SPEC}")).await?,
        };
        let spec = Spec::decode(&spec);
        let tokens =
            spec.ok_or_else(|| RuntimeError::Refused("what the container was told is not understood".into()))?.tokens;
        self.known_tokens().insert(launch, tokens.clone());
        Ok(Some(tokens))
    }

    /// Reads one small file of a container.
    async fn download(&self, container: &str, path: &str) -> Result<Vec<u8>, RuntimeError> {
        let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
        let mut stream = self.docker.download_from_container(container, Some(options));
        let mut archive = Vec::new();
        while let Some(chunk) = stream.next().await {
            archive.extend_from_slice(&chunk.map_err(|error| classify(error, &[]))?);
            if archive.len() > MOST_FILE {
                return Err(RuntimeError::Refused(format!("{path} is too large").into()));
            }
        }
        access_kit::only_file(&archive).map_err(|error| RuntimeError::Refused(Box::new(error)))
    }
}

/// The folder of this machine in which a container finds its credentials.
pub(super) fn access_folder(container: &ContainerInspectResponse) -> Option<PathBuf> {
    let mounts = container.mounts.as_deref().unwrap_or_default();
    let access = mounts.iter().find(|mount| mount.destination.as_deref() == Some(ACCESS))?;
    access.source.as_ref().map(PathBuf::from)
}
