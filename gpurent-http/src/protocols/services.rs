//! A rental's services as the protocols of existing platforms tell of them: Jupyter, a web page, a desktop.

use gpurent_core::host::Rentals;
use gpurent_core::model::port::WEB;
use gpurent_core::model::{Protocol, Rental, Service};

/// The port at which these protocols expect Jupyter.
const JUPYTER: u16 = 8888;

/// The services that answer at this moment; where nobody can tell, those that have answered before.
pub(super) async fn now(rentals: &Rentals, rental: &Rental) -> Vec<Service> {
    match rentals.services(rental).await {
        Ok(services) => services,
        Err(error) => {
            tracing::debug!(rental = %rental.id(), error = &error as &dyn std::error::Error, "its ports cannot be asked");
            rental.services().to_vec()
        }
    }
}

fn web_at(services: &[Service], port: u16) -> Option<&Service> {
    let is_web = |service: &&Service| matches!(service.protocol, Protocol::Http | Protocol::Https);
    services.iter().filter(is_web).find(|service| service.container.get() == port)
}

/// Jupyter's address.
pub(super) fn jupyter_url(services: &[Service], host: &str) -> Option<String> {
    web_at(services, JUPYTER)?.url(host)
}

/// Jupyter's address, or else that of the page at the usual port.
pub(super) fn web_url(services: &[Service], host: &str) -> Option<String> {
    web_at(services, JUPYTER).or_else(|| web_at(services, WEB.get()))?.url(host)
}

/// The address of a desktop.
pub(super) fn vnc_url(services: &[Service], host: &str) -> Option<String> {
    services.iter().find(|service| service.protocol == Protocol::Vnc)?.url(host)
}

/// A sentence about services that came up, with the addresses that reach them.
pub(super) fn sentence(services: &[Service], host: &str) -> String {
    let told = services.iter().map(|service| match (service.url(host), service.container.get()) {
        (Some(url), JUPYTER) => format!("Jupyter answers at {url}"),
        (Some(url), port) => format!("Port {port} answers at {url}"),
        (None, port) => format!("Port {port} answers at {host}:{}", service.host),
    });
    told.collect::<Vec<_>>().join("; ")
}
