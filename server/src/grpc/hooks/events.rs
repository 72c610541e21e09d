//! CloudEvents 1.0 over HTTP: structured, batched and binary. An event of type [`TYPE`] carries a signal as its data, in the proto3
//! JSON form that `agentctl signal import` reads.

use agentctl_api::v1;
use chrono::DateTime;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor};
use serde::Deserialize;
use serde_json::Value;
use tonic::Status;

use super::{SIGNALS_MAX, unreadable};
use crate::grpc::status::{self, Violation};
use crate::grpc::to_proto;

/// The type of events that carry a signal.
pub const TYPE: &str = "dev.agentctl.signal.v1";
/// Longest attribute, in bytes.
const ATTRIBUTE_MAX: usize = 1_024;

/// An event that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Who sent it; with the id it names the event.
    pub source: String,
    /// Its id.
    pub id: String,
    /// What it carries.
    pub signal: v1::Signal,
}

/// An event in the JSON format. Extensions are not read.
#[derive(Debug, Deserialize)]
struct Envelope {
    specversion: Option<String>,
    id: Option<String>,
    source: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    subject: Option<String>,
    time: Option<String>,
    datacontenttype: Option<String>,
    data: Option<Value>,
    data_base64: Option<String>,
}

/// Reads one event whose body is the whole of it.
///
/// # Errors
/// Every rule it breaks.
pub fn structured(body: &[u8]) -> Result<Vec<Event>, Status> {
    let envelope: Envelope = parse(body)?;
    let mut violations = Vec::new();
    let event = envelope.event("", &mut violations);
    event.map(|event| vec![event]).ok_or_else(|| status::invalid(&violations))
}

/// Reads a batch of them.
///
/// # Errors
/// Every rule any of them breaks: a batch is taken whole or not at all.
pub fn batch(body: &[u8]) -> Result<Vec<Event>, Status> {
    let envelopes: Vec<Envelope> = parse(body)?;
    if envelopes.len() > SIGNALS_MAX {
        let rule = format!("must be at most {SIGNALS_MAX} events");
        return Err(status::invalid(&[Violation::new("body", envelopes.len().to_string(), rule)]));
    }
    let (mut events, mut violations) = (Vec::new(), Vec::new());
    for (at, envelope) in envelopes.into_iter().enumerate() {
        events.extend(envelope.event(&format!("[{at}]."), &mut violations));
    }
    if violations.is_empty() { Ok(events) } else { Err(status::invalid(&violations)) }
}

/// Reads an event whose attributes are headers, which `header` finds without their `ce-`.
///
/// # Errors
/// Every rule it breaks.
pub fn binary(header: impl Fn(&str) -> Option<String>, body: &[u8]) -> Result<Event, Status> {
    let envelope = Envelope {
        specversion: header("specversion"),
        id: header("id"),
        source: header("source"),
        kind: header("type"),
        subject: header("subject"),
        time: header("time"),
        datacontenttype: None,
        data: Some(parse(body)?),
        data_base64: None,
    };
    let mut violations = Vec::new();
    envelope.event("ce-", &mut violations).ok_or_else(|| status::invalid(&violations))
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(body).map_err(|error| unreadable("body", &error.to_string()))
}

impl Envelope {
    /// The event, or what is wrong with it, with fields named behind `prefix`.
    fn event(self, prefix: &str, violations: &mut Vec<Violation>) -> Option<Event> {
        let before = violations.len();
        let mut wrong = |field: &str, value: &str, rule: String| {
            violations.push(Violation::new(format!("{prefix}{field}"), value, rule));
        };
        let is = |found: &Option<String>, wanted: &str| found.as_deref() == Some(wanted);
        if !is(&self.specversion, "1.0") {
            let got = self.specversion.as_deref().unwrap_or_default();
            wrong("specversion", got, "must be `1.0`".to_owned());
        }
        if !is(&self.kind, TYPE) {
            wrong("type", self.kind.as_deref().unwrap_or_default(), format!("must be `{TYPE}`"));
        }
        let mut named = |field: &str, value: Option<String>| {
            let value = value.unwrap_or_default();
            if value.is_empty() || value.len() > ATTRIBUTE_MAX {
                wrong(field, &value, format!("must be 1 to {ATTRIBUTE_MAX} bytes"));
            }
            value
        };
        let (id, source) = (named("id", self.id), named("source", self.source));
        let json = self.datacontenttype.as_deref().is_none_or(|kind| kind.contains("json"));
        if !json {
            let got = self.datacontenttype.as_deref().unwrap_or_default();
            wrong("datacontenttype", got, "must be JSON, or absent".to_owned());
        }
        if self.data_base64.is_some() {
            wrong("data_base64", "", "must be absent: data is JSON".to_owned());
        }
        let signal = match self.data.as_ref().map(signal_of) {
            Some(Ok(signal)) => Some(signal),
            Some(Err(why)) => {
                wrong(
                    "data",
                    &why,
                    "must be a signal, as `agentctl api describe Signal` shows".to_owned(),
                );
                None
            }
            None => {
                wrong("data", "", "must be given".to_owned());
                None
            }
        };
        let time = self.time.map(|text| (DateTime::parse_from_rfc3339(&text), text));
        let time = match time {
            Some((Ok(time), _)) => u64::try_from(time.timestamp_millis()).ok(),
            Some((Err(_), text)) => {
                wrong("time", &text, "must be a time as RFC 3339 writes it".to_owned());
                None
            }
            None => None,
        };
        let mut signal = signal.filter(|_| violations.len() == before)?;
        // What the data leaves out, the event may say.
        if signal.app.is_empty() {
            signal.app = self.subject.unwrap_or_default();
        }
        signal.time = signal.time.or_else(|| time.map(to_proto::timestamp));
        Some(Event { source, id, signal })
    }
}

/// A signal in proto3 JSON. A field it does not have is an error, not ignored.
fn signal_of(data: &Value) -> Result<v1::Signal, String> {
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let read = DynamicMessage::deserialize_with_options(descriptor()?, data, &options);
    let dynamic = read.map_err(|error| error.to_string())?;
    dynamic.transcode_to().map_err(|error| error.to_string())
}

fn descriptor() -> Result<MessageDescriptor, String> {
    use std::sync::LazyLock;
    static SIGNAL: LazyLock<Option<MessageDescriptor>> = LazyLock::new(|| {
        let pool = DescriptorPool::decode(v1::FILE_DESCRIPTOR_SET).ok()?;
        pool.get_message_by_name("agentctl.v1.Signal")
    });
    SIGNAL.clone().ok_or_else(|| "this program does not know its own API".to_owned())
}
