//! The routes of existing platforms' protocols, each together with its line in the API's description, so that the description
//! has every route.
//!
//! Their bodies are JSON objects and no more here: those platforms and their clients say what is in them.

use axum::handler::Handler;
use axum::routing::MethodRouter;
use axum::{Router, routing};
use utoipa::ToSchema;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn, Paths};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{KnownFormat, SchemaFormat, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Content, ObjectBuilder, OpenApi, OpenApiBuilder, Ref, Required, ResponseBuilder, Schema};

use crate::problem::Problem;

/// The body that a route takes.
#[derive(Clone, Copy)]
pub(super) enum Takes {
    Nothing,
    /// An object, or nothing.
    Optional,
    /// An object.
    Body,
}

impl Takes {
    fn body(self) -> Option<RequestBody> {
        let required = match self {
            Self::Nothing => return None,
            Self::Optional => Required::False,
            Self::Body => Required::True,
        };
        Some(RequestBodyBuilder::new().content("application/json", object()).required(Some(required)).build())
    }
}

/// The routes of one protocol.
pub(crate) struct Described<S> {
    protocol: &'static str,
    slashes: bool,
    routes: Router<S>,
    paths: Paths,
}

impl<S: Clone + Send + Sync + 'static> Described<S> {
    /// None yet, of a protocol of this name.
    pub(super) fn new(protocol: &'static str) -> Self {
        Self { protocol, slashes: false, routes: Router::new(), paths: Paths::new() }
    }

    /// The following ones also with a slash at the end, as some clients write them.
    pub(super) fn with_slashes(self) -> Self {
        Self { slashes: true, ..self }
    }

    /// A route that answers GET: its path, its name and what it does.
    pub(super) fn get<T: 'static>(self, path: &str, named: [&str; 2], handler: impl Handler<T, S>) -> Self {
        self.keyed(path, named, HttpMethod::Get, Takes::Nothing, routing::get(handler))
    }

    /// A route that answers GET by a file, without a key.
    pub(super) fn file<T: 'static>(self, path: &str, named: [&str; 2], handler: impl Handler<T, S>) -> Self {
        let binary = SchemaFormat::KnownFormat(KnownFormat::Binary);
        let bytes = || ObjectBuilder::new().schema_type(Type::String).format(Some(binary.clone())).build();
        let content = || Content::new(Some(Schema::Object(bytes())));
        let file = |what: &str| ResponseBuilder::new().description(what).content("application/octet-stream", content());
        let operation = self
            .operation(path, named, Takes::Nothing)
            .response("200", file("The file"))
            .response("206", file("A part of the file"))
            .response("304", ResponseBuilder::new().description("Unchanged"))
            .response("412", ResponseBuilder::new().description("Changed since"))
            .response("416", ResponseBuilder::new().description("The file has no such part"))
            .response("503", refused("Too many requests at once"))
            .response("default", json())
            .security(SecurityRequirement::default());
        self.with(path, HttpMethod::Get, operation.build(), routing::get(handler))
    }

    /// A route that answers POST.
    pub(super) fn post<T: 'static>(
        self,
        path: &str,
        named: [&str; 2],
        takes: Takes,
        handler: impl Handler<T, S>,
    ) -> Self {
        self.keyed(path, named, HttpMethod::Post, takes, routing::post(handler))
    }

    /// A route that answers DELETE.
    pub(super) fn delete<T: 'static>(
        self,
        path: &str,
        named: [&str; 2],
        takes: Takes,
        handler: impl Handler<T, S>,
    ) -> Self {
        self.keyed(path, named, HttpMethod::Delete, takes, routing::delete(handler))
    }

    /// A route for those who have a key.
    fn keyed(self, path: &str, named: [&str; 2], method: HttpMethod, takes: Takes, answer: MethodRouter<S>) -> Self {
        let operation = self.operation(path, named, takes);
        let operation = operation.response("401", refused("No valid key")).response("default", json());
        self.with(path, method, operation.build(), answer)
    }

    fn operation(&self, path: &str, [name, summary]: [&str; 2], takes: Takes) -> OperationBuilder {
        let operation = OperationBuilder::new()
            .tag(self.protocol)
            .operation_id(Some(format!("{}_{name}", self.protocol)))
            .summary(Some(summary))
            .request_body(takes.body())
            .response("403", refused("Not allowed from there"))
            .response("429", refused("Too often: wait as long as `Retry-After` says"));
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

    fn with(mut self, path: &str, method: HttpMethod, operation: Operation, answer: MethodRouter<S>) -> Self {
        // Axum marks a parameter that may have slashes by an asterisk.
        self.paths.add_path_operation(path.replace("{*", "{"), vec![method], operation);
        if self.slashes {
            self.routes = self.routes.route(&format!("{path}/"), answer.clone());
        }
        Self { routes: self.routes.route(path, answer), ..self }
    }

    pub(crate) fn into_router(self) -> Router<S> {
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

/// An answer of the host itself, whichever protocol was spoken.
fn refused(why: &str) -> ResponseBuilder {
    let problem = Content::new(Some(Ref::from_schema_name(Problem::name())));
    ResponseBuilder::new().description(why).content("application/problem+json", problem)
}

fn json() -> ResponseBuilder {
    ResponseBuilder::new()
        .description("In that platform's words, as is what it refuses")
        .content("application/json", object())
}
