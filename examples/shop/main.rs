//! A shop of somebody's own, in one file: their login, `POST /buy`, `GET /rentals/ID/events` to follow it, `GET /rentals/ID/bill`.
//! Run it, then `curl -u ada:lovelace -X POST 127.0.0.1:8081/buy/ubuntu:22.04`; containers and GPUs are simulated. On real
//! ones `host` would be `DockerHost::new(..).open().await?.builder(..)` of gpurent-docker, and nothing else would change.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{Stream, stream};
use gpurent_core::allocation::PortPools;
use gpurent_core::clock::{SleepFuture, SystemClock};
use gpurent_core::host::{Reconciler, RentalUpdate};
use gpurent_core::id::Seq;
use gpurent_core::memory::{MemoryRuntime, MemoryStore, SimulatedGpus};
use gpurent_core::model::{Bill, GpuSelector, HourlyRate, MicroUnits, RateCard};
use gpurent_core::{
    CredentialRequest, GpuRequest, HostBuilder, ImageRef, Phase, Rental, RentalId, RentalRequest, RentalSpec, Rentals,
    RenterId, SealKey, Term,
};
use gpurent_http::Problem;
use serde_json::{Value, json};

type Failure = Box<dyn Error + Send + Sync>;

/// A customer who logged in. A real shop would ask its own sessions; this one knows ada:lovelace and grace:hopper, in base64.
struct Customer(RenterId);

impl<S: Sync> FromRequestParts<S> for Customer {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, StatusCode> {
        let name = match parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) {
            Some("Basic YWRhOmxvdmVsYWNl") => "ada",
            Some("Basic Z3JhY2U6aG9wcGVy") => "grace",
            _ => return Err(StatusCode::UNAUTHORIZED),
        };
        Ok(Self(name.parse().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?))
    }
}

/// Sells an hour of one GPU with an image, and tells how to get in once it is ready.
async fn buy(
    State(rentals): State<Rentals>,
    Customer(customer): Customer,
    Path(image): Path<ImageRef>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let spec = RentalSpec::new(customer, GpuRequest::one(GpuSelector::Any), image, Term::hours(1)?);
    let id = rentals.rent(RentalRequest::new(spec, CredentialRequest::Generate)).await?.rental().id();
    let ready = rentals.wait_until(id, |rental| rental.state().phase() == Phase::Ready).await?;
    let rental = ready.ok_or_else(Problem::not_found)?;
    let access = rentals.access(&rental).await?;
    let ssh = access.map(|access| format!("ssh -p {} {}@{}", access.port, access.user.as_str(), access.host));
    Ok((StatusCode::CREATED, Json(json!({ "id": id, "ssh": ssh }))))
}

/// A customer's own rental; of others' not even that there is one is told.
async fn own(rentals: &Rentals, customer: &RenterId, id: RentalId) -> Result<Rental, Problem> {
    let rental = rentals.get(id).await?.filter(|rental| rental.spec().renter == *customer);
    rental.ok_or_else(Problem::not_found)
}

/// Tells what happens to a rental, from its claim to its end.
async fn follow(
    State(rentals): State<Rentals>,
    Customer(customer): Customer,
    Path(id): Path<RentalId>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    own(&rentals, &customer, id).await?;
    let updates = stream::unfold(rentals.follow_rental(id, Seq::ZERO), |mut follower| async {
        // A database that does not answer ends the stream; the customer's client asks again.
        let event = match follower.next().await.ok()?? {
            RentalUpdate::Event(event) => Event::default().event(event.event.name()).data(event.at.to_string()),
            RentalUpdate::Progress(progress) => {
                Event::default().event("progress").data(progress.current_bytes.to_string())
            }
        };
        Some((Ok(event), follower))
    });
    Ok(Sse::new(updates))
}

/// The bill as it stands, to the second.
async fn bill(
    State(rentals): State<Rentals>,
    Customer(customer): Customer,
    Path(id): Path<RentalId>,
) -> Result<Json<Bill>, Problem> {
    Ok(Json(own(&rentals, &customer, id).await?.bill(rentals.now().wall)))
}

fn host() -> Result<(Rentals, Reconciler), Failure> {
    let (host, clock) = ("shop".parse()?, Arc::new(SystemClock::new()));
    let gpus = SimulatedGpus::new(&host, 2, "RTX 5090".parse()?).gpus().to_vec();
    let pools = PortPools::new("22000-22999".parse()?, "8100-8999".parse()?)?;
    let (store, runtime) = (Arc::new(MemoryStore::default()), Arc::new(MemoryRuntime::with_clock(clock)));
    let prices = RateCard::new("USD".parse()?).with("RTX 5090".parse()?, HourlyRate::new(MicroUnits::new(1_490_000))?);
    let sealer = Arc::new(SealKey::generate().0);
    Ok(HostBuilder::new(host, store, runtime, sealer, gpus, pools).prices(prices).build())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let (rentals, reconciler) = host()?;
    let sleep = |time| Box::pin(tokio::time::sleep(time)) as SleepFuture;
    let reconciling = tokio::spawn(reconciler.run(sleep, std::future::pending()));
    let routes = Router::new().route("/buy/{image}", post(buy)).route("/rentals/{id}/events", get(follow));
    let shop = routes.route("/rentals/{id}/bill", get(bill)).with_state(rentals);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8081").await?;
    tokio::select! {
        served = axum::serve(listener, shop) => served?,
        ended = reconciling => ended??,
    }
    Ok(())
}
