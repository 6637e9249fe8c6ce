//! A shop of somebody's own, in one file: their login, `POST /buy/IMAGE`, and of a rental `/events`, `/access` and `/bill`.
//! Run it, then `curl -u ada:lovelace -X POST 127.0.0.1:8081/buy/ubuntu:22.04`; containers and GPUs are simulated. On real ones,
//! `host` takes its builder from `DockerHost` of gpurent-docker, a store of gpurent-store, and a key that is kept for good.

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
use gpurent_core::memory::{MemoryRuntime, MemoryStore, SimulatedGpus};
use gpurent_core::{
    Bill, Credential, CredentialRequest, GpuRequest, GpuSelector, HostBuilder, HourlyRate, ImageRef, MicroUnits, Phase,
    PortPools, RateCard, Reconciler, Rental, RentalId, RentalRequest, RentalSpec, RentalUpdate, Rentals, RenterId,
    SealKey, Seq, SleepFuture, SystemClock, Term,
};
use gpurent_http::Problem;
use serde_json::{Value, json};

type Failure = Box<dyn Error + Send + Sync>;
type Answer<T> = Result<Json<T>, Problem>;

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

/// Sells an hour of a GPU with an image. It is followed by its events: pulling an image may take long.
async fn buy(State(rentals): State<Rentals>, Customer(me): Customer, Path(image): Path<ImageRef>) -> Answer<Value> {
    let spec = RentalSpec::new(me, GpuRequest::one(GpuSelector::Any), image, Term::hours(1)?);
    let claimed = rentals.rent(RentalRequest::new(spec, CredentialRequest::Generate)).await?;
    Ok(Json(json!({ "id": claimed.rental().id() })))
}

/// A customer's own rental; of others' not even that there is one is told.
async fn own(rentals: &Rentals, customer: &RenterId, id: RentalId) -> Result<Rental, Problem> {
    let rental = rentals.get(id).await?.filter(|rental| rental.spec().renter == *customer);
    rental.ok_or_else(Problem::not_found)
}

/// How a customer gets in, and whether that is so already.
async fn access(State(rentals): State<Rentals>, Customer(me): Customer, Path(id): Path<RentalId>) -> Answer<Value> {
    let rental = own(&rentals, &me, id).await?;
    let access = rentals.access(&rental).await?.ok_or_else(Problem::not_found)?;
    let password = match &access.credential {
        Some(Credential::Password(password)) => Some(password.expose()),
        _ => None,
    };
    let is_ready = rental.state().phase() == Phase::Ready;
    Ok(Json(json!({ "ready": is_ready, "ssh": access.ssh_command(), "password": password })))
}

/// Tells what happens to a rental, from its claim to its end.
async fn follow(
    State(rentals): State<Rentals>,
    Customer(me): Customer,
    Path(id): Path<RentalId>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    own(&rentals, &me, id).await?;
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
async fn bill(State(rentals): State<Rentals>, Customer(me): Customer, Path(id): Path<RentalId>) -> Answer<Bill> {
    Ok(Json(own(&rentals, &me, id).await?.bill(rentals.now().wall)))
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
    let shop =
        routes.route("/rentals/{id}/access", get(access)).route("/rentals/{id}/bill", get(bill)).with_state(rentals);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8081").await?;
    tokio::select! {
        served = axum::serve(listener, shop) => served?,
        ended = reconciling => ended??,
    }
    Ok(())
}
