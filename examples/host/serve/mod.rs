//! Puts a host together from its settings, and runs it.

mod docker;
mod parts;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gpurent_core::allocation::Capacity;
use gpurent_core::clock::{SleepFuture, SystemClock};
use gpurent_core::host::watch;
use gpurent_core::runtime::Isolation;
use gpurent_core::store::DeadlineBook as _;
use gpurent_docker::DockerRuntime;
use gpurent_http::Server;
pub use parts::discover;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::{Protocol, Serve};
use crate::dashboard_registration::DashboardRegistration;
use crate::protocols::Parts;
use crate::{archive, database, failpoint, kernel, own_files, seal_key};

type Failure = Box<dyn Error + Send + Sync>;

/// Something that the host cannot do without, and which setting names another.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Unusable {
    what: &'static str,
    source: Failure,
}

impl Unusable {
    fn because<E: Into<Failure>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self { what, source: error.into() }
    }
}

/// Runs the host until SIGTERM or SIGINT. Tenants run on; the next start goes on where this one ended.
pub async fn serve(settings: Serve, api_key_file: Option<&Path>) -> Result<(), Failure> {
    let host = settings.host()?;
    let listen = settings.listens_on();

    let gpus = parts::discover(&host, &settings.gpus).await.map_err(Unusable::because(
        "no GPUs to rent out: --gpus=simulated:2:MODEL rents out such that are not there, to try things out",
    ))?;
    for gpu in &gpus {
        tracing::info!(uuid = %gpu.uuid, model = %gpu.model, memory_mib = gpu.memory_mib, simulated = gpu.simulated, "GPU to rent");
    }
    own_files::expect_folder(&settings.data_dir)?;
    own_files::close_secret(&settings.data_dir.join("seal.key"))?;
    if let Some(file) = database::file_of(&settings.database, &settings.data_dir) {
        // With what SQLite keeps beside it.
        for end in ["", "-wal", "-shm"] {
            let mut name = file.clone().into_os_string();
            name.push(end);
            own_files::close_secret(Path::new(&name))?;
        }
    }
    let docker = docker::connect(&settings, gpus).await?;
    let sleep = |time| Box::pin(tokio::time::sleep(time)) as SleepFuture;
    let clock = SystemClock::new();
    let has_tenants = match docker.deadlines().read().await {
        Ok(deadlines) => !deadlines.is_empty(),
        Err(error) => {
            tracing::error!(error = &error as &dyn Error, "who has to be ended when cannot be read");
            true
        }
    };
    let database = tokio::select! {
        database = database::wait_for(&settings.database, &settings.data_dir, has_tenants) => database?,
        // Whose time is over while the database is away ends all the same.
        () = watch(&**docker.deadlines(), &**docker.runtime(), &clock, &sleep) => unreachable!("the watch never ends"),
    };
    let sealer = seal_key::load(settings.seal_key.as_deref(), &settings.data_dir)?;
    let docker = docker.prepare().await?;
    match docker.isolation() {
        Isolation::Enforced => tracing::info!(isolation = "enforced", "tenants are kept apart"),
        Isolation::Degraded(why) => tracing::warn!(
            isolation = "degraded",
            why,
            "tenants can reach this host's services, the metadata address and each other's published ports"
        ),
    }
    let division = docker.division();
    for finding in kernel::scarce_counts(division.gpus.saturating_add(division.without_gpu)) {
        tracing::warn!("{finding}");
    }
    let mut builder = docker
        .builder(Arc::clone(&database.store), Arc::new(sealer), parts::pools(&settings)?)
        .public_host(settings.public_host.clone())
        .timing(settings.timeouts.timing())
        .capacity(Capacity { divided: !settings.oversell, ..docker.capacity() })
        .renter_limits(settings.access.renter_limits())
        .limit_disk(settings.disk_limit(docker.room(), division));
    let prices = parts::prices(&settings);
    if let Some(card) = &prices {
        builder = builder.prices(card.clone());
    }
    for (renter, limits) in settings.access.limits_of_renters() {
        builder = builder.renter_limits_of(renter, limits);
    }
    if settings.pull_first {
        builder = builder.pull_first();
    }
    if let Some(hook) = failpoint::from_environment()? {
        builder = builder.failpoints(hook);
    }
    let (rentals, reconciler) = builder.build();

    raise_the_number_of_open_files();
    let keys = settings.access.restrict(parts::keys(&settings, api_key_file)?.with_store(database.keys.clone()));
    let store = Arc::clone(&database.store);
    let parts = Parts {
        database,
        images: Arc::clone(docker.runtime()) as _,
        machine: docker.load(),
        prices,
        has_workspaces: docker.has_workspaces(),
    };
    let api = settings.protocols.api(&settings.access, rentals.clone(), keys, &parts)?;
    let dashboard = match settings.protocols.dashboard_listen.filter(|_| settings.protocols.has(Protocol::Dashboard)) {
        Some(address) => Some(Server::bind_router(address, api.clone(), api.router_of_one("dashboard")).await?),
        None => None,
    };
    let tls = settings.access.tls()?;
    let secured = |server: Server| match &tls {
        Some(tls) => server.with_tls(tls.clone()),
        None => server,
    };
    let server = secured(Server::bind_api(listen, api).await?);
    let dashboard = dashboard.map(secured);
    tracing::info!(address = %server.address(), tls = tls.is_some(), "listening");

    // Whichever of the three ends first ends the others.
    let (end, ended) = watch::channel(());
    let until_end = |mut ended: watch::Receiver<()>| async move {
        // An error means that the sender is gone, which is an end too.
        drop(ended.changed().await);
    };
    let probing = tokio::spawn(probe_now_and_then(Arc::clone(docker.runtime())));
    let archiving = match settings.keep_ended {
        Some(keep) => {
            let directory = settings.archive_dir.clone().unwrap_or_else(|| settings.data_dir.join("archive"));
            tokio::spawn(archive::keep_only(rentals.clone(), keep, directory))
        }
        None => tokio::spawn(archive::warn_of_growth(store, rentals.host().clone())),
    };
    let mut reconciling = tokio::spawn(reconciler.run(sleep, until_end(ended.clone())));
    let own = dashboard.map(|server| tokio::spawn(server.run(until_end(ended.clone()))));
    let mut serving = tokio::spawn(server.run(until_end(ended)));
    for finding in settings.findings() {
        tracing::warn!("{finding}");
    }
    let manager = match &settings.protocols.manager {
        Some(host) => {
            Some(DashboardRegistration::new(host, settings.protocols.manager_port, settings.protocols.agent_ip())?)
        }
        None => None,
    };
    let registering = manager.clone().map(|manager| tokio::spawn(async move { manager.keep_registered().await }));
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let first: Result<(), Failure> = tokio::select! {
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
        result = &mut reconciling => result?.map_err(Into::into),
        result = &mut serving => result?.map_err(Into::into),
    };
    tracing::info!("shutting down; tenants run on");
    end.send_replace(());
    if let Some(registering) = registering {
        registering.abort();
    }
    if let Some(manager) = manager {
        manager.unregister().await;
    }
    if !reconciling.is_finished() {
        reconciling.await??;
    }
    if !serving.is_finished() {
        serving.await??;
    }
    if let Some(own) = own {
        own.await??;
    }
    probing.abort();
    archiving.abort();
    first
}

/// How often packets are sent to see whether tenants are kept apart.
const PROBE_INTERVAL: Duration = Duration::from_secs(600);

/// Tells by packets whether tenants are kept apart; the answer shows in `/health` and the log.
async fn probe_now_and_then(runtime: Arc<DockerRuntime>) {
    loop {
        if let Err(error) = runtime.probe_isolation().await {
            tracing::warn!(error = &error as &dyn Error, "whether tenants are kept apart could not be probed");
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

/// Every connection is an open file, and the usual limit is a thousand.
fn raise_the_number_of_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        // Fewer connections then; what does not fit waits to be accepted.
        tracing::warn!(error = &error as &dyn Error, "the number of open files stays at {:?}", limit.current);
    }
}
