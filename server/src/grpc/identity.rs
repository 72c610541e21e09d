//! The identity service: what a token stands for.

use agentctl_api::v1;
use agentctl_api::v1::identity_service_server::IdentityService;
use tonic::{Request, Response, Status};

use super::{Services, outcome};
use crate::app::VERSION;
use crate::auth::matrix::{Access, MATRIX};

/// The service.
#[derive(Debug)]
pub struct Service(pub Services);

#[tonic::async_trait]
impl IdentityService for Service {
    async fn who_am_i(
        &self,
        request: Request<v1::WhoAmIRequest>,
    ) -> Result<Response<v1::WhoAmIResponse>, Status> {
        let principal = outcome::principal(request.extensions())?;
        let may = |access: &Access| match access {
            Access::Public => true,
            Access::AnyOf(roles) => roles.iter().any(|role| principal.has(*role)),
        };
        let methods = MATRIX.iter().filter(|(_, access)| may(access));
        Ok(Response::new(v1::WhoAmIResponse {
            principal: principal.name().to_owned(),
            roles: principal.roles().iter().map(|role| role.as_str().to_owned()).collect(),
            apps: principal.apps().into_iter().flatten().cloned().collect(),
            environment: self.0.env.as_str().to_owned(),
            version: VERSION.to_owned(),
            methods: methods.map(|(method, _)| (*method).to_owned()).collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use agentd_core::app::Env;

    use super::*;
    use crate::auth::Role;
    use crate::grpc::telemetry::harness::Server;

    async fn who(role: Role) -> v1::WhoAmIResponse {
        let server = Server::start(Env::Stage);
        let service = Service(server.services.clone());
        let asked = Server::ask(role, v1::WhoAmIRequest {});
        service.who_am_i(asked).await.unwrap().into_inner()
    }

    #[tokio::test]
    async fn a_caller_is_told_its_name_its_roles_and_what_it_may_call() {
        let viewer = who(Role::Viewer).await;
        assert_eq!((viewer.principal.as_str(), viewer.environment.as_str()), ("viewer", "stage"));
        assert_eq!(viewer.roles, ["viewer"]);
        let may = |who: &v1::WhoAmIResponse, method: &str| {
            who.methods.iter().any(|m| m == &format!("/agentctl.v1.{method}"))
        };
        assert!(may(&viewer, "AgentService/GetStatus") && !may(&viewer, "AgentService/Pause"));
        let approver = who(Role::Approver).await;
        assert!(may(&approver, "ApprovalService/ApproveAction"));
        assert!(may(&approver, "AgentService/Pause") && !may(&approver, "AgentService/Resume"));
        let monitor = who(Role::Monitor).await;
        assert!(may(&monitor, "TelemetryService/PushSignals"));
        assert!(!may(&monitor, "AgentService/GetStatus"));
    }
}
