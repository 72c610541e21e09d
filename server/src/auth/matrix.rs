//! The table of methods and the roles that may call them. What is not in the table cannot be called.

use super::Role::{self, Admin, Approver, Monitor, Operator, Viewer};

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody, without a token: liveness probes have none.
    Public,
    /// Whoever has at least one of these roles.
    AnyOf(&'static [Role]),
}

const READ: Access = Access::AnyOf(&[Viewer, Operator, Approver, Admin]);
const REPORT: Access = Access::AnyOf(&[Monitor, Admin]);
const OPERATE: Access = Access::AnyOf(&[Operator, Admin]);
/// Whoever has a token may ask what it stands for.
const ANYBODY: Access = Access::AnyOf(&Role::ALL);
/// Stopping is always the safe direction: whoever is trusted to say yes may also say stop.
const STOP: Access = Access::AnyOf(&[Operator, Approver, Admin]);
const APPROVE: Access = Access::AnyOf(&[Approver]);
/// The rules everything else is judged by.
const RULE: Access = Access::AnyOf(&[Admin]);

/// Every method of every service on the port, by its path.
pub const MATRIX: &[(&str, Access)] = &[
    ("/agentctl.v1.OnboardingService/OnboardApp", OPERATE),
    ("/agentctl.v1.OnboardingService/GetApp", READ),
    ("/agentctl.v1.OnboardingService/ListApps", READ),
    ("/agentctl.v1.OnboardingService/UpdateApp", OPERATE),
    ("/agentctl.v1.OnboardingService/OffboardApp", OPERATE),
    ("/agentctl.v1.OnboardingService/GetAppUptime", READ),
    ("/agentctl.v1.OnboardingService/ListAppHistory", READ),
    ("/agentctl.v1.OnboardingService/GetAppGraduation", READ),
    ("/agentctl.v1.PolicyService/ValidatePolicy", READ),
    ("/agentctl.v1.PolicyService/ApplyPolicy", RULE),
    ("/agentctl.v1.PolicyService/SimulatePolicy", READ),
    ("/agentctl.v1.LearningService/GetLearning", READ),
    ("/agentctl.v1.LearningService/ImportLearning", RULE),
    ("/agentctl.v1.LearningService/PromoteLearning", OPERATE),
    ("/agentctl.v1.LearningService/ResetLearning", RULE),
    ("/agentctl.v1.TelemetryService/PushSignals", REPORT),
    ("/agentctl.v1.TelemetryService/StreamSignals", REPORT),
    ("/agentctl.v1.TelemetryService/WatchSignals", READ),
    ("/agentctl.v1.BusService/GetBusStats", READ),
    ("/agentctl.v1.BusService/WatchBus", READ),
    ("/agentctl.v1.IdentityService/WhoAmI", ANYBODY),
    ("/agentctl.v1.DecisionService/WatchDecisions", READ),
    ("/agentctl.v1.DecisionService/GetDecision", READ),
    ("/agentctl.v1.DecisionService/ListDecisions", READ),
    ("/agentctl.v1.DecisionService/ExplainDecision", READ),
    ("/agentctl.v1.DecisionService/ProposeAction", OPERATE),
    ("/agentctl.v1.ApprovalService/ListApprovals", READ),
    ("/agentctl.v1.ApprovalService/GetApproval", READ),
    ("/agentctl.v1.ApprovalService/ApproveAction", APPROVE),
    ("/agentctl.v1.ApprovalService/RejectAction", APPROVE),
    ("/agentctl.v1.ProofService/ListProofEntries", READ),
    ("/agentctl.v1.ProofService/WatchProofEntries", READ),
    ("/agentctl.v1.ProofService/VerifyProof", READ),
    ("/agentctl.v1.ProofService/ExportProof", READ),
    ("/agentctl.v1.ProofService/GetProofEntry", READ),
    ("/agentctl.v1.ProofService/GetCheckpoint", READ),
    ("/agentctl.v1.ProofService/GetInclusionProof", READ),
    ("/agentctl.v1.ProofService/GetConsistencyProof", READ),
    ("/agentctl.v1.ProofService/GetProofStatus", READ),
    ("/agentctl.v1.ProofService/RecordExport", OPERATE),
    ("/agentctl.v1.ProofService/PruneProof", RULE),
    ("/agentctl.v1.AgentService/GetStatus", READ),
    ("/agentctl.v1.AgentService/WatchStatus", READ),
    ("/agentctl.v1.AgentService/Pause", STOP),
    ("/agentctl.v1.AgentService/Resume", OPERATE),
    ("/agentctl.v1.AgentService/Freeze", STOP),
    ("/agentctl.v1.AgentService/Unfreeze", OPERATE),
    ("/agentctl.v1.AgentService/ListGates", READ),
    ("/agentctl.v1.AgentService/GetPolicy", READ),
    ("/agentctl.v1.ScenarioService/ListScenarios", READ),
    ("/agentctl.v1.ScenarioService/RunScenario", OPERATE),
    ("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export", REPORT),
    ("/grpc.health.v1.Health/Check", Access::Public),
    ("/grpc.health.v1.Health/Watch", READ),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", READ),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", READ),
];

/// Every page beside gRPC, by its path; one that ends with a slash stands for all below it.
pub const PAGES: &[(&str, Access)] = &[
    ("/checkpoint", READ),
    ("/healthz", Access::Public),
    ("/metrics", READ),
    ("/readyz", Access::Public),
    ("/tile/", READ),
];

/// Every door for signals beside gRPC.
pub const HOOKS: &[(&str, Access)] =
    &[("/v1/alertmanager", REPORT), ("/v1/cloudevents", REPORT), ("/v1/metrics", REPORT)];

/// Who may bring signals to the door at `path`; `None`: there is none.
#[must_use]
pub fn hook(path: &str) -> Option<Access> {
    HOOKS.iter().find(|(hook, _)| *hook == path).map(|(_, access)| *access)
}

/// Who may read the page at `path`; `None`: there is none.
#[must_use]
pub fn page(path: &str) -> Option<Access> {
    let is_it = |page: &str| page == path || (page.ends_with('/') && path.starts_with(page));
    PAGES.iter().find(|(page, _)| is_it(page)).map(|(_, access)| *access)
}

impl Access {
    /// Whether the method may change something. One that a viewer may call does not, and no other is trusted not to.
    #[must_use]
    pub fn mutates(self) -> bool {
        match self {
            Self::Public => false,
            Self::AnyOf(roles) => !roles.contains(&Viewer),
        }
    }
}

/// Who may call the method at `path`; `None`: nobody.
#[must_use]
pub fn access(path: &str) -> Option<Access> {
    MATRIX.iter().find(|(method, _)| *method == path).map(|(_, access)| *access)
}
