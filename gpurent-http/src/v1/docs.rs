//! The API's own description: OpenAPI 3.1 made from the code, and a page that shows it without anything from
//! elsewhere.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{Html, IntoResponse};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, Content, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response, ResponseBuilder,
};
use utoipa::{IntoResponses, PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::problem::Problem;

/// The refusals that every request may meet.
pub(super) struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let refusals = [
            (400, "The body cannot be read"),
            (401, "No valid key"),
            (403, "Not allowed"),
            (404, "No such thing, or none that this key may see"),
            (409, "Not as things are"),
            (410, "A position that the journal does not have"),
            (412, "Changed since"),
            (413, "Too large"),
            (415, "Not JSON"),
            (422, "Something in it is wrong: `field` says what"),
            (426, "A WebSocket is wanted"),
            (429, "Too often: wait as long as `Retry-After` says"),
            (501, "Not offered by this host"),
            (503, "Not now: wait as long as `Retry-After` says"),
        ];
        let response = |description: &str| {
            let content = Content::new(Some(Ref::from_schema_name(Problem::name())));
            RefOr::T(
                ResponseBuilder::new().description(description).content("application/problem+json", content).build(),
            )
        };
        refusals.into_iter().map(|(status, description)| (status.to_string(), response(description))).collect()
    }
}

/// The document that the routes are added to.
pub(super) fn skeleton() -> OpenApi {
    let key = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    let info = InfoBuilder::new()
        .title("gpurent")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Rents a host's GPUs out as time-limited containers. Times are RFC 3339, durations seconds, money millionths."))
        .build();
    let components = ComponentsBuilder::new().security_scheme("key", key).schema(Problem::name(), Problem::schema());
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components.build()))
        .security(Some([SecurityRequirement::new("key", Vec::<String>::new()), SecurityRequirement::default()]))
        .build()
}

/// The document as it is served.
pub(super) fn document() -> &'static str {
    static DOCUMENT: OnceLock<String> = OnceLock::new();
    // A document of texts and numbers always has a JSON form.
    DOCUMENT.get_or_init(|| crate::v1::described().to_json().unwrap_or_default())
}

/// For everybody: it says nothing about this host.
pub(super) fn routes() -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(describe)).routes(routes!(page))
}

/// Describes all routes as OpenAPI
#[utoipa::path(
    get, path = "/v1/openapi.json", operation_id = "describe", tag = "host", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
async fn describe() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], document())
}

/// Shows the description to people
#[utoipa::path(
    get, path = "/v1/docs", operation_id = "docs", tag = "host", security(()),
    responses((status = 200, description = "A page", body = String, content_type = "text/html"))
)]
async fn page() -> impl IntoResponse {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                  frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
    ([(CONTENT_SECURITY_POLICY, policy)], Html(include_str!("docs.html")))
}
