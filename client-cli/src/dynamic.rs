//! Messages whose types are looked up while the program runs: proto3 JSON in and out, for any method of the API.

use agentctl_api::v1::FILE_DESCRIPTOR_SET;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions,
};
use serde::de::DeserializeSeed as _;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::failure::Failure;
use crate::text;

/// Package of the API.
pub const PACKAGE: &str = "agentctl.v1";

/// The descriptors this program was built with.
///
/// # Errors
/// They cannot be read, which a test rules out.
pub fn pool() -> Result<DescriptorPool, Failure> {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).map_err(|error| Failure::unprintable(&error))
}

/// A message from proto3 JSON: both `fieldName` and `field_name`, and nothing that is no field.
///
/// # Errors
/// It is not one: where and why.
pub fn from_json(message: &MessageDescriptor, json: &str) -> Result<DynamicMessage, Failure> {
    let mut all = all_from_json(message, json, 2)?;
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) => Ok(DynamicMessage::new(message.clone())),
        (Some(_), false) => {
            Err(Failure::usage(format!("{} takes one message, got several", message.full_name())))
        }
    }
}

/// Messages from proto3 JSON documents, one after the other; at most `limit`.
///
/// # Errors
/// One of them is none, or there are too many.
pub fn all_from_json(
    message: &MessageDescriptor,
    json: &str,
    limit: usize,
) -> Result<Vec<DynamicMessage>, Failure> {
    let wrong = |error: serde_json::Error| {
        let why = text::line(&error.to_string()).into_owned();
        Failure::usage(format!("not a {}: {why}", message.full_name()))
            .hint(format!("`agentctl api describe {}` shows its fields", message.name()))
    };
    let mut all = Vec::new();
    for document in serde_json::Deserializer::from_str(json).into_iter::<serde_json::Value>() {
        if all.len() == limit {
            return Err(Failure::usage(format!("more than {limit} messages")));
        }
        all.push(message.clone().deserialize(document.map_err(wrong)?).map_err(wrong)?);
    }
    Ok(all)
}

/// A message as proto3 JSON with the names of the `.proto` files, unset fields included.
///
/// # Errors
/// It holds what JSON cannot.
pub fn to_json(message: &DynamicMessage) -> Result<serde_json::Value, Failure> {
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| Failure::unprintable(&error))
}

/// Encodes requests and decodes the answers of one method.
#[derive(Debug, Clone)]
pub struct MethodCodec(pub MethodDescriptor);

impl Codec for MethodCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Coder;
    type Decoder = Coder;

    fn encoder(&mut self) -> Coder {
        Coder(self.0.input())
    }

    fn decoder(&mut self) -> Coder {
        Coder(self.0.output())
    }
}

/// Codes messages of one type.
#[derive(Debug, Clone)]
pub struct Coder(MessageDescriptor);

impl Encoder for Coder {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(to).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Coder {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        DynamicMessage::decode(self.0.clone(), from)
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use agentctl_api::v1;

    use super::*;

    fn message(name: &str) -> MessageDescriptor {
        pool().unwrap().get_message_by_name(&format!("{PACKAGE}.{name}")).unwrap()
    }

    #[test]
    fn json_becomes_the_message_the_generated_code_knows_and_back() {
        let json = r#"{"app": "web", "cpuUtilization": 0.9, "time": "2026-11-23T14:02:11Z",
                       "ttl": "30s", "conditions": {"cpu_high": true}, "restart_count": "3"}"#;
        let dynamic = from_json(&message("Signal"), json).unwrap();
        let signal: v1::Signal = dynamic.transcode_to().unwrap();
        assert_eq!((signal.app.as_str(), signal.cpu_utilization), ("web", Some(0.9)));
        assert_eq!((signal.restart_count, signal.ttl.unwrap().seconds), (Some(3), 30));
        let back = to_json(&dynamic).unwrap();
        assert_eq!(back["cpu_utilization"], 0.9);
        assert_eq!(back["time"], "2026-11-23T14:02:11Z");
    }

    #[test]
    fn what_is_no_field_is_an_error_that_names_it() {
        let failure = from_json(&message("Signal"), r#"{"ap": "web"}"#).unwrap_err();
        assert!(failure.to_string().contains("unrecognized field name 'ap'"), "{failure}");
        let failure = from_json(&message("Signal"), "{").unwrap_err();
        assert!(failure.to_string().starts_with("not a agentctl.v1.Signal"), "{failure}");
        assert!(from_json(&message("Signal"), "{} {}").is_err());
    }

    #[test]
    fn several_documents_are_several_messages_up_to_a_limit() {
        let all = all_from_json(&message("Signal"), "{\"app\":\"a\"}\n{\"app\":\"b\"}\n\n", 2);
        assert_eq!(all.unwrap().len(), 2);
        assert!(all_from_json(&message("Signal"), "{}{}{}", 2).is_err());
        assert_eq!(all_from_json(&message("Signal"), " \n ", 2).unwrap().len(), 0);
    }
}
