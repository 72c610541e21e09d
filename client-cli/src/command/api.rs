//! `agentctl api`: every method of the API, without a client of its own.

use std::io::Read as _;

use clap::{Args, Subcommand};
use http::uri::PathAndQuery;
use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    ServiceDescriptor,
};
use serde::Serialize;
use tonic::client::Grpc;

use super::Context;
use crate::connect::Session;
use crate::dynamic::{self, MethodCodec, PACKAGE};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};

/// Largest request that is read.
const INPUT_MAX: u64 = 16 * 1024 * 1024;
/// Most messages of one call.
const MESSAGES_MAX: usize = 100_000;
/// Largest answer that is taken.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// List, describe and call the methods of the API
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl api list
  agentctl api describe AgentService/Pause
  agentctl api call AgentService/GetStatus
  agentctl api call OnboardingService/GetApp -d '{\"name\": \"my-api\"}'")]
pub struct ApiArgs {
    #[command(subcommand)]
    command: ApiCommand,
}

#[derive(Debug, Subcommand)]
enum ApiCommand {
    /// List the methods this program knows; asks no server
    #[command(after_help = "Examples:\n  agentctl api list\n  agentctl api list -o name")]
    List,
    /// Describe a service, a method, a message or an enum
    #[command(after_help = "\
Examples:
  agentctl api describe AgentService
  agentctl api describe DecisionService/ProposeAction
  agentctl api describe Signal

Exit codes: 0 described, 3 there is no such thing.")]
    Describe {
        /// Name, with or without the package
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Call a method with proto3 JSON; a stream of answers is one line each
    #[command(after_help = "\
Examples:
  agentctl api call AgentService/GetStatus
  agentctl api call OnboardingService/GetApp -d '{\"name\": \"my-api\"}'
  agentctl api call DecisionService/WatchDecisions -d '{\"beginning\": true}'
  agentctl api call TelemetryService/PushSignals -d @signals.jsonl
  agentctl api call AgentService/Pause -d @- < pause.json

Several documents in a row are the messages of a stream. The exit codes are those of every command:
`agentctl exit-codes`.")]
    Call {
        /// SERVICE/METHOD
        #[arg(value_name = "METHOD")]
        method: String,
        /// Request: JSON, @FILE, or @- for stdin
        #[arg(short, long, value_name = "JSON|@FILE", default_value = "{}")]
        data: String,
    },
}

#[derive(Debug, Serialize)]
struct MethodView {
    name: String,
    request: String,
    response: String,
    client_streams: bool,
    server_streams: bool,
    about: String,
}

#[derive(Debug, Serialize)]
struct FieldView {
    name: String,
    r#type: String,
    number: u32,
    about: String,
}

#[derive(Debug, Serialize)]
struct TypeView {
    name: String,
    about: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<MethodView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<FieldView>,
}

pub(super) async fn run(args: ApiArgs, context: &mut Context) -> Result<Exit, Failure> {
    let pool = dynamic::pool()?;
    match args.command {
        ApiCommand::List => list(&pool, context),
        ApiCommand::Describe { name } => describe(&pool, &name, context),
        ApiCommand::Call { method, data } => {
            let method = find_method(&pool, &method)?;
            let json = read(&data)?;
            let limit = if method.is_client_streaming() { MESSAGES_MAX } else { 1 };
            let mut messages = dynamic::all_from_json(&method.input(), &json, limit)?;
            if messages.is_empty() && !method.is_client_streaming() {
                messages.push(prost_reflect::DynamicMessage::new(method.input()));
            }
            let session = context.connect().await?;
            call(&method, messages, &session, context).await
        }
    }
}

fn services(pool: &DescriptorPool) -> impl Iterator<Item = ServiceDescriptor> {
    pool.services()
        .filter(|service| service.package_name() == PACKAGE)
        .collect::<Vec<_>>()
        .into_iter()
}

/// `Service/Method`, with or without the package and a leading slash.
fn find_method(pool: &DescriptorPool, name: &str) -> Result<MethodDescriptor, Failure> {
    let short = name.trim_start_matches('/');
    let short = short.strip_prefix(&format!("{PACKAGE}.")).unwrap_or(short);
    let found =
        short.split_once('/').or_else(|| short.split_once('.')).and_then(|(service, method)| {
            let service = services(pool).find(|s| s.name() == service)?;
            service.methods().find(|m| m.name() == method)
        });
    found.ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("there is no method `{name}`"))
            .hint("`agentctl api list` shows them, such as AgentService/GetStatus")
    })
}

fn read(data: &str) -> Result<String, Failure> {
    let Some(place) = data.strip_prefix('@') else { return Ok(data.to_owned()) };
    let mut text = String::new();
    let read = if place == "-" {
        std::io::stdin().lock().take(INPUT_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(place)
            .and_then(|file| file.take(INPUT_MAX + 1).read_to_string(&mut text))
    };
    let length = read.map_err(|error| {
        Failure::because(Exit::Usage, &format!("cannot read --data `{data}`"), &error)
    })?;
    if u64::try_from(length).unwrap_or(u64::MAX) > INPUT_MAX {
        return Err(Failure::usage(format!("--data is larger than {INPUT_MAX} bytes")));
    }
    Ok(text)
}

async fn call(
    method: &MethodDescriptor,
    messages: Vec<prost_reflect::DynamicMessage>,
    session: &Session,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let path = PathAndQuery::try_from(path)
        .map_err(|error| Failure::because(Exit::Failure, "cannot call it", &error))?;
    let mut grpc = Grpc::new(session.connection()).max_decoding_message_size(ANSWER_MAX);
    let gone =
        |error: tonic::transport::Error| session.failure(tonic::Status::from_error(error.into()));
    grpc.ready().await.map_err(gone)?;
    let messages = tokio_stream::iter(messages);
    let request = if method.is_server_streaming() {
        tonic::Request::new(messages)
    } else {
        session.unary(messages)
    };
    let codec = MethodCodec(method.clone());
    let answer = grpc.streaming(request, path, codec).await.map_err(|s| session.failure(s))?;
    let mut stream = answer.into_inner();
    while let Some(message) = stream.message().await.map_err(|s| session.failure(s))? {
        let json = dynamic::to_json(&message)?;
        let shown = serde_json::to_string_pretty(&json).unwrap_or_default();
        if method.is_server_streaming() {
            context.output.emit_item(&json, |page| page.block(&shown))?;
        } else {
            context.output.emit(&json, |page| page.block(&shown))?;
        }
    }
    Ok(Exit::Ok)
}

fn list(pool: &DescriptorPool, context: &mut Context) -> Result<Exit, Failure> {
    let views: Vec<_> = services(pool)
        .flat_map(|s| s.methods().map(|m| method_view(&m)).collect::<Vec<_>>())
        .collect();
    let columns = context.output.columns();
    context.output.emit_list(&views, |page| {
        let mut table = Table::new(&["METHOD", "WHAT IT DOES"]).fit(columns);
        for view in &views {
            table.row([&view.name, first_sentence(&view.about)]);
        }
        page.table(&table);
    })?;
    Ok(Exit::Ok)
}

fn first_sentence(text: &str) -> &str {
    text.split_once(". ").map_or(text, |(first, _)| first)
}

fn method_view(method: &MethodDescriptor) -> MethodView {
    let file = method.parent_service().parent_file();
    MethodView {
        name: format!("{}/{}", method.parent_service().name(), method.name()),
        request: method.input().name().to_owned(),
        response: method.output().name().to_owned(),
        client_streams: method.is_client_streaming(),
        server_streams: method.is_server_streaming(),
        about: comment(&file, method.path()),
    }
}

/// The comment of something in a `.proto` file, as one line.
fn comment(file: &prost_reflect::FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let location = info.and_then(|info| info.location.iter().find(|l| l.path == path));
    let text = location.map(|l| l.leading_comments()).unwrap_or_default();
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned()
}

fn describe(pool: &DescriptorPool, name: &str, context: &mut Context) -> Result<Exit, Failure> {
    let full = if name.starts_with(PACKAGE) || name.starts_with("google.") {
        name.to_owned()
    } else {
        format!("{PACKAGE}.{name}")
    };
    let view = if let Ok(method) = find_method(pool, name) {
        let input = method.input();
        TypeView { methods: vec![method_view(&method)], ..message_view(&input) }
    } else if let Some(service) = pool.get_service_by_name(&full) {
        TypeView {
            name: service.name().to_owned(),
            about: comment(&service.parent_file(), service.path()),
            methods: service.methods().map(|m| method_view(&m)).collect(),
            fields: Vec::new(),
        }
    } else if let Some(message) = pool.get_message_by_name(&full) {
        message_view(&message)
    } else if let Some(names) = pool.get_enum_by_name(&full) {
        enum_view(&names)
    } else {
        return Err(Failure::new(Exit::NotFound, format!("the API has no `{name}`"))
            .hint("`agentctl api list` shows its methods; their messages can be described, too"));
    };
    let columns = context.output.columns();
    context.output.emit(&view, |page| type_page(page, &view, columns))?;
    Ok(Exit::Ok)
}

fn message_view(message: &MessageDescriptor) -> TypeView {
    let file = message.parent_file();
    TypeView {
        name: message.name().to_owned(),
        about: comment(&file, message.path()),
        methods: Vec::new(),
        fields: message
            .fields()
            .map(|field| FieldView {
                name: field.name().to_owned(),
                r#type: match (field.is_map(), field.cardinality()) {
                    (true, _) => map_of(&field.kind()),
                    (false, Cardinality::Repeated) => format!("repeated {}", kind(&field.kind())),
                    (false, _) => kind(&field.kind()),
                },
                number: field.number(),
                about: comment(&file, field.path()),
            })
            .collect(),
    }
}

fn enum_view(names: &EnumDescriptor) -> TypeView {
    let file = names.parent_file();
    TypeView {
        name: names.name().to_owned(),
        about: comment(&file, names.path()),
        methods: Vec::new(),
        fields: names
            .values()
            .map(|value| FieldView {
                name: value.name().to_owned(),
                r#type: "value".to_owned(),
                number: u32::try_from(value.number()).unwrap_or(0),
                about: comment(&file, value.path()),
            })
            .collect(),
    }
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) if message.package_name() == PACKAGE => message.name().to_owned(),
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(names) => names.name().to_owned(),
        scalar => format!("{scalar:?}").to_ascii_lowercase(),
    }
}

fn map_of(entry: &Kind) -> String {
    match entry.as_message() {
        Some(entry) => format!(
            "map<{}, {}>",
            kind(&entry.map_entry_key_field().kind()),
            kind(&entry.map_entry_value_field().kind())
        ),
        None => "map".to_owned(),
    }
}

fn type_page(page: &mut Page, view: &TypeView, columns: Option<u16>) {
    for method in &view.methods {
        let stream = |is: bool| if is { "stream " } else { "" };
        page.header(format!(
            "{}  takes {}{}, returns {}{}",
            method.name,
            stream(method.client_streams),
            method.request,
            stream(method.server_streams),
            method.response
        ));
        page.line(&method.about);
        page.blank();
    }
    if view.methods.len() != 1 || view.fields.is_empty() {
        page.header(&view.name);
        page.line(&view.about);
    }
    if !view.fields.is_empty() {
        let mut table = Table::new(&["FIELD", "TYPE", "MEANING"]).fit(columns);
        for field in &view.fields {
            table.row([&field.name, &field.r#type, &field.about]);
        }
        page.table(&table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_found_however_it_is_written() {
        let pool = dynamic::pool().unwrap();
        for name in [
            "AgentService/GetStatus",
            "AgentService.GetStatus",
            "agentctl.v1.AgentService/GetStatus",
            "/agentctl.v1.AgentService/GetStatus",
        ] {
            assert_eq!(find_method(&pool, name).unwrap().name(), "GetStatus", "{name}");
        }
        assert_eq!(find_method(&pool, "AgentService/Nothing").unwrap_err().exit(), Exit::NotFound);
    }

    #[test]
    fn everything_the_api_has_can_be_described_and_says_what_it_is() {
        let pool = dynamic::pool().unwrap();
        for service in services(&pool) {
            for method in service.methods() {
                let view = method_view(&method);
                assert!(!view.about.is_empty(), "{}", view.name);
                for field in message_view(&method.input()).fields {
                    assert!(!field.about.is_empty(), "{} {}", view.name, field.name);
                }
            }
        }
        let signal = pool.get_message_by_name("agentctl.v1.Signal").unwrap();
        let conditions = message_view(&signal).fields.pop().map(|field| field.name);
        assert_eq!(conditions.as_deref(), Some("ttl"));
        let map = message_view(&signal).fields.into_iter().find(|f| f.name == "conditions");
        assert_eq!(map.unwrap().r#type, "map<string, bool>");
    }
}
