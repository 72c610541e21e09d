//! Real tonic services and generated clients through the whole edge.

use agentctl_api::v1::FILE_DESCRIPTOR_SET;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::*;

#[tokio::test]
async fn health_needs_no_token_and_reflection_shows_every_service_to_a_viewer() {
    let dir = tempfile::tempdir().expect("a directory");
    let table = TokenTable::load_or_generate(dir.path()).expect("tokens");
    let path = dir.path().join(tokens::FILE_NAME);
    let token = tokens::plain_token(&path, "viewer").expect("a token");
    let (_reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("valid descriptors");
    let routes = Routes::new(health).add_service(reflection).prepare();
    let listen = Listen::new(routes, Arc::new(Authorizer::new(table)));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let tasks = Tasks::new();
    let owned = tasks.clone();
    tasks.spawn("serve", OnFailure::Log, async move {
        listen.serve(vec![listener], &owned).await;
    });

    let channel = Channel::from_shared(format!("http://{address}"))
        .expect("an address")
        .connect()
        .await
        .expect("connected");
    let answer = HealthClient::new(channel.clone())
        .check(HealthCheckRequest { service: String::new() })
        .await
        .expect("public");
    assert_eq!(answer.into_inner().status(), ServingStatus::Serving);

    let ask = || {
        tonic::Request::new(tokio_stream::once(ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        }))
    };
    let mut client = ServerReflectionClient::new(channel);
    let refusal = client.server_reflection_info(ask()).await.expect_err("no token");
    assert_eq!(refusal.code(), Code::Unauthenticated);
    let mut request = ask();
    let bearer = format!("Bearer {token}").parse().expect("a value");
    request.metadata_mut().insert("authorization", bearer);
    let mut stream = client.server_reflection_info(request).await.expect("allowed").into_inner();
    let answer = stream.message().await.expect("an answer").expect("an answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("services expected: {answer:?}")
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["agentctl.v1.DecisionService", "agentctl.v1.AgentService", "grpc.health.v1.Health"]
    {
        assert!(names.iter().any(|n| n == name), "{name} missing in {names:?}");
    }
    tasks.stop();
}
