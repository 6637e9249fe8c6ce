//! The routes of existing platforms' protocols, each together with its line in the API's description, so that the description
//! has every route.
//!
//! What their bodies hold is said by those platforms and by their clients: here they are JSON objects and no more.

use axum::Router;
use axum::handler::Handler;
use axum::routing::{self, MethodRouter};
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn, Paths};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{KnownFormat, SchemaFormat, Type};
use utoipa::openapi::{Content, ObjectBuilder, OpenApi, OpenApiBuilder, Required, ResponseBuilder, Schema};

use crate::surfaces::Surfaces;

/// The routes of one protocol.
pub(crate) struct Described {
    protocol: &'static str,
    slashes: bool,
    routes: Router<Surfaces>,
    paths: Paths,
}

impl Described {
    /// None yet, of a protocol of this name.
    pub(super) fn new(protocol: &'static str) -> Self {
        Self { protocol, slashes: false, routes: Router::new(), paths: Paths::new() }
    }

    /// The following ones also with a slash at the end, as some clients write them.
    pub(super) fn with_slashes(self) -> Self {
        Self { slashes: true, ..self }
    }

    /// A route that answers GET: its path, its name and what it does.
    pub(super) fn get<T: 'static>(self, path: &str, named: [&str; 2], handler: impl Handler<T, Surfaces>) -> Self {
        let operation = self.operation(path, named).response("default", json());
        self.with(path, HttpMethod::Get, operation.build(), routing::get(handler))
    }

    /// A route that answers GET by a file.
    pub(super) fn file<T: 'static>(self, path: &str, named: [&str; 2], handler: impl Handler<T, Surfaces>) -> Self {
        let bytes =
            ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)));
        let content = Content::new(Some(Schema::Object(bytes.build())));
        let file = ResponseBuilder::new().description("The file").content("application/octet-stream", content);
        let operation = self.operation(path, named).response("200", file).response("default", json());
        self.with(path, HttpMethod::Get, operation.build(), routing::get(handler))
    }

    /// A route that answers POST.
    pub(super) fn post<T: 'static>(self, path: &str, named: [&str; 2], handler: impl Handler<T, Surfaces>) -> Self {
        let operation = self.operation(path, named).request_body(Some(body().build())).response("default", json());
        self.with(path, HttpMethod::Post, operation.build(), routing::post(handler))
    }

    /// A route that answers DELETE.
    pub(super) fn delete<T: 'static>(self, path: &str, named: [&str; 2], handler: impl Handler<T, Surfaces>) -> Self {
        let operation = self.operation(path, named).request_body(Some(body().build())).response("default", json());
        self.with(path, HttpMethod::Delete, operation.build(), routing::delete(handler))
    }

    fn operation(&self, path: &str, [name, summary]: [&str; 2]) -> OperationBuilder {
        let operation = OperationBuilder::new()
            .tag(self.protocol)
            .operation_id(Some(format!("{}_{name}", self.protocol)))
            .summary(Some(summary));
        let named = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        named.fold(operation, |operation, name| {
            let text = Schema::Object(ObjectBuilder::new().schema_type(Type::String).build());
            let parameter = ParameterBuilder::new()
                .name(name.trim_start_matches('*'))
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .schema(Some(text));
            operation.parameter(parameter)
        })
    }

    fn with(mut self, path: &str, method: HttpMethod, operation: Operation, answer: MethodRouter<Surfaces>) -> Self {
        // Axum marks a parameter that may have slashes by an asterisk.
        self.paths.add_path_operation(path.replace("{*", "{"), vec![method], operation);
        if self.slashes {
            self.routes = self.routes.route(&format!("{path}/"), answer.clone());
        }
        Self { routes: self.routes.route(path, answer), ..self }
    }

    pub(crate) fn into_router(self) -> Router<Surfaces> {
        self.routes
    }

    pub(crate) fn into_openapi(self) -> OpenApi {
        OpenApiBuilder::new().paths(self.paths).build()
    }
}

/// An object of which that platform says what it holds.
fn object() -> Content {
    Content::new(Some(Schema::Object(ObjectBuilder::new().schema_type(Type::Object).build())))
}

fn body() -> RequestBodyBuilder {
    RequestBodyBuilder::new().content("application/json", object())
}

fn json() -> ResponseBuilder {
    ResponseBuilder::new()
        .description("In that platform's words, as is what is refused")
        .content("application/json", object())
}
