//! `/downloads/{file}`: files that an operator offers to everybody, such as the installer of the program by which the desktop
//! client shows a container's screen.

use axum::extract::Request;
use axum::http::header::{CONTENT_DISPOSITION, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tower::ServiceExt as _;
use tower_http::services::ServeDir;

use super::{Offer, Refused};

pub(super) const PLACE: &str = "/downloads";

pub(super) async fn download(dashboard: Offer, mut request: Request) -> Result<Response, Refused> {
    let missing = || Refused(StatusCode::NOT_FOUND, "there is no such file".to_owned());
    let folder = dashboard.0.and_then(|dashboard| dashboard.downloads.clone()).ok_or_else(missing)?;
    let file = request.uri().path().strip_prefix(PLACE).and_then(|file| file.parse::<Uri>().ok());
    *request.uri_mut() = file.ok_or_else(missing)?;
    let Ok(mut response) = ServeDir::new(folder).append_index_html_on_directories(false).oneshot(request).await;
    match response.status() {
        StatusCode::NOT_FOUND => return Err(missing()),
        status if status.is_success() => {
            // Kept and not shown, as the protocol has it: whatever a page among them does, it does not do as this host's own.
            response.headers_mut().insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
            response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        }
        _ => {}
    }
    Ok(response.into_response())
}
