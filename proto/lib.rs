//! The API of agentd: messages and services generated from `proto/agentctl/v1`, and what a client needs around them.

pub mod client;
pub mod text;

/// Messages, clients and server traits of the package `agentctl.v1`.
#[expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::enum_variant_names,
    clippy::too_many_lines,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("agentctl.v1");

    /// The compiled `.proto` files with their comments, for server reflection and for tests that walk the API.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        tonic::include_file_descriptor_set!("agentctl_v1_descriptor");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message as _;
    use prost_types::{DescriptorProto, FileDescriptorSet};

    use crate::v1::FILE_DESCRIPTOR_SET;

    fn descriptors() -> (FileDescriptorSet, BTreeMap<String, DescriptorProto>) {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("decodes");
        let mut messages = BTreeMap::new();
        for file in &set.file {
            for message in &file.message_type {
                let name = format!(".{}.{}", file.package(), message.name());
                messages.insert(name, message.clone());
            }
        }
        (set, messages)
    }

    fn has(message: &DescriptorProto, field: &str) -> bool {
        message.field.iter().any(|f| f.name() == field)
    }

    #[test]
    fn lists_have_pages_and_commands_can_be_repeated_safely() {
        let (set, messages) = descriptors();
        let (mut lists, mut commands) = (0, 0);
        for file in set.file.iter().filter(|file| file.package() == "agentctl.v1") {
            for method in file.service.iter().flat_map(|service| &service.method) {
                let (name, request) = (method.name(), &messages[method.input_type()]);
                let response = &messages[method.output_type()];
                if ["ListApps", "ListDecisions", "ListApprovals", "ListProofEntries"]
                    .contains(&name)
                {
                    lists += 1;
                    for field in ["page_size", "page_token", "filter"] {
                        assert!(has(request, field), "{name} lacks {field}");
                    }
                    assert!(has(response, "next_page_token"), "{name}");
                }
                const READS: [&str; 11] = [
                    "Get", "List", "Watch", "Explain", "Verify", "Export", "Push", "Stream",
                    "Validate", "Simulate", "Who",
                ];
                let reads = READS.iter().any(|verb| name.starts_with(verb));
                if !reads {
                    commands += 1;
                    assert!(has(request, "request_id"), "{name} lacks request_id");
                }
            }
        }
        assert_eq!((lists, commands), (4, 17));
    }

    #[test]
    fn the_descriptor_set_carries_the_comments() {
        let (set, _) = descriptors();
        for file in set.file.iter().filter(|file| file.package() == "agentctl.v1") {
            let info = file.source_code_info.as_ref().expect("comments");
            // Of a message, its fields, a service and its methods, by the paths of descriptor.proto.
            let named = |path: &[i32]| matches!(path, [4 | 6, _] | [4 | 6, _, 2, _]);
            for location in info.location.iter().filter(|l| named(&l.path)) {
                let said = location.leading_comments.is_some();
                assert!(said, "{} has no comment at {:?}", file.name(), location.span);
            }
        }
    }
}
