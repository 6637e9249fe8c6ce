//! Puts a host together from its settings, and runs it.

use std::error::Error;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gpurent_core::allocation::{Capacity, Division, PortPools};
use gpurent_core::clock::{SleepFuture, SystemClock};
use gpurent_core::host::{HostBuilder, ReconcileConfig, watch};
use gpurent_core::id::HostId;
use gpurent_core::memory::SimulatedGpus;
use gpurent_core::model::{Gpu, HostPort, RateCard};
use gpurent_core::runtime::{ContainerRuntime, GpuProbe, Isolation, ProbeError};
use gpurent_core::store::DeadlineBook as _;
use gpurent_docker::{
    AccessDir, AccessKit, DeadlineFile, DiskReserve, DockerRuntime, EngineLock, HostKeyStock, LocalMachine, LocalPorts,
    NvmlGpus,
};
use gpurent_http::{ApiKey, ApiKeys, Server};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::{GpuSource, Protocol, Serve};
use crate::dashboard_registration::DashboardRegistration;
use crate::protocols::Parts;
use crate::{archive, database, failpoint, kernel, own_files, seal_key};

type Failure = Box<dyn Error + Send + Sync>;

/// The access folder where none is named and this one is in memory.
const USUAL_ACCESS_DIR: &str = "/run/gpurent/access";

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

    let gpus = discover(&host, &settings.gpus).await.map_err(Unusable::because(
        "no GPUs to rent out: --gpus=simulated:2:MODEL rents out such that are not there, to try things out",
    ))?;
    let division =
        Division { gpus: u32::try_from(gpus.len()).unwrap_or(u32::MAX), without_gpu: settings.rent_without_gpu.0 };
    let access_dir = access_dir(&settings)?;
    let runtime = engine(&settings, access_dir.clone(), division).await?;
    let engine_lock = EngineLock::acquire(&settings.lock_dir, &runtime.engine().await?)?;
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
    let deadlines = DeadlineFile::in_directory(&settings.data_dir, &host);
    let sleep = |time| Box::pin(tokio::time::sleep(time)) as SleepFuture;
    let clock = SystemClock::new();
    let has_tenants = match deadlines.read().await {
        Ok(deadlines) => !deadlines.is_empty(),
        Err(error) => {
            tracing::error!(error = &error as &dyn Error, "who has to be ended when cannot be read");
            true
        }
    };
    let database = tokio::select! {
        database = database::wait_for(&settings.database, &settings.data_dir, has_tenants) => database?,
        // Whose time is over while the database is away ends all the same.
        () = watch(&deadlines, &runtime, &clock, &sleep) => unreachable!("the watch never ends"),
    };
    let sealer = seal_key::load(settings.seal_key.as_deref(), &settings.data_dir)?;
    let mut pools = PortPools::new(settings.ssh_ports.clone(), settings.web_ports.clone())?
        .allow_requests(settings.requestable_ports.clone());
    if settings.protocols.has(Protocol::Dashboard) {
        pools = pools.set_aside(settings.protocols.dashboard_ports.clone())?;
    }
    let listens = [Some(listen), settings.protocols.dashboard_listen].into_iter().flatten();
    for port in listens.filter_map(|address| HostPort::try_from(address.port()).ok()) {
        pools = pools.reserve(port);
    }
    for gpu in &gpus {
        tracing::info!(uuid = %gpu.uuid, model = %gpu.model, memory_mib = gpu.memory_mib, simulated = gpu.simulated, "GPU to rent");
    }

    match runtime.isolate().await? {
        Isolation::Enforced => tracing::info!(isolation = "enforced", "tenants are kept apart"),
        Isolation::Degraded(why) => tracing::warn!(
            isolation = "degraded",
            why,
            "tenants can reach this host's services, the metadata address and each other's published ports"
        ),
    }
    for finding in kernel::scarce_counts(division.gpus.saturating_add(division.without_gpu)) {
        tracing::warn!("{finding}");
    }
    let capacity = Capacity { divided: !settings.oversell, ..runtime.capacity() };
    let is_local = settings.engine.address().is_local();
    let machine_folder = runtime.data_folder().await?.filter(|_| is_local);
    let engine_data = machine_folder.clone();
    let database_file = database::file_of(&settings.database, &settings.data_dir);
    let database_folder = database_file.as_deref().and_then(Path::parent).map(Path::to_path_buf);
    let workspaces = if is_local { Some(settings.workspaces.folder(&settings.data_dir)) } else { None };
    let of_tenants = engine_data.clone();
    let folders = [settings.data_dir.clone()].into_iter().chain(engine_data).chain(database_folder).collect();
    let disks = DiskReserve::new(folders, settings.disk_reserve_mib.saturating_mul(1024 * 1024));
    let room = of_tenants.and_then(|engine| disks.room(&engine, workspaces.as_deref()));
    let runtime = Arc::new(runtime);
    let prober = Arc::clone(&runtime);
    let mut builder = HostBuilder::new(host, database.store.clone(), runtime.clone(), Arc::new(sealer), gpus, pools)
        .inside(runtime.clone())
        .public_host(settings.public_host.clone())
        .timing(settings.timeouts.timing())
        .capacity(capacity)
        .renter_limits(settings.access.renter_limits())
        .deadlines(Arc::new(deadlines))
        .disks(Arc::new(disks))
        .limit_disk(settings.disk_limit(room, division));
    if let Some(directory) = &access_dir {
        match HostKeyStock::fill(&directory.path().with_file_name("gpurent-host-keys")) {
            Ok(stock) => builder = builder.host_keys(Arc::new(stock)),
            Err(error) => tracing::warn!(
                error = &error as &dyn Error,
                "rentals have no RSA host keys, which old clients ask for: --access-dir is where they would be made"
            ),
        }
    }
    if is_local {
        builder = builder.port_probe(Arc::new(LocalPorts));
    } else {
        // Our lock says nothing about agents on other machines: they are given the time to find out.
        let pace = ReconcileConfig::default();
        builder = builder.reconcile_config(ReconcileConfig { handover: pace.lease, ..pace });
    }
    if is_local {
        builder = builder.offer_workspaces();
    }
    builder = builder.rent_without_gpu(settings.rent_without_gpu.0);
    let prices = prices(&settings);
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
    let keys = settings.access.restrict(keys(&settings, api_key_file)?.with_store(database.keys.clone()));
    let machine = LocalMachine::new(machine_folder.unwrap_or_else(|| settings.data_dir.clone()));
    let store = Arc::clone(&database.store);
    let parts = Parts { database, images: runtime, machine, prices, has_workspaces: is_local };
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
    let probing = tokio::spawn(probe_now_and_then(prober));
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
    drop(engine_lock);
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

async fn engine(settings: &Serve, access_dir: Option<AccessDir>, division: Division) -> Result<DockerRuntime, Failure> {
    let address = settings.engine.address();
    let is_local = address.is_local();
    let runtime = DockerRuntime::connect(address, AccessKit::from_host().await?).await.map_err(Unusable::because(
        "no container engine to rent out by: is Docker installed and started? --docker names another address",
    ))?;
    let mut runtime = runtime.with_division(division).with_registries(settings.registries());
    if settings.allow_sudo {
        runtime = runtime.with_sudo();
    }
    if settings.allow_private_networks {
        runtime = runtime.with_private_networks();
    }
    if settings.any_machine {
        runtime = runtime.on_any_machine();
    }
    if settings.no_firewall {
        runtime = runtime.without_firewall();
    }
    if let Some(access_dir) = access_dir {
        runtime = runtime.with_access_dir(access_dir);
    }
    if is_local {
        runtime = runtime.with_workspaces(settings.workspaces.root(&settings.data_dir)?);
    }
    Ok(runtime)
}

/// The folder in memory over which credentials reach containers, where there is one.
fn access_dir(settings: &Serve) -> Result<Option<AccessDir>, Failure> {
    let named = settings.access_dir.as_deref();
    if !settings.engine.address().is_local() || named.is_some_and(|named| named.as_os_str() == "none") {
        return Ok(None);
    }
    let directory = named.unwrap_or(Path::new(USUAL_ACCESS_DIR));
    match AccessDir::new(directory) {
        Ok(directory) => Ok(Some(directory)),
        Err(error) if named.is_none() && error.kind() == ErrorKind::Unsupported => {
            tracing::info!(
                "{USUAL_ACCESS_DIR} is not in memory, so credentials are uploaded, which takes longer, and there are no RSA \
                 host keys for old clients: --access-dir names a folder on a tmpfs"
            );
            Ok(None)
        }
        Err(error) => {
            Err(format!("--access-dir {}: {error}; name a folder on a tmpfs, or none", directory.display()).into())
        }
    }
}

fn prices(settings: &Serve) -> Option<RateCard> {
    if settings.rates.is_empty() && settings.rate_without_gpu.is_none() {
        return None;
    }
    let card = RateCard::new(settings.currency.clone());
    let card = if settings.charge_unverified { card.charging_unverified() } else { card };
    let card = settings.rates.iter().fold(card, |card, rate| card.with(rate.model.clone(), rate.rate));
    Some(match settings.rate_without_gpu {
        Some(rate) => card.with_price_without_gpu(rate),
        None => card,
    })
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

pub async fn discover(host: &HostId, source: &GpuSource) -> Result<Vec<Gpu>, ProbeError> {
    match source {
        GpuSource::Nvml => NvmlGpus::all().discover().await,
        GpuSource::NvmlOnly(uuids) => NvmlGpus::only(uuids.iter().cloned()).discover().await,
        GpuSource::Simulated(count, model) => SimulatedGpus::new(host, *count, model.clone()).discover().await,
    }
}

fn keys(settings: &Serve, api_key_file: Option<&Path>) -> Result<ApiKeys, Failure> {
    let key = match (&settings.api_key, api_key_file) {
        (Some(key), _) => key.clone(),
        (None, Some(path)) => read_key(path)?,
        (None, None) => return Ok(ApiKeys::default()),
    };
    Ok(ApiKeys::new(vec![ApiKey::platform(key.trim(), "platform".parse()?)?]))
}

fn read_key(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| format!("the API key file {}: {error}", path.display()).into())
}
