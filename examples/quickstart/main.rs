//! One whole rental, told as it happens: claimed, pulled, started, verified, warned, ended, billed.
//!
//! Uses Docker where it answers, and says what of it is simulated. Needs no registry: where the image
//! cannot be pulled it makes a minimal one from this machine's own busybox. The container is gone at the
//! end, however that comes about; the network, the access kit's volume and the minimal image stay.

mod engine;
mod telling;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use gpurent_core::allocation::PortPools;
use gpurent_core::clock::SleepFuture;
use gpurent_core::host::{HostBuilder, Rentals, Subscription, Update};
use gpurent_core::id::{HostId, RentalId};
use gpurent_core::model::{
    CredentialRequest, Currency, EndReason, FailureKind, GpuRequest, HourlyRate, ImageRef, MicroUnits, RateCard,
    Rental, RentalEvent, RentalRequest, RentalSpec, SealKey, Term,
};
use gpurent_core::store::HostStore;
use gpurent_docker::LocalPorts;
use gpurent_store::{PostgresStore, SqliteStore};
use telling::Telling;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

/// Rents one GPU of this machine to yourself, from the request to the bill.
#[derive(Parser)]
struct Arguments {
    /// Image to run.
    #[arg(long, default_value = "ubuntu:22.04")]
    image: ImageRef,
    /// For how long.
    #[arg(long, default_value = "10s")]
    duration: Term,
    /// Docker Engine.
    #[arg(long, env = "DOCKER_HOST", default_value = "unix:///var/run/docker.sock")]
    docker: String,
    /// PostgreSQL to keep the rental in, postgres://user:password@host/name; a SQLite file of this run without.
    #[arg(long, env = "GPURENT_DATABASE", hide_env_values = true)]
    database: Option<String>,
    /// One JSON object a line, for programs.
    #[arg(long)]
    json: bool,
}

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut telling = Telling::new(arguments.json);
    match run(&arguments, &mut telling).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            telling.error(&*error);
            ExitCode::FAILURE
        }
    }
}

/// The store, and the folder that has to outlive it.
async fn open_store(
    database: Option<&str>,
    telling: &mut Telling,
) -> Result<(Arc<dyn HostStore>, Option<TempDir>), Failure> {
    if let Some(url) = database {
        telling.note("rentals: PostgreSQL");
        return Ok((Arc::new(PostgresStore::connect(url).await?), None));
    }
    telling.note("rentals: SQLite, in a file of this run");
    let folder = tempfile::tempdir()?;
    Ok((Arc::new(SqliteStore::open(&folder.path().join("rentals.db")).await?), Some(folder)))
}

/// True if a rental became ready and lived to its end.
async fn run(arguments: &Arguments, telling: &mut Telling) -> Result<bool, Failure> {
    let host: HostId = format!("quickstart-{}", std::process::id()).parse()?;
    let engine = engine::find(&arguments.docker, &host, telling).await?;
    let (store, _folder) = open_store(arguments.database.as_deref(), telling).await?;
    let gpus = engine.gpus.clone();
    let model = gpus.first().ok_or("no GPU")?.model.clone();

    let (seal_key, _) = SealKey::generate();
    let pools = PortPools::new("22000-22999".parse()?, "8100-8999".parse()?)?;
    let price = HourlyRate::new(MicroUnits::new(1_490_000))?;
    let prices = RateCard::new(Currency::try_from("USD".to_owned())?).with(model.clone(), price);
    let (rentals, reconciler) =
        HostBuilder::new(host, store, Arc::clone(&engine.runtime), Arc::new(seal_key), gpus, pools)
            .port_probe(Arc::new(LocalPorts))
            .prices(prices)
            .build();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let sleep = |time| Box::pin(tokio::time::sleep(time)) as SleepFuture;
    let reconciling = tokio::spawn(reconciler.run(sleep, async { drop(stopped.await) }));
    while !rentals.is_reconciled() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    let request = |image: ImageRef| -> Result<RentalRequest, Failure> {
        let gpu = GpuRequest::one(model.as_str().parse()?);
        let spec = RentalSpec::new("you".parse()?, gpu, image, arguments.duration);
        Ok(RentalRequest::new(spec, CredentialRequest::Generate))
    };
    let (mut rental, given_up) = live(&rentals, request(arguments.image.clone())?, telling).await?;
    if let (true, Some(docker)) = (given_up || lacks_image(&rental), &engine.docker) {
        let minimal: ImageRef = "gpurent-quickstart:local".parse()?;
        docker.import_minimal_image(&minimal).await?;
        telling
            .note(&format!("no image can be pulled here: made {minimal} from this machine's busybox, and rent again"));
        (rental, _) = live(&rentals, request(minimal)?, telling).await?;
    }
    telling.bill(&rental, rentals.now().wall);
    // The receiver is gone only if the reconciler has ended already.
    stop.send(()).ok();
    reconciling.await??;
    Ok(matches!(rental.state().end_reason(), Some(EndReason::Expired | EndReason::Cancelled)))
}

fn lacks_image(rental: &Rental) -> bool {
    matches!(
        rental.state().end_reason(),
        Some(EndReason::Failed(failure)) if matches!(failure.kind, FailureKind::ImageUnavailable | FailureKind::PullStalled)
    )
}

/// How often a pull may fail before another image is taken: a host would go on trying.
const PULLS: u32 = 3;

/// Returns when the rental's image was not pulled so often.
async fn pulls_in_vain(rentals: &Rentals, id: RentalId) {
    while rentals.waiting(id).is_none_or(|waiting| waiting.failures < PULLS) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Rents, and tells what happens until the end; and whether it was given up because nothing could be pulled. Whatever goes
/// wrong meanwhile, the rental is taken down.
async fn live(rentals: &Rentals, request: RentalRequest, telling: &mut Telling) -> Result<(Rental, bool), Failure> {
    let mut updates = rentals.subscribe();
    let id = rentals.rent(request).await?.rental().id();
    let told = follow(rentals, id, &mut updates, telling).await;
    if told.is_err() {
        rentals.cancel(id).await?;
        while rentals.get(id).await?.is_some_and(|rental| rental.is_live()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    told
}

/// Tells until the rental has ended. Ctrl-C or SIGTERM end the rental, not the program.
async fn follow(
    rentals: &Rentals,
    id: RentalId,
    updates: &mut Subscription,
    telling: &mut Telling,
) -> Result<(Rental, bool), Failure> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut given_up = false;
    loop {
        tokio::select! {
            rental = next(rentals, id, updates, telling) => {
                if let Some(rental) = rental? {
                    return Ok((rental, given_up));
                }
                continue;
            }
            () = pulls_in_vain(rentals, id), if !given_up => {
                let why = rentals.waiting(id).map(|waiting| waiting.message).unwrap_or_default();
                telling.note(&format!("given up: {why}"));
                given_up = true;
                rentals.cancel(id).await?;
                continue;
            }
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated.recv() => {}
        }
        telling.note("interrupted: ending the rental");
        rentals.cancel(id).await?;
    }
}

/// Tells the next update; gives the rental once it has ended.
async fn next(
    rentals: &Rentals,
    id: RentalId,
    updates: &mut Subscription,
    telling: &mut Telling,
) -> Result<Option<Rental>, Failure> {
    match updates.next().await? {
        Update::Progress { rental, progress } if rental.id() == id => telling.pulling(&progress),
        Update::Event { entry, rental } if entry.rental == id => {
            let rental = rental.ok_or("the rental is gone")?;
            let access = match entry.recorded.event {
                RentalEvent::Verified { .. } => rentals.access(&rental).await?,
                _ => None,
            };
            telling.event(&entry.recorded.event, &rental, access.as_ref());
            if matches!(entry.recorded.event, RentalEvent::Ended) {
                return Ok(Some(Arc::unwrap_or_clone(rental)));
            }
        }
        _ => {}
    }
    Ok(None)
}
