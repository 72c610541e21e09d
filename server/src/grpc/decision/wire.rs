//! `DecisionService` on the wire. WatchDecisions hands over bytes that are ready, where the generated code would encode a message anew
//! for every watcher; everything else is the generated code's.

use std::convert::Infallible;
use std::task::{Context, Poll};

use agentctl_api::v1;
use agentctl_api::v1::decision_service_server::DecisionServiceServer;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use tonic::body::Body;
use tonic::codec::BufferSettings;
use tonic::codegen::{BoxFuture, Service as Tower};
use tonic::metadata::{GRPC_CONTENT_TYPE, MetadataMap, MetadataValue};
use tonic::server::NamedService;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstDecoder;

use super::{Service, watch};
use crate::grpc::{REQUEST_MAX, Services};

/// Path of the one method that is served here.
const WATCH: &str = "/agentctl.v1.DecisionService/WatchDecisions";
/// Buffer for the request to begin with: most ask in a few bytes.
const BUFFER: usize = 512;
const ENCODING: &str = "grpc-encoding";
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";
const IDENTITY: &str = "identity";

/// The service as it is routed.
#[derive(Debug, Clone)]
pub(in crate::grpc) struct Wire {
    service: Service,
    rest: DecisionServiceServer<Service>,
}

impl Wire {
    /// Serves `service`.
    #[must_use]
    pub(in crate::grpc) fn new(service: Service) -> Self {
        let rest = DecisionServiceServer::new(service.clone());
        Self { service, rest: rest.max_decoding_message_size(REQUEST_MAX) }
    }
}

impl NamedService for Wire {
    const NAME: &'static str = <DecisionServiceServer<Service> as NamedService>::NAME;
}

impl Tower<http::Request<Body>> for Wire {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != WATCH {
            return self.rest.call(request);
        }
        let Service(services) = self.service.clone();
        Box::pin(async move {
            Ok(watch(&services, request).await.unwrap_or_else(|status| status.into_http()))
        })
    }
}

/// WatchDecisions. What its answer is made of is framed where it is put together, so that nothing is left to encode.
async fn watch(
    services: &Services,
    request: http::Request<Body>,
) -> Result<http::Response<Body>, Status> {
    let (parts, body) = request.into_parts();
    let message = only_message(&parts.headers, body).await?;
    let metadata = MetadataMap::from_headers(parts.headers);
    let request = Request::from_parts(metadata, parts.extensions, message);
    let mut answer = http::Response::new(Body::new(watch::watch(services, request).await?));
    answer.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    Ok(answer)
}

/// The one message of the request, as the generated code reads it.
async fn only_message(
    headers: &HeaderMap,
    body: Body,
) -> Result<v1::WatchDecisionsRequest, Status> {
    if let Some(encoding) = headers.get(ENCODING).filter(|encoding| *encoding != IDENTITY) {
        let encoding = encoding.to_str().unwrap_or_default();
        let mut status =
            Status::unimplemented(format!("`{encoding}` is not understood here: send it plain"));
        status.metadata_mut().insert(ACCEPT_ENCODING, MetadataValue::from_static(IDENTITY));
        return Err(status);
    }
    let decoder = ProstDecoder::new(BufferSettings::new(BUFFER, BUFFER));
    let mut messages = Streaming::new_request(decoder, body, None, Some(REQUEST_MAX));
    messages.message().await?.ok_or_else(|| Status::internal("Missing request message."))
}
