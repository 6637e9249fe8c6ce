//! Folders that outlive containers.

use std::path::{Path, PathBuf};

use clap::Args;
use gpurent_core::model::MountPath;
use gpurent_docker::WorkspaceRoot;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Folders that outlive containers.
#[derive(Args)]
pub struct Workspaces {
    /// Where renters' workspaces lie; in the data directory by default.
    #[arg(long, env = "WORKDIR_DEPLOY")]
    pub workspace_root: Option<PathBuf>,
    /// The folder that a new workspace begins as a copy of; empty by default.
    #[arg(long, env = "WORKDIR_TEMPLATE")]
    pub workspace_template: Option<PathBuf>,
    /// User and group that new workspaces belong to.
    #[arg(long, env = "GPURENT_WORKSPACE_OWNER", default_value = "1000:1000", value_parser = owner)]
    pub workspace_owner: (u32, u32),
    /// A folder of the host that containers with a workspace see read-only, FOLDER:WHERE. May be repeated.
    #[arg(long, env = "GPURENT_WORKSPACE_READ_ONLY", value_delimiter = ',', value_parser = read_only)]
    pub workspace_read_only: Vec<(PathBuf, MountPath)>,
}

fn owner(text: &str) -> Result<(u32, u32), String> {
    let parsed = text.split_once(':').and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
    parsed.ok_or_else(|| "must be USER:GROUP, as numbers".to_owned())
}

fn read_only(text: &str) -> Result<(PathBuf, MountPath), String> {
    let (folder, mount) = text.rsplit_once(':').ok_or("must be FOLDER:WHERE")?;
    Ok((folder.into(), mount.parse().map_err(|error: gpurent_core::error::ValidationError| error.to_string())?))
}

impl Workspaces {
    /// The folder in which workspaces lie.
    pub fn folder(&self, data_dir: &Path) -> PathBuf {
        self.workspace_root.clone().unwrap_or_else(|| data_dir.join("workspaces"))
    }

    pub fn root(&self, data_dir: &Path) -> Result<WorkspaceRoot, Failure> {
        let place = self.folder(data_dir);
        let failed = |what: &Path| {
            let what = what.display().to_string();
            move |error: std::io::Error| format!("workspaces: {what}: {error}")
        };
        let mut root = WorkspaceRoot::new(&place).map_err(failed(&place))?;
        if let Some(template) = &self.workspace_template {
            root = root.with_template(template).map_err(failed(template))?;
        }
        for (folder, mount) in &self.workspace_read_only {
            root = root.with_read_only(folder, mount.clone()).map_err(failed(folder))?;
        }
        Ok(root.owned_by(self.workspace_owner.0, self.workspace_owner.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_and_folders_are_read() {
        assert_eq!(owner("1000:100"), Ok((1000, 100)));
        assert!(owner("me").is_err());
        assert_eq!(read_only("/opt/my:tools:/opt/tools").unwrap().0, PathBuf::from("/opt/my:tools"));
        assert!(read_only("/opt:/etc").is_err());
    }
}
