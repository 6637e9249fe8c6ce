//! `doctor`: what `serve` would stumble over or warn of, and what mends it. Nothing is set up, and no tenant is touched.

use gpurent_core::runtime::ContainerRuntime;
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
        show::line("nothing to mend: settings, GPUs, kernel, engine, files and database are well");
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
    let found = match settings.host() {
        Ok(host) => serve::discover(&host, &settings.gpus).await.map_err(|error| with_causes(&error)),
        Err(invalid) => Err(with_causes(&invalid)),
    };
    let (gpus, missing) = match found {
        Ok(gpus) => (gpus.len(), None),
        Err(why) => {
            let remedy = "install the NVIDIA driver; --gpus=simulated:2:MODEL rents out such that are not there, to try things out";
            (1, Some(Finding::new(Part::Gpus, format!("no GPUs to rent out: {why}"), remedy)))
        }
    };
    let tenants = u32::try_from(gpus).unwrap_or(u32::MAX).saturating_add(settings.rent_without_gpu.0);
    missing.into_iter().chain(kernel::scarce_counts(tenants)).collect()
}

async fn engine(settings: &Serve) -> Option<Finding> {
    let kit = match AccessKit::from_host().await {
        Ok(kit) => kit,
        Err(error) => {
            let remedy = "install OpenSSH's server (Debian: openssh-server), which tenants log in by";
            return Some(Finding::new(Part::Files, with_causes(&error), remedy));
        }
    };
    let answer = match DockerRuntime::connect(settings.engine.address(), kit).await {
        Ok(runtime) => runtime.engine().await.map(drop),
        Err(error) => Err(error),
    };
    let error = answer.err()?;
    let found = format!("the container engine does not serve: {}", with_causes(&error));
    Some(Finding::new(Part::Engine, found, "install and start Docker, or name its address by --docker"))
}

fn files(settings: &Serve) -> Option<Finding> {
    let error = own_files::expect_folder(&settings.data_dir).err()?;
    Some(Finding::new(Part::Files, with_causes(&error), "or name another folder by --data-dir"))
}

async fn database(settings: &Serve) -> Option<Finding> {
    let file = database::file_of(&settings.database, &settings.data_dir);
    if settings.database == "memory" || file.is_some_and(|file| !file.exists()) {
        // `serve` makes a new one.
        return None;
    }
    let found = match database::open(&settings.database, &settings.data_dir).await {
        Ok(_) if settings.keep_ended.is_some() => return None,
        Ok(database) => match settings.host() {
            Ok(host) => archive::growth(&*database.store, &host).await,
            // Told of already.
            Err(_invalid) => return None,
        },
        Err(error) => Err(error),
    };
    found.unwrap_or_else(|error| {
        let remedy = "start it, or name another one by --database";
        Some(Finding::new(Part::Database, format!("it cannot be used: {}", with_causes(&error)), remedy))
    })
}
