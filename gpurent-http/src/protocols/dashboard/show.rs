//! Containers as the protocol's clients read them: their keys, their units, and a number for each.

use gpurent_core::model::{HostPort, Rental, RentalState};
use gpurent_core::runtime::Usage;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::protocols::dashboard::{Dashboard, Service};
use crate::protocols::state_names;

/// The host's port of a service of a user's.
fn own_port(rental: &Rental, service: &Service) -> Option<HostPort> {
    rental.spec().sticky_ports.as_ref()?.port(service.offset)
}

/// A container, in short.
pub(super) fn container(dashboard: &Dashboard, rental: &Rental) -> Value {
    let spec = rental.spec();
    let ports: Map<String, Value> =
        dashboard.services.iter().map(|service| (service.name.clone(), json!(own_port(rental, service)))).collect();
    json!({
        "id": rental.id(),
        "container_id": rental.container(),
        "name": rental.name(),
        "username": spec.renter,
        "image": spec.image,
        "status": state_names::dashboard(rental.state()),
        "port_map": ports,
        "gpu": if spec.gpu.is_some() { "gpu" } else { "none" },
        "created": rental.created_at(),
        "created_at": rental.created_at(),
    })
}

/// A user's ports, by the names that clients read, and those of the protocol's description.
pub(super) fn ports(dashboard: &Dashboard, of: impl Fn(u16) -> Option<HostPort>) -> Map<String, Value> {
    let mut ports = Map::new();
    for service in &dashboard.services {
        let port = json!(of(service.offset));
        if !matches!(service.name.as_str(), "code" | "ssh") {
            ports.insert(service.name.clone(), port.clone());
        }
        ports.insert(format!("{}_port", service.name), port);
    }
    ports
}

const MIB: f64 = 1024.0 * 1024.0;

/// Two digits behind the point, as clients show them.
pub(super) fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

fn memory_percent(usage: &Usage) -> f64 {
    if usage.memory_limit == 0 { 0.0 } else { usage.memory_used as f64 / usage.memory_limit as f64 * 100.0 }
}

/// How much a container uses, in percent and MiB; one that does not run uses nothing.
pub(super) fn stats(usage: Option<&Usage>) -> Value {
    let none = Usage::default();
    let used = usage.unwrap_or(&none);
    json!({
        "cpu_usage": rounded(used.cpu_percent),
        "memory_usage": rounded(memory_percent(used)),
        "memory_used": rounded(used.memory_used as f64 / MIB),
        "memory_limit": rounded(used.memory_limit as f64 / MIB),
    })
}

/// Such as `3d 4h 5m`.
pub(super) fn uptime(seconds: i64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds % 86_400 / 3600, seconds % 3600 / 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}m"),
        (0, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h {minutes}m"),
    }
}

/// A row of the list of containers.
pub(super) fn row(dashboard: &Dashboard, rental: &Rental, usage: Option<&Usage>, now: Timestamp) -> Value {
    let mut row = container(dashboard, rental);
    let spec = rental.spec();
    let is_up = rental.state().is_up();
    let started = rental.started_at();
    let up_for = started.filter(|_| is_up).map_or(0, |started| now.duration_since(started).as_secs().max(0));
    let finished = match rental.state() {
        RentalState::Suspended { .. } => rental.exit().map(|exit| exit.finished_at),
        RentalState::Ended { at, .. } => Some(*at),
        _ => None,
    };
    let bindings = rental.ports().iter().map(|binding| {
        json!({
            "container_port": format!("{}/{}", binding.container, binding.transport),
            "host_ip": "0.0.0.0",
            "host_port": binding.host.to_string(),
        })
    });
    let volumes = spec.workspace.as_ref().map(|workspace| {
        json!({
            "source": workspace.folder.to_string(),
            "destination": workspace.mount.to_string(),
            "mode": "rw",
            "type": "bind",
        })
    });
    let of_usage = stats(usage);
    let more = json!({
        "state": state_names::dashboard(rental.state()),
        "started": started,
        "finished": finished,
        "uptime": uptime(up_for),
        "cpu_usage": of_usage["cpu_usage"],
        "memory_usage": of_usage["memory_usage"],
        "memory_used_mb": of_usage["memory_used"],
        "memory_limit_mb": of_usage["memory_limit"],
        "ports": bindings.collect::<Vec<_>>(),
        "volumes": volumes.into_iter().collect::<Vec<_>>(),
        // A renter's variables may be secrets.
        "environment": [],
        "command": "",
        "labels": spec.labels,
        "restart_count": 0,
        "platform": "linux",
    });
    if let (Value::Object(row), Value::Object(more)) = (&mut row, more) {
        row.extend(more);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_what_clients_show() {
        assert_eq!(uptime(0), "0m");
        assert_eq!(uptime(3 * 86_400 + 4 * 3600 + 5 * 60 + 6), "3d 4h 5m");
        let usage = Usage { cpu_percent: 12.345, memory_used: 3 << 20, memory_limit: 8 << 20 };
        let shown = stats(Some(&usage));
        assert_eq!((&shown["memory_used"], &shown["memory_limit"]), (&json!(3.0), &json!(8.0)));
        assert_eq!((&shown["memory_usage"], &shown["cpu_usage"]), (&json!(37.5), &json!(12.35)));
        assert_eq!(stats(None)["memory_used"], json!(0.0));
    }
}
