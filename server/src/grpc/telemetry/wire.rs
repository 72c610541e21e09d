//! `TelemetryService` on the wire. What monitors send is handed over as the bytes it came in, because most of it can be read where it
//! lies; everything else is the generated code's.

use std::convert::Infallible;
use std::task::{Context, Poll};

use agentctl_api::v1;
use agentctl_api::v1::telemetry_service_server::TelemetryServiceServer;
use bytes::Bytes;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service as Tower};
use tonic::server::{ClientStreamingService, Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use super::Service;
use crate::grpc::SIGNALS_MAX;
use crate::grpc::as_sent::AsSent;

/// Paths of the methods that are served here.
const PUSH: &str = "/agentctl.v1.TelemetryService/PushSignals";
const STREAM: &str = "/agentctl.v1.TelemetryService/StreamSignals";

/// The service as it is routed.
#[derive(Debug, Clone)]
pub(in crate::grpc) struct Wire {
    service: Service,
    rest: TelemetryServiceServer<Service>,
}

impl Wire {
    /// Serves `service`.
    #[must_use]
    pub(in crate::grpc) fn new(service: Service) -> Self {
        let rest = TelemetryServiceServer::new(service.clone());
        Self { service, rest: rest.max_decoding_message_size(SIGNALS_MAX) }
    }
}

impl NamedService for Wire {
    const NAME: &'static str = <TelemetryServiceServer<Service> as NamedService>::NAME;
}

impl Tower<http::Request<Body>> for Wire {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.service.clone();
        match request.uri().path() {
            PUSH => Box::pin(async move {
                let grpc = Grpc::new(AsSent::<v1::PushSignalsResponse>::default());
                let mut grpc = grpc.apply_max_message_size_config(Some(SIGNALS_MAX), None);
                Ok(grpc.client_streaming(Push(service), request).await)
            }),
            STREAM => Box::pin(async move {
                let grpc = Grpc::new(AsSent::<v1::StreamSignalsResponse>::default());
                let mut grpc = grpc.apply_max_message_size_config(Some(SIGNALS_MAX), None);
                Ok(grpc.streaming(Stay(service), request).await)
            }),
            _ => self.rest.call(request),
        }
    }
}

/// PushSignals.
struct Push(Service);

impl ClientStreamingService<Bytes> for Push {
    type Response = v1::PushSignalsResponse;
    type Future = BoxFuture<Response<Self::Response>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { service.push(request).await })
    }
}

/// StreamSignals.
struct Stay(Service);

impl StreamingService<Bytes> for Stay {
    type Response = v1::StreamSignalsResponse;
    type ResponseStream = super::Answers;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let answered = self.0.stay(request);
        Box::pin(std::future::ready(answered))
    }
}
