//! An endpoint, written once beside its handler: of this table the router is made, and the OpenAPI document.
//!
//! What a handler reads and answers stands in its signature, where the compiler checks it: parameters, the body and the answer are
//! described from there. An entry adds what no signature says: the path, a name, a line for people, and how it fails.

use super::answer::ApiFailure;
use crate::handle::Handle;
use axum::Json;
use axum::extract::State;
use axum::handler::Handler;
use axum::http::Request;
use axum::response::Response;
use axum::routing::{self, MethodRouter};
use model::api::ErrorBody;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// What an argument of a handler takes from the request.
pub(crate) trait Reads {
    /// It reads the query; of endpoints without such an argument a query is refused, because it would be ignored.
    const QUERY: bool = false;
    /// Statuses of what cannot be read.
    const FAILS: &'static [u16] = &[];

    /// Adds what it reads to the description.
    fn describe(_operation: &mut Operation, _schemas: &mut SchemaGenerator) {}
}

impl Reads for State<Handle> {}
impl<B> Reads for Request<B> {}

/// What a handler answers when all is well.
pub(crate) trait AnswersRequest {
    /// The answer's description; `None`: the entry says it.
    fn describe(_schemas: &mut SchemaGenerator) -> Option<Value> {
        None
    }
}

impl AnswersRequest for Response {}

impl<T: JsonSchema> AnswersRequest for Json<T> {
    fn describe(schemas: &mut SchemaGenerator) -> Option<Value> {
        Some(in_json::<T>(schemas, "Success"))
    }
}

/// What of an operation its handler's signature says.
#[derive(Debug, Default)]
pub(crate) struct Operation {
    pub(super) parameters: Vec<Value>,
    pub(super) body: Option<Value>,
    success: Option<Value>,
    fails: Vec<u16>,
}

impl Operation {
    fn reading<R: Reads>(&mut self, schemas: &mut SchemaGenerator) {
        R::describe(self, schemas);
        self.fails.extend(R::FAILS);
    }
}

/// A handler whose signature describes it; `Of` are its arguments.
pub(crate) trait DescribedHandler<Of> {
    const QUERY: bool;
    fn describe(schemas: &mut SchemaGenerator) -> Operation;
}

/// For handlers of one to five arguments.
macro_rules! described {
    ($($argument:ident),+) => {
        impl<F, R, T, $($argument),+> DescribedHandler<($($argument,)+)> for F
        where
            F: Fn($($argument),+) -> R,
            R: Future<Output = Result<T, ApiFailure>>,
            T: AnswersRequest,
            $($argument: Reads),+
        {
            const QUERY: bool = $($argument::QUERY)||+;

            fn describe(schemas: &mut SchemaGenerator) -> Operation {
                let mut operation = Operation { success: T::describe(schemas), ..Operation::default() };
                $(operation.reading::<$argument>(schemas);)+
                operation
            }
        }
    };
}

described!(A);
described!(A, B);
described!(A, B, C);
described!(A, B, C, D);
described!(A, B, C, D, E);

/// Describes an answer.
type DescribeAnswer = fn(&mut SchemaGenerator) -> Value;

/// One method of one path.
pub(crate) struct ApiEndpoint {
    /// As the OpenAPI document names it: `get`, `post`, …
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// Its name: `operationId` of the document.
    pub(crate) name: &'static str,
    summary: Cow<'static, str>,
    describe: fn(&mut SchemaGenerator) -> Operation,
    success: Option<Value>,
    fails: Vec<(u16, Cow<'static, str>)>,
    also: Vec<(u16, DescribeAnswer)>,
    /// A query changes nothing, and is let through.
    pub(crate) takes_query: bool,
    /// It is served at `metrics.listen`, too, where nobody has to prove who he is.
    pub(crate) is_for_scrapers: bool,
    pub(crate) handler: MethodRouter<Handle>,
}

/// Constructors, one for each method.
macro_rules! methods {
    ($($method:ident),+) => {
        $(pub(crate) fn $method<T: 'static, Of, H: Handler<T, Handle> + DescribedHandler<Of>>(
            path: &'static str,
            name: &'static str,
            summary: impl Into<Cow<'static, str>>,
            handler: H,
        ) -> ApiEndpoint {
            ApiEndpoint {
                method: stringify!($method),
                path,
                name,
                summary: summary.into(),
                describe: H::describe,
                success: None,
                fails: Vec::new(),
                also: Vec::new(),
                takes_query: H::QUERY,
                is_for_scrapers: false,
                handler: routing::$method(handler),
            }
        })+
    };
}

impl ApiEndpoint {
    methods!(get, post, put, patch, delete);

    /// Adds statuses of failures, beside those that follow from what the handler reads.
    pub(crate) fn fails(mut self, statuses: &[u16]) -> ApiEndpoint {
        self.fails.extend(statuses.iter().map(|status| (*status, meaning(*status).into())));
        self
    }

    /// Adds a status that means something else here than elsewhere.
    pub(crate) fn fails_as(mut self, status: u16, meaning: &'static str) -> ApiEndpoint {
        self.fails.push((status, meaning.into()));
        self
    }

    /// Describes a success that the handler's type does not.
    pub(crate) fn answers(mut self, success: Value) -> ApiEndpoint {
        self.success = Some(success);
        self
    }

    /// Describes an answer that has a body of its own with this status, success or not.
    pub(crate) fn also(mut self, status: u16, answer: DescribeAnswer) -> ApiEndpoint {
        self.also.push((status, answer));
        self
    }

    /// Lets others than operators ask, at `metrics.listen`; their queries change nothing.
    pub(crate) fn for_scrapers(mut self) -> ApiEndpoint {
        (self.is_for_scrapers, self.takes_query) = (true, true);
        self
    }

    /// Its part of the OpenAPI document.
    pub(crate) fn operation(&self, schemas: &mut SchemaGenerator) -> Value {
        let mut operation = (self.describe)(schemas);
        let names = self.path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        let in_path: Vec<Value> = names.map(|name| parameter("path", name, true, &path_line(name))).collect();
        if !in_path.is_empty() {
            operation.fails.push(400);
        }
        operation.parameters.splice(0..0, in_path);

        let mut responses = Map::new();
        let success = self.success.clone().or(operation.success);
        responses.insert("200".to_owned(), success.unwrap_or_else(|| json!({ "description": "Success" })));
        let general = operation.fails.iter().map(|status| (*status, Cow::Borrowed(meaning(*status))));
        for (status, meaning) in general.chain(self.fails.iter().cloned()) {
            responses.insert(status.to_string(), in_json::<ErrorBody>(schemas, &meaning));
        }
        for (status, answer) in &self.also {
            responses.insert(status.to_string(), answer(schemas));
        }
        let mut described = json!({
            "summary": self.summary,
            "operationId": self.name,
            "parameters": operation.parameters,
            "responses": responses,
        });
        if let Some(body) = operation.body {
            described["requestBody"] = body;
        }
        if self.is_for_scrapers {
            described["description"] = json!("Served at metrics.listen, too, where no token is asked for.");
        }
        described
    }
}

/// An answer or a body in JSON.
pub(super) fn in_json<T: JsonSchema>(schemas: &mut SchemaGenerator, description: &str) -> Value {
    let schema = schemas.subschema_for::<T>();
    json!({ "description": description, "content": { "application/json": { "schema": schema } } })
}

/// An answer or a body of a type that is not JSON.
pub(super) fn in_text(media: &str, description: &str) -> Value {
    json!({ "description": description, "content": { media: { "schema": { "type": "string" } } } })
}

/// A parameter that is text.
pub(super) fn parameter(place: &str, name: &str, required: bool, description: &str) -> Value {
    json!({
        "name": name,
        "in": place,
        "required": required,
        "description": description,
        "schema": { "type": "string" },
    })
}

fn path_line(name: &str) -> String {
    format!("Name of the {name}")
}

/// What a failure with this status means as a rule.
fn meaning(status: u16) -> &'static str {
    match status {
        400 => "Bad request",
        404 => "No such service, backend or capture",
        408 => "The body did not arrive in time",
        409 => "Keys that need a restart differ; they are named, nothing was changed",
        413 => "Body too large",
        415 => "Not what the route takes",
        422 => {
            "Bad configuration; diagnostics give line, column and help. Or it names a file, of tokens \
             or certificates, that cannot be used. Nothing was changed"
        }
        500 => "The file cannot be read",
        _ => "Stopping, or not now: the error says why",
    }
}
