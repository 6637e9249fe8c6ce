//! A tiny image of our own, from which the containers are made that fill the kit's volume and try things out: never from
//! a renter's image, whose labels, volumes and size are not ours to believe.

use bollard::Docker;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use gpurent_core::runtime::RuntimeError;

use crate::engine::error::{is_missing, unavailable};

/// Names of our own images; nobody rents them.
pub(crate) const MARKS: &str = "gpurent-private";

/// The image's name, as containers are made from it.
pub(crate) fn image() -> String {
    format!("docker.io/{MARKS}/helper:latest")
}

/// Makes the image where the engine lacks it: an empty one.
pub(crate) async fn ensure(docker: &Docker) -> Result<(), RuntimeError> {
    match docker.inspect_image(&image()).await {
        Ok(_) => return Ok(()),
        Err(error) if is_missing(&error) => {}
        Err(error) => return Err(unavailable(error)),
    }
    import_empty(docker, &format!("{MARKS}/helper")).await
}

/// Makes an image without any file.
pub(crate) async fn import_empty(docker: &Docker, name: &str) -> Result<(), RuntimeError> {
    let empty = tar::Builder::new(Vec::new()).into_inner().map_err(|error| RuntimeError::Refused(Box::new(error)))?;
    let options = CreateImageOptionsBuilder::default().from_src("-").repo(name).tag("latest").build();
    let mut stream = Box::pin(docker.create_image(Some(options), Some(bollard::body_full(empty.into())), None));
    while let Some(news) = stream.next().await {
        news.map_err(unavailable)?;
    }
    Ok(())
}
