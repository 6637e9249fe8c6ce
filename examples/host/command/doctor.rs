//! `doctor`: the faults that `serve` would stumble over or warn of, with their remedies. Nothing is set up or changed, and no
//! tenant touched.
//!
//! The doctor looks for settings that are not read or name what is not there, at the GPUs, the kernel's counts, the engine and what is
//! put into containers, the data directory, and the database; not at other settings, ports, the firewall and what only shows
//! while the agent runs.

use std::error::Error;

use gpurent_core::model::Gpu;
use gpurent_core::runtime::{ContainerRuntime, ProbeError};
use gpurent_core::store::StoreError;
use gpurent_docker::{AccessKit, DockerRuntime};
use serde_json::json;

use super::show;
use crate::config::Serve;
use crate::exit::{Failed, with_causes};
use crate::finding::{Finding, Part};
use crate::{archive, database, kernel, own_files, serve};

/// Looks at everything, and shows what was found.
pub async fn doctor(settings: Serve, as_json: bool) -> Result<(), Failed> {
    let mut findings = settings.findings();
    findings.extend(gpus_and_kernel(&settings).await);
    findings.extend(engine(&settings).await);
    findings.extend(files(&settings));
    findings.extend(database(&settings).await);
    if as_json {
        show::json(&json!({ "findings": findings }));
    } else if findings.is_empty() {
        show::line("nothing to mend was found in settings, GPUs, kernel, engine, files and database");
    } else {
        let row = |finding: &Finding| vec![finding.part.to_string(), finding.found.clone(), finding.remedy.clone()];
        show::table(&["PART", "FOUND", "REMEDY"], findings.iter().map(row).collect());
    }
    match findings.len() {
        0 => Ok(()),
        1 => Err(Failed::ToMend("1 thing to mend".to_owned())),
        many => Err(Failed::ToMend(format!("{many} things to mend"))),
    }
}

async fn gpus_and_kernel(settings: &Serve) -> Vec<Finding> {
    let host = match settings.host() {
        Ok(host) => host,
        Err(invalid) => {
            return vec![Finding::new(Part::Settings, with_causes(&invalid), "name the host by --host-id")];
        }
    };
    let (gpus, finding) = match serve::discover(&host, &settings.gpus).await {
        Ok(gpus) => (gpus.len(), no_gpus(&gpus, settings.rent_without_gpu.0)),
        Err(error) => {
            let remedy = match &error {
                ProbeError::Missing(_) => "name others by --gpus",
                _ => {
                    "install the NVIDIA driver; --gpus=simulated:2:MODEL rents out such that are not there, to try things out"
                }
            };
            (1, Some(Finding::new(Part::Gpus, format!("no GPUs to rent out: {}", with_causes(&error)), remedy)))
        }
    };
    let tenants = u32::try_from(gpus).unwrap_or(u32::MAX).saturating_add(settings.rent_without_gpu.0);
    finding.into_iter().chain(kernel::scarce_counts(tenants)).collect()
}

fn no_gpus(gpus: &[Gpu], without: u32) -> Option<Finding> {
    let nothing = gpus.is_empty() && without == 0;
    nothing
        .then(|| Finding::new(Part::Gpus, "the driver shows no GPU", "--rent-without-gpu rents out containers without"))
}

async fn engine(settings: &Serve) -> Option<Finding> {
    let kit = match AccessKit::from_host().await {
        Ok(kit) => kit,
        Err(error) => {
            let found = format!("tenants could not log in: {}", with_causes(&error));
            return Some(Finding::new(Part::Files, found, "install what is named, and ask the doctor again"));
        }
    };
    let answer = match DockerRuntime::connect(settings.engine.address(), kit).await {
        Ok(runtime) => runtime.engine().await.map(drop),
        Err(error) => Err(error),
    };
    let error = answer.err()?;
    let remedy = if is_denied(&error) {
        "ask the doctor, and run the agent, as root or as a member of the group docker"
    } else {
        "install and start Docker, or name its address by --docker"
    };
    let found = format!("the container engine does not serve: {}", with_causes(&error));
    Some(Finding::new(Part::Engine, found, remedy))
}

/// Whether the system does not let this user in.
fn is_denied(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |&error| error.source())
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}

fn files(settings: &Serve) -> Option<Finding> {
    let folder = &settings.data_dir;
    // Whose it has to be depends on whom the agent runs as, which nobody here knows.
    let (found, remedy) = match own_files::is_everybodys(folder) {
        Ok(false) => return None,
        Ok(true) => (
            format!("{} can be written by everybody", folder.display()),
            "chmod o-w it, or name another folder by --data-dir",
        ),
        Err(error) => (with_causes(&error), "ask the doctor as root, or as the user that the agent runs as"),
    };
    Some(Finding::new(Part::Files, found, remedy))
}

async fn database(settings: &Serve) -> Option<Finding> {
    if settings.database == "memory" {
        let found = "rentals are kept in memory: a restart of the agent forgets them";
        return Some(Finding::new(Part::Database, found, "name a database by --database, or none for a file"));
    }
    // Told of already where there is none.
    let host = settings.host().ok()?;
    let found = match database::open_as_is(&settings.database, &settings.data_dir).await {
        Ok(Some(store)) if settings.keep_ended.is_none() => archive::growth(&*store, &host).await,
        // None is made yet, or an older version's: the agent's start sees to it.
        Ok(_) => Ok(None),
        Err(error) => Err(error),
    };
    found.unwrap_or_else(|error| {
        let remedy = match error {
            StoreError::Unavailable(_) => "start it, or name another one by --database",
            _ => "do what is said there, or name another one by --database",
        };
        Some(Finding::new(Part::Database, format!("the database cannot be used: {}", with_causes(&error)), remedy))
    })
}
