//! The WebSocket of the `rent` and the `instances` protocol: the server tells, what the client says is ignored.

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, close_code};
use axum::extract::{State, WebSocketUpgrade};
use axum::response::Response;
use axum::{Extension, Router};
use gpurent_core::host::{Lagged, Rentals, Update};
use gpurent_core::id::{ContainerId, RentalId};
use gpurent_core::model::{Credential, EndReason, JournalEntry, Rental, RentalEvent};
use gpurent_core::runtime::Progress;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::farewell;
use crate::middleware::auth::SocketSession;
use crate::middleware::auth::first_message::SocketAuth;
use crate::problem::Problem;
use crate::protocol::Protocol;
use crate::protocols::services::{sentence, vnc_url, web_url};
use crate::protocols::{instance_id, services, state_names};
use crate::state::{AppState, Own};
use crate::subscribers::{READ_BUFFER, Subscribers};
use crate::websocket::{Connection, Incoming, Turn};

/// The route, which belongs to the `rent` and to the `instances` protocol.
pub(crate) fn routes() -> OpenApiRouter<Own<()>> {
    OpenApiRouter::new().routes(routes!(upgrade))
}

/// The protocol's part that both share.
pub(crate) fn protocol(state: &AppState) -> Protocol {
    let sockets = Router::from(routes()).with_state(state.own(()));
    Protocol::new(Router::new()).with_sockets(sockets).revealing(|path| path.ends_with("/ws"))
}

/// Tells what happens to rentals, in the words of `rent` or of `instances`
#[utoipa::path(
    get, path = "/ws", operation_id = "updates", tag = "updates",
    responses(
        (status = 101, description = "A WebSocket: each message is an update"),
        (status = 401, description = "No valid key", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Not allowed from there", body = Problem, content_type = "application/problem+json"),
        (status = 426, description = "A WebSocket is wanted", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too often: wait as long as `Retry-After` says", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn upgrade(
    State(rentals): State<Rentals>,
    State(subscribers): State<Subscribers>,
    Extension(auth): Extension<SocketAuth>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|_| Problem::upgrade_required())?;
    Ok(upgrade.max_message_size(64 * 1024).read_buffer_size(READ_BUFFER).on_upgrade(move |mut socket| async move {
        let Some((caller, access)) = auth.admit(&mut socket).await else { return };
        let Ok(place) = subscribers.enter(&caller) else {
            turn_away(socket).await;
            return;
        };
        let session = serve(socket, rentals, caller, access, subscribers.stopping);
        subscribers.tracker.track_future(session).await;
        drop(place);
    }))
}

/// Tells one client everything until it leaves, is too slow, or the server ends.
pub(crate) async fn serve(
    socket: WebSocket,
    rentals: Rentals,
    caller: Caller,
    access: SocketSession,
    shutdown: CancellationToken,
) {
    let mut updates = rentals.subscribe();
    let mut connection = Connection::new(socket, access, shutdown);
    loop {
        let next = async {
            loop {
                let update = updates.next().await?;
                if let Some(message) = render(&rentals, &caller, &update).await {
                    return Ok::<_, Lagged>(message);
                }
            }
        };
        match connection.turn(Incoming::Discard, next).await {
            Turn::Done(Ok(message)) => {
                // Gone, or not reading: nobody is left to tell why.
                if connection.send(Message::Text(message.to_string().into())).await.is_err() {
                    return;
                }
            }
            Turn::Done(Err(lagged)) => return connection.close(close_code::AGAIN, lagged.to_string()).await,
            Turn::Stopping => return connection.close_stopping().await,
            Turn::Revoked => return connection.close_revoked().await,
            Turn::Gone | Turn::TooSlow | Turn::Heard(_) => return,
        }
    }
}

/// Tells somebody that there is no place for them now.
pub(crate) async fn turn_away(mut socket: WebSocket) {
    farewell::close(&mut socket, close_code::AGAIN, "too many listen already").await;
}

/// The message for an update; `None` where there is nothing to tell this client.
async fn render(rentals: &Rentals, caller: &Caller, update: &Update) -> Option<Value> {
    // There is nothing to tell of one that the store has no more.
    let rental = update.rental()?;
    if !caller.may_see(rental) {
        return None;
    }
    match update {
        Update::Progress { .. } if is_an_instance(rental) => {
            Some(live_update(rentals, rental.id(), "Pulling Docker image..."))
        }
        Update::Progress { progress, .. } => Some(pulling(rentals, rental.id(), progress)),
        Update::Event { entry, .. } if is_an_instance(rental) => of_an_instance(rentals, &entry.recorded.event, rental),
        Update::Event { entry, .. } => render_event(rentals, entry, rental).await,
    }
}

/// Whether a rental is one of the `instances` protocol, which has words of its own.
fn is_an_instance(rental: &Rental) -> bool {
    rental.spec().labels.get(instance_id::MARK).is_some()
}

/// The messages of the `instances` protocol: sentences, under the rental's id, and at the end under the one that was
/// promised when it was asked for.
fn of_an_instance(rentals: &Rentals, event: &RentalEvent, rental: &Rental) -> Option<Value> {
    let id = rental.id();
    let promised = instance_id::shown_id(rental);
    let told = |of: &str, message: String| {
        Some(json!({"status": "live_update", "agent_id": rentals.host(), "instance_uuid": of, "message": message}))
    };
    let it = id.to_string();
    match event {
        RentalEvent::Claimed(_) => told(&it, format!("Starting deployment for instance {id}...")),
        RentalEvent::Created { .. } => told(&it, "Starting container...".to_owned()),
        RentalEvent::Started { .. } => told(&it, format!("Instance {id} started with container ID {promised}")),
        RentalEvent::ServicesUp { services } => told(&it, sentence(services, rentals.public_host())),
        RentalEvent::Ended => match rental.state().end_reason()? {
            EndReason::Failed(failure) => told(&it, format!("Deployment failed for instance {id}: {}", failure.detail)),
            EndReason::Cancelled => told(&promised, "Instance terminated successfully".to_owned()),
            other => told(&promised, other.describe()),
        },
        _ => None,
    }
}

fn pulling(rentals: &Rentals, rental: RentalId, progress: &Progress) -> Value {
    let (current, total) = (progress.current_bytes, progress.total_bytes);
    live_update(rentals, rental, &format!("Pulling image: {current} of {total} bytes"))
}

fn live_update(rentals: &Rentals, rental: RentalId, message: &str) -> Value {
    json!({"status": "live_update", "agent_id": rentals.host(), "instance_uuid": rental, "message": message})
}

async fn render_event(rentals: &Rentals, entry: &JournalEntry, rental: &Rental) -> Option<Value> {
    let id = entry.rental;
    let status = |status: &str, message: String, container: Option<ContainerId>| {
        let mut told = json!({"instance_uuid": id, "status": status, "message": message});
        // Left out where there is none, as clients expect it.
        if let (Some(container), Some(told)) = (container, told.as_object_mut()) {
            told.insert("container_id".to_owned(), json!(container));
        }
        told
    };
    match &entry.recorded.event {
        RentalEvent::Claimed(_) => Some(status("creating", "Starting container creation...".to_owned(), None)),
        RentalEvent::Started { .. } => {
            let container = rental.container().cloned();
            let named = container.as_ref().map(ToString::to_string).unwrap_or_default();
            Some(status("running", format!("Container started with container ID: {named}"), container))
        }
        RentalEvent::Verified { .. } => Some(ready(rentals, rental).await),
        RentalEvent::ServicesUp { services } => {
            let host = rentals.public_host();
            let mut told = live_update(rentals, id, &sentence(services, host));
            told["access_info"] = json!({
                "jupyter_url": web_url(rental.services(), host),
                "vnc_url": vnc_url(rental.services(), host),
            });
            Some(told)
        }
        RentalEvent::Warned => Some(live_update(rentals, id, "The rental expires soon")),
        RentalEvent::Suspended { .. } => Some(live_update(rentals, id, "Instance stopped; it can be started again")),
        RentalEvent::Resumed(_) => Some(status("creating", "Starting the instance again...".to_owned(), None)),
        RentalEvent::Ended => {
            let reason = rental.state().end_reason()?;
            let message = match reason {
                EndReason::Expired => "Rental expired, instance removed".to_owned(),
                EndReason::Cancelled => "Instance terminated successfully".to_owned(),
                other => other.describe(),
            };
            Some(status(state_names::rent_end(reason), message, rental.container().cloned()))
        }
        _ => None,
    }
}

async fn ready(rentals: &Rentals, rental: &Rental) -> Value {
    let access = match rentals.access(rental).await {
        Ok(access) => access,
        Err(error) => {
            tracing::error!(rental = %rental.id(), error = &error as &dyn std::error::Error, "access cannot be told");
            None
        }
    };
    let password = match access.as_ref().and_then(|access| access.credential.as_ref()) {
        Some(Credential::Password(password)) => Some(password.expose()),
        _ => None,
    };
    let gpu = rental.gpus().first();
    let host = rentals.public_host();
    let services = services::now(rentals, rental).await;
    json!({
        "instance_uuid": rental.id(),
        "status": "ready",
        "message": "GPU instance is ready for use",
        "container_id": rental.container(),
        "connection_info": {
            "ssh_host": host,
            "ssh_port": rental.ssh_port(),
            "username": rental.spec().login,
            "password": password,
        },
        "gpu_info": {
            "gpu_id": gpu.map(|gpu| gpu.index.to_string()),
            "gpu_name": gpu.map(|gpu| &gpu.model),
            "memory_allocated": gpu.map(|gpu| format!("{}GB", gpu.memory_mib.div_ceil(1024))),
        },
        "access_info": {
            // As its clients take it apart.
            "ssh_command": access.as_ref().map(|access| {
                format!("ssh -p {} {}@{}", access.port, access.user.as_str(), access.host)
            }),
            "jupyter_url": web_url(&services, host),
            "vnc_url": vnc_url(&services, host),
        },
    })
}
