//! The role matrix against the descriptor set, cell by cell, and the answers to bad tokens.

use std::collections::BTreeMap;

use prost::Message as _;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;

/// Which of viewer, monitor, operator, approver, admin may call: an independent copy of the matrix. `*`: everybody.
const EXPECTED: &[(&str, &str)] = &[
    ("agentctl.v1.OnboardingService/OnboardApp", "--o-A"),
    ("agentctl.v1.OnboardingService/GetApp", "v-oaA"),
    ("agentctl.v1.OnboardingService/ListApps", "v-oaA"),
    ("agentctl.v1.OnboardingService/UpdateApp", "--o-A"),
    ("agentctl.v1.OnboardingService/OffboardApp", "--o-A"),
    ("agentctl.v1.OnboardingService/GetAppUptime", "v-oaA"),
    ("agentctl.v1.OnboardingService/ListAppHistory", "v-oaA"),
    ("agentctl.v1.OnboardingService/GetAppGraduation", "v-oaA"),
    ("agentctl.v1.PolicyService/ValidatePolicy", "v-oaA"),
    ("agentctl.v1.PolicyService/ApplyPolicy", "----A"),
    ("agentctl.v1.PolicyService/SimulatePolicy", "v-oaA"),
    ("agentctl.v1.LearningService/GetLearning", "v-oaA"),
    ("agentctl.v1.LearningService/ImportLearning", "----A"),
    ("agentctl.v1.LearningService/PromoteLearning", "--o-A"),
    ("agentctl.v1.LearningService/ResetLearning", "----A"),
    ("agentctl.v1.TelemetryService/PushSignals", "-m--A"),
    ("agentctl.v1.TelemetryService/StreamSignals", "-m--A"),
    ("agentctl.v1.TelemetryService/WatchSignals", "v-oaA"),
    ("opentelemetry.proto.collector.metrics.v1.MetricsService/Export", "-m--A"),
    ("agentctl.v1.BusService/GetBusStats", "v-oaA"),
    ("agentctl.v1.BusService/WatchBus", "v-oaA"),
    ("agentctl.v1.IdentityService/WhoAmI", "vmoaA"),
    ("agentctl.v1.DecisionService/WatchDecisions", "v-oaA"),
    ("agentctl.v1.DecisionService/GetDecision", "v-oaA"),
    ("agentctl.v1.DecisionService/ListDecisions", "v-oaA"),
    ("agentctl.v1.DecisionService/ExplainDecision", "v-oaA"),
    ("agentctl.v1.DecisionService/ProposeAction", "--o-A"),
    ("agentctl.v1.ApprovalService/ListApprovals", "v-oaA"),
    ("agentctl.v1.ApprovalService/GetApproval", "v-oaA"),
    ("agentctl.v1.ApprovalService/ApproveAction", "---a-"),
    ("agentctl.v1.ApprovalService/RejectAction", "---a-"),
    ("agentctl.v1.ProofService/ListProofEntries", "v-oaA"),
    ("agentctl.v1.ProofService/WatchProofEntries", "v-oaA"),
    ("agentctl.v1.ProofService/VerifyProof", "v-oaA"),
    ("agentctl.v1.ProofService/ExportProof", "v-oaA"),
    ("agentctl.v1.ProofService/GetProofEntry", "v-oaA"),
    ("agentctl.v1.ProofService/GetCheckpoint", "v-oaA"),
    ("agentctl.v1.ProofService/GetInclusionProof", "v-oaA"),
    ("agentctl.v1.ProofService/GetConsistencyProof", "v-oaA"),
    ("agentctl.v1.ProofService/GetProofStatus", "v-oaA"),
    ("agentctl.v1.ProofService/RecordExport", "--o-A"),
    ("agentctl.v1.ProofService/PruneProof", "----A"),
    ("agentctl.v1.AgentService/GetStatus", "v-oaA"),
    ("agentctl.v1.AgentService/WatchStatus", "v-oaA"),
    ("agentctl.v1.AgentService/Pause", "--oaA"),
    ("agentctl.v1.AgentService/Resume", "--o-A"),
    ("agentctl.v1.AgentService/Freeze", "--oaA"),
    ("agentctl.v1.AgentService/Unfreeze", "--o-A"),
    ("agentctl.v1.AgentService/ListGates", "v-oaA"),
    ("agentctl.v1.AgentService/GetPolicy", "v-oaA"),
    ("agentctl.v1.ScenarioService/ListScenarios", "v-oaA"),
    ("agentctl.v1.ScenarioService/RunScenario", "--o-A"),
    ("grpc.health.v1.Health/Check", "*"),
    ("grpc.health.v1.Health/Watch", "v-oaA"),
    ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "v-oaA"),
    ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "v-oaA"),
];

fn token_of(role: Role) -> String {
    format!("agt_{}_{}", role.as_str(), "0".repeat(40))
}

fn authorizer() -> (tempfile::TempDir, Authorizer) {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("tokens.toml");
    let text: String = Role::ALL
        .iter()
        .map(|role| {
            let name = role.as_str();
            let token = token_of(*role);
            format!("[[principal]]\nname = \"{name}\"\nroles = [\"{name}\"]\ntoken = \"{token}\"\n")
        })
        .collect();
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode set");
    let table = TokenTable::load(&path).expect("loaded");
    (dir, Authorizer::new(table))
}

fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().expect("a header"));
    headers
}

fn methods_of(descriptor_set: &[u8]) -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(descriptor_set).expect("decodes");
    let mut methods = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let (service, method) = (service.name(), method.name());
                methods.push(format!("{}.{service}/{method}", file.package()));
            }
        }
    }
    methods
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().expect("an ErrorInfo").reason
}

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

#[test]
fn the_matrix_names_exactly_the_methods_that_exist() {
    let otlp = "opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
    let mut exist: Vec<String> = [
        agentctl_api::v1::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ]
    .into_iter()
    .flat_map(methods_of)
    // The crate of OpenTelemetry's messages carries no descriptors; its one service that is served has one method.
    .chain([otlp.to_owned()])
    .map(|method| format!("/{method}"))
    .collect();
    let mut named: Vec<String> =
        matrix::MATRIX.iter().map(|(method, _)| (*method).to_owned()).collect();
    exist.sort();
    named.sort();
    assert_eq!(named, exist, "left: in the matrix, right: in the descriptor sets");
    let mut unique = named.clone();
    unique.dedup();
    assert_eq!(unique, named, "no method is there twice");
}

#[test]
fn every_role_and_method_is_as_expected() {
    let (_dir, authorizer) = authorizer();
    let expected: BTreeMap<_, _> = EXPECTED.iter().copied().collect();
    assert_eq!(expected.len(), matrix::MATRIX.len());
    let mut cells = 0;
    for (path, _) in matrix::MATRIX {
        let allowed = expected[path.trim_start_matches('/')];
        let anonymous = authorizer.admit(path, &HeaderMap::new(), PEER, Instant::now());
        if allowed == "*" {
            assert_eq!(anonymous.expect("public"), None);
            continue;
        }
        let refusal = anonymous.expect_err("needs a token");
        assert_eq!((refusal.code(), &*reason(&refusal)), (Code::Unauthenticated, "TOKEN_MISSING"));
        for (role, cell) in Role::ALL.into_iter().zip(allowed.chars()) {
            cells += 1;
            let answer = authorizer.admit(path, &bearer(&token_of(role)), PEER, Instant::now());
            if cell == '-' {
                let refusal = answer.expect_err("denied");
                assert_eq!(refusal.code(), Code::PermissionDenied, "{role:?} {path}");
                let info = refusal.get_details_error_info().expect("an ErrorInfo");
                assert_eq!(info.reason, "ROLE_REQUIRED");
                assert_eq!(info.metadata["have"], role.as_str());
                assert!(!info.metadata["need"].is_empty());
            } else {
                let principal = answer.expect("allowed").expect("somebody");
                assert_eq!(principal.name(), role.as_str(), "{path}");
            }
        }
    }
    assert_eq!(cells, (matrix::MATRIX.len() - 1) * 5);
}

#[test]
fn what_is_not_in_the_matrix_cannot_be_called_by_anybody() {
    let (_dir, authorizer) = authorizer();
    for path in [
        "/agentctl.v1.AgentService/Shutdown",
        "/agentctl.v1.AgentService/pause",
        "/agentctl.v1.AgentService/Pause/",
        "/agentctl.v1.AgentService//Pause",
        "/%61gentctl.v1.AgentService/Pause",
        "/",
        "",
    ] {
        for role in Role::ALL {
            let headers = bearer(&token_of(role));
            let refusal = authorizer.admit(path, &headers, PEER, Instant::now());
            assert_eq!(refusal.expect_err("unknown").code(), Code::Unimplemented, "{path}");
        }
    }
}

#[test]
fn every_malformed_token_gets_the_same_answer() {
    let (_dir, authorizer) = authorizer();
    let valid = token_of(Role::Admin);
    let path = "/agentctl.v1.AgentService/GetStatus";
    let mut seen = Vec::new();
    for value in [
        valid.clone(),
        format!("Basic {valid}"),
        format!("Bearer  {valid}"),
        format!("Bearer {valid} "),
        format!("Bearer {}", valid.to_uppercase()),
        "Bearer ".to_owned(),
        "Bearer".to_owned(),
        String::new(),
        format!("Bearer {}", "x".repeat(5000)),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().expect("a header"));
        let refusal = authorizer.admit(path, &headers, PEER, Instant::now()).expect_err("invalid");
        assert_eq!((refusal.code(), &*reason(&refusal)), (Code::Unauthenticated, "TOKEN_INVALID"));
        seen.push(refusal.message().to_owned());
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "the text gives nothing away");

    let mut two = bearer(&valid);
    two.append(AUTHORIZATION, format!("Bearer {valid}").parse().expect("a header"));
    assert!(
        authorizer.admit(path, &two, PEER, Instant::now()).is_err(),
        "two tokens are ambiguous"
    );
    let mut lower = HeaderMap::new();
    lower.insert(AUTHORIZATION, format!("bearer {valid}").parse().expect("a header"));
    assert!(authorizer.admit(path, &lower, PEER, Instant::now()).is_ok(), "schemes have no case");
}

#[test]
fn an_address_that_guesses_is_slowed_down_and_cannot_lock_others_out() {
    let (_dir, authorizer) = authorizer();
    let path = "/agentctl.v1.AgentService/Pause";
    let now = Instant::now();
    for _ in 0..10 {
        let refusal = authorizer.admit(path, &bearer("guess"), PEER, now).expect_err("invalid");
        assert_eq!(refusal.code(), Code::Unauthenticated);
    }
    let refusal = authorizer.admit(path, &bearer("guess"), PEER, now).expect_err("too many");
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert!(refusal.get_details_retry_info().and_then(|r| r.retry_delay).is_some());
    let operator = bearer(&token_of(Role::Operator));
    assert!(authorizer.admit(path, &operator, PEER, now).is_ok(), "pause must stay possible");
    assert_eq!(authorizer.rejected_tokens(), 11);
}

#[test]
fn a_read_only_call_changes_nothing_whatever_the_roles_of_its_caller() {
    let (_dir, authorizer) = authorizer();
    let mut refused = 0;
    for path in methods_of(agentctl_api::v1::FILE_DESCRIPTOR_SET) {
        let path = format!("/{path}");
        let viewer = matrix::access(&path).is_some_and(|access| !access.mutates());
        for role in Role::ALL {
            let mut headers = bearer(&token_of(role));
            let free = authorizer.admit(&path, &headers, PEER, Instant::now());
            // No spelling of the value takes it back.
            for value in ["true", "false", "0", ""] {
                headers.insert(READ_ONLY, value.parse().expect("a header"));
                let bound = authorizer.admit(&path, &headers, PEER, Instant::now());
                if viewer {
                    assert_eq!(bound.is_ok(), free.is_ok(), "{path} by {role:?}");
                    continue;
                }
                let status = bound.expect_err(&path);
                assert_eq!(status.code(), Code::PermissionDenied, "{path} by {role:?}");
                assert_eq!(reason(&status), "READ_ONLY");
                refused += 1;
            }
        }
    }
    assert!(refused >= 200, "only {refused}");
    for changes in ["ApproveAction", "Pause", "ApplyPolicy", "OffboardApp", "PushSignals"] {
        let method = matrix::MATRIX.iter().find(|(path, _)| path.ends_with(changes));
        assert!(method.is_some_and(|(_, access)| access.mutates()), "{changes}");
    }
}

#[test]
fn without_a_token_a_read_only_call_is_told_about_the_token() {
    let (_dir, authorizer) = authorizer();
    let mut headers = HeaderMap::new();
    headers.insert(READ_ONLY, "true".parse().expect("a header"));
    let path = "/agentctl.v1.AgentService/Pause";
    let status = authorizer.admit(path, &headers, PEER, Instant::now()).expect_err("no token");
    assert_eq!(reason(&status), "TOKEN_MISSING");
}
