//! A host on one Docker Engine, put together: the engine and the lock that makes this process its only agent, the book of
//! deadlines, disks, ports, and how tenants are kept apart. The pieces can be had alone, too; this is how they belong together.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gpurent_core::allocation::{Capacity, DiskLimit, DiskRoom, Division, PortPools};
use gpurent_core::host::{HostBuilder, ReconcileConfig};
use gpurent_core::id::HostId;
use gpurent_core::model::{Gpu, Sealer};
use gpurent_core::runtime::{ContainerRuntime, Isolation, RuntimeError};
use gpurent_core::store::HostStore;

use crate::access_kit::{AccessKit, KitError};
use crate::control::credential_dir::AccessDir;
use crate::control::host_keys::HostKeyStock;
use crate::engine::client::EngineAddress;
use crate::machine::deadline_file::DeadlineFile;
use crate::machine::disk::DiskReserve;
use crate::machine::engine_lock::{EngineLock, LockError};
use crate::machine::load::LocalMachine;
use crate::machine::ports::LocalPorts;
use crate::machine::workspaces::WorkspaceRoot;
use crate::runtime::DockerRuntime;

/// The folder of the lock that makes an agent the engine's only one, unless another is named.
const LOCK_FOLDER: &str = "/run/gpurent";
/// The folder in memory over which credentials reach containers, unless another is named.
const ACCESS_FOLDER: &str = "/run/gpurent/access";
/// The bytes that are kept free on the host's disks, unless others are named: 1 GiB.
const DISK_RESERVE: u64 = 1 << 30;

/// Why a host could not be put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DockerHostError {
    /// The engine does not answer: start it, or name another address.
    #[error("no container engine to rent out by: is Docker installed and started?")]
    Engine(#[source] RuntimeError),
    /// The engine refuses what a host needs, or answers no more: the source says what.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A program that renters log in with is missing on this host; the source says which package has it.
    #[error("renters cannot be let into containers from this host")]
    Kit(#[from] KitError),
    /// Another agent acts for the engine, or nobody can tell.
    #[error("this process cannot be the engine's only agent")]
    Lock(#[from] LockError),
    /// A folder for credentials cannot be used: name one on a tmpfs that is this process's own, or upload them.
    #[error("{} cannot be used for credentials", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// How credentials get into containers.
enum Credentials {
    /// Over the usual folder, where that is in memory.
    Usual,
    /// Over this folder.
    Over(AccessDir),
    /// Uploaded into each container.
    Uploaded,
}

/// The settings of a [`DockerHost`], all of which have defaults.
#[must_use = "nothing is done before `open`"]
pub struct DockerHostBuilder {
    address: EngineAddress,
    host: HostId,
    data_folder: PathBuf,
    gpus: Vec<Gpu>,
    without_gpu: u32,
    lock_folder: PathBuf,
    credentials: Credentials,
    workspaces: Option<WorkspaceRoot>,
    disk_reserve: u64,
    other_folders: Vec<PathBuf>,
    customize: Box<dyn FnOnce(DockerRuntime) -> DockerRuntime + Send>,
}

impl DockerHostBuilder {
    /// Rents out so many places for containers without a GPU besides; none by default.
    pub fn without_gpu(self, places: u32) -> Self {
        Self { without_gpu: places, ..self }
    }

    /// Keeps the engine's lock in another folder than `/run/gpurent`. All agents of a machine need the same.
    pub fn lock_in(self, folder: PathBuf) -> Self {
        Self { lock_folder: folder, ..self }
    }

    /// Hands credentials over in this folder; by default in `/run/gpurent/access`, where that is in memory.
    pub fn access_dir(self, folder: AccessDir) -> Self {
        Self { credentials: Credentials::Over(folder), ..self }
    }

    /// Uploads credentials into each container, which takes longer than a folder, and leaves rentals without RSA host keys.
    pub fn upload_credentials(self) -> Self {
        Self { credentials: Credentials::Uploaded, ..self }
    }

    /// Offers workspaces, which outlive containers, below this root; none by default. Engines elsewhere see none.
    pub fn workspaces(self, root: WorkspaceRoot) -> Self {
        Self { workspaces: Some(root), ..self }
    }

    /// Takes nobody in where fewer bytes than these are free on the host's disks; 1 GiB by default.
    pub fn disk_reserve(self, bytes: u64) -> Self {
        Self { disk_reserve: bytes, ..self }
    }

    /// Counts another folder among those whose disk has to have room, such as the database's.
    pub fn has_room_in(mut self, folder: PathBuf) -> Self {
        self.other_folders.push(folder);
        self
    }

    /// Sets what only the runtime knows: its registries, sudo, private networks. The division and the folders are set here.
    pub fn runtime(self, customize: impl FnOnce(DockerRuntime) -> DockerRuntime + Send + 'static) -> Self {
        Self { customize: Box::new(customize), ..self }
    }

    /// Connects to the engine and locks it; [`DockerConnection::prepare`] does the rest. For hosts that have to wait for their
    /// database: meanwhile [`watch`](gpurent_core::host::watch) ends those whose time is over.
    ///
    /// # Errors
    /// [`DockerHostError`]
    pub async fn connect(self) -> Result<DockerConnection, DockerHostError> {
        let is_local = self.address.is_local();
        let gpus = u32::try_from(self.gpus.len()).unwrap_or(u32::MAX);
        let division = Division { gpus, without_gpu: self.without_gpu };
        let access_dir = self.credentials.folder(is_local)?;
        let runtime = DockerRuntime::connect(self.address, AccessKit::from_host().await?).await;
        let runtime = runtime.map_err(DockerHostError::Engine)?;
        let lock = EngineLock::acquire(&self.lock_folder, &runtime.engine().await?)?;
        let mut runtime = (self.customize)(runtime).with_division(division).holding(lock);
        if let Some(folder) = &access_dir {
            runtime = runtime.with_access_dir(folder.clone());
        }
        let workspaces = self.workspaces.filter(|_| is_local);
        let workspaces_folder = workspaces.as_ref().map(|root| root.folder().to_owned());
        if let Some(root) = workspaces {
            runtime = runtime.with_workspaces(root);
        }
        Ok(DockerConnection {
            deadlines: Arc::new(DeadlineFile::in_directory(&self.data_folder, &self.host)),
            runtime: Arc::new(runtime),
            host: self.host,
            gpus: self.gpus,
            data_folder: self.data_folder,
            other_folders: self.other_folders,
            disk_reserve: self.disk_reserve,
            workspaces_folder,
            access_dir,
            division,
            is_local,
        })
    }

    /// Connects to the engine, locks it, and keeps its tenants apart.
    ///
    /// # Errors
    /// [`DockerHostError`]. Rules that cannot be set are no error: [`DockerHost::isolation`] tells.
    pub async fn open(self) -> Result<DockerHost, DockerHostError> {
        self.connect().await?.prepare().await
    }
}

/// A Docker Engine that this process is the agent of, before anything is done on it.
pub struct DockerConnection {
    host: HostId,
    gpus: Vec<Gpu>,
    runtime: Arc<DockerRuntime>,
    deadlines: Arc<DeadlineFile>,
    data_folder: PathBuf,
    other_folders: Vec<PathBuf>,
    disk_reserve: u64,
    workspaces_folder: Option<PathBuf>,
    access_dir: Option<AccessDir>,
    division: Division,
    is_local: bool,
}

impl DockerConnection {
    /// The engine's runtime.
    #[must_use]
    pub fn runtime(&self) -> &Arc<DockerRuntime> {
        &self.runtime
    }

    /// The book of deadlines.
    #[must_use]
    pub fn deadlines(&self) -> &Arc<DeadlineFile> {
        &self.deadlines
    }

    /// Keeps tenants apart, and looks at what there is: disks, and host keys.
    ///
    /// # Errors
    /// [`DockerHostError::Runtime`]. Rules that cannot be set are no error: [`DockerHost::isolation`] tells.
    pub async fn prepare(self) -> Result<DockerHost, DockerHostError> {
        let isolation = self.runtime.isolate().await?;
        let engine_folder = self.runtime.data_folder().await?.filter(|_| self.is_local);
        let own = [self.data_folder.clone()];
        let folders = own.into_iter().chain(engine_folder.clone()).chain(self.other_folders).collect();
        let disks = DiskReserve::new(folders, self.disk_reserve);
        let room = engine_folder.as_ref().and_then(|engine| disks.room(engine, self.workspaces_folder.as_deref()));
        let stock = self.access_dir.map(|folder| folder.path().with_file_name("gpurent-host-keys"));
        let host_keys = stock.and_then(|folder| {
            let stock = HostKeyStock::fill(&folder);
            if let Err(error) = &stock {
                tracing::warn!(
                    error = error as &dyn std::error::Error,
                    "rentals have no RSA host keys, which old clients ask for: they would be made in {}, beside the folder \
                     for credentials",
                    folder.display()
                );
            }
            // Told just now.
            stock.ok().map(Arc::new)
        });
        Ok(DockerHost {
            deadlines: self.deadlines,
            load: LocalMachine::new(engine_folder.unwrap_or(self.data_folder)),
            runtime: self.runtime,
            disks: Arc::new(disks),
            has_workspaces: self.workspaces_folder.is_some(),
            host: self.host,
            gpus: self.gpus,
            host_keys,
            division: self.division,
            isolation,
            is_local: self.is_local,
            room,
        })
    }
}

impl Credentials {
    fn folder(self, is_local: bool) -> Result<Option<AccessDir>, DockerHostError> {
        match self {
            _ if !is_local => Ok(None),
            Self::Uploaded => Ok(None),
            Self::Over(folder) => Ok(Some(folder)),
            Self::Usual => match AccessDir::new(Path::new(ACCESS_FOLDER)) {
                Ok(folder) => Ok(Some(folder)),
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    tracing::info!(
                        "{ACCESS_FOLDER} is not in memory, so credentials are uploaded, which takes longer, and there are \
                         no RSA host keys for old clients: name a folder on a tmpfs (the agent's --access-dir)"
                    );
                    Ok(None)
                }
                Err(source) => Err(DockerHostError::Folder { folder: ACCESS_FOLDER.into(), source }),
            },
        }
    }
}

/// A Docker Engine with everything around it that a host needs but a database.
///
/// The crate's front page shows one put together.
pub struct DockerHost {
    host: HostId,
    gpus: Vec<Gpu>,
    runtime: Arc<DockerRuntime>,
    deadlines: Arc<DeadlineFile>,
    disks: Arc<DiskReserve>,
    host_keys: Option<Arc<HostKeyStock>>,
    load: LocalMachine,
    division: Division,
    isolation: Isolation,
    room: Option<DiskRoom>,
    has_workspaces: bool,
    is_local: bool,
}

impl DockerHost {
    /// The settings of a host that rents `gpus` on the engine at `address`, and keeps its own book in `data_folder`, which
    /// nobody else may write to: the book is believed. Ended by [`DockerHostBuilder::open`].
    #[allow(clippy::new_ret_no_self, reason = "what is opened is the host; these are its settings")]
    pub fn new(
        address: impl Into<EngineAddress>,
        host: HostId,
        data_folder: PathBuf,
        gpus: Vec<Gpu>,
    ) -> DockerHostBuilder {
        DockerHostBuilder {
            address: address.into(),
            host,
            data_folder,
            gpus,
            without_gpu: 0,
            lock_folder: LOCK_FOLDER.into(),
            credentials: Credentials::Usual,
            workspaces: None,
            disk_reserve: DISK_RESERVE,
            other_folders: Vec::new(),
            customize: Box::new(|runtime| runtime),
        }
    }

    /// A host with this engine, its capacity, its disks and its book, to be set further and built once:
    /// [`public_host`](HostBuilder::public_host) is what renters are told, and 127.0.0.1 without. The engine stays locked for
    /// as long as this host, the reconciler, or a handle to its rentals is there.
    #[must_use]
    pub fn builder(&self, store: Arc<dyn HostStore>, sealer: Arc<dyn Sealer>, pools: PortPools) -> HostBuilder {
        let runtime = Arc::clone(&self.runtime);
        let mut builder = HostBuilder::new(self.host.clone(), store, runtime, sealer, self.gpus.clone(), pools)
            .inside(Arc::clone(&self.runtime) as _)
            .capacity(self.capacity())
            .deadlines(Arc::clone(&self.deadlines) as _)
            .disks(Arc::clone(&self.disks) as _)
            .limit_disk(self.room.map_or(DiskLimit::None, DiskLimit::Part))
            .rent_without_gpu(self.division.without_gpu);
        if let Some(stock) = &self.host_keys {
            builder = builder.host_keys(Arc::clone(stock) as _);
        }
        if self.has_workspaces {
            builder = builder.offer_workspaces();
        }
        if self.is_local {
            builder.port_probe(Arc::new(LocalPorts))
        } else {
            // This machine's lock says nothing about agents on other ones: they are given the time to find out.
            let pace = ReconcileConfig::default();
            builder.reconcile_config(ReconcileConfig { handover: pace.lease, ..pace })
        }
    }

    /// The engine's runtime. Call [`probe_isolation`](DockerRuntime::probe_isolation) of it now and then.
    #[must_use]
    pub fn runtime(&self) -> &Arc<DockerRuntime> {
        &self.runtime
    }

    /// The book of deadlines: for [`watch`](gpurent_core::host::watch), while the database is not there yet.
    #[must_use]
    pub fn deadlines(&self) -> &Arc<DeadlineFile> {
        &self.deadlines
    }

    /// How well tenants are kept apart, as far as rules could be set.
    #[must_use]
    pub fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    /// The machine's capacity for renters.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        self.runtime.capacity()
    }

    /// How the machine is divided.
    #[must_use]
    pub fn division(&self) -> Division {
        self.division
    }

    /// The room for tenants on the machine's disks; `None` where nobody can tell.
    #[must_use]
    pub fn room(&self) -> Option<DiskRoom> {
        self.room
    }

    /// Whether workspaces are offered.
    #[must_use]
    pub fn has_workspaces(&self) -> bool {
        self.has_workspaces
    }

    /// How busy the machine is, and the disk on which the engine keeps its containers.
    #[must_use]
    pub fn load(&self) -> LocalMachine {
        self.load.clone()
    }
}
