//! `MetricsService` on the wire: an export is handed over as the bytes it came in.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::MetricsServiceServer;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::codegen::{BoxFuture, Service as Tower};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};

use super::{REQUEST_MAX, Service};
use crate::grpc::as_sent::AsSent;

/// Path of the one method that is served here.
const EXPORT: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

/// The service as it is routed.
#[derive(Debug, Clone)]
pub(in crate::grpc) struct Wire {
    service: Service,
    rest: MetricsServiceServer<Service>,
}

impl Wire {
    /// Serves `service`.
    #[must_use]
    pub(in crate::grpc) fn new(service: Service) -> Self {
        Self { rest: MetricsServiceServer::new(service.clone()), service }
    }
}

impl NamedService for Wire {
    const NAME: &'static str = <MetricsServiceServer<Service> as NamedService>::NAME;
}

impl Tower<http::Request<Body>> for Wire {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != EXPORT {
            return self.rest.call(request);
        }
        let export = Export(self.service.clone());
        Box::pin(async move {
            let grpc = Grpc::new(AsSent::<ExportMetricsServiceResponse>::default());
            let grpc = grpc.accept_compressed(CompressionEncoding::Gzip);
            let mut grpc = grpc.apply_max_message_size_config(Some(REQUEST_MAX), None);
            Ok(grpc.unary(export, request).await)
        })
    }
}

/// Export.
struct Export(Service);

impl UnaryService<Bytes> for Export {
    type Response = ExportMetricsServiceResponse;
    type Future = BoxFuture<Response<Self::Response>, Status>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { service.take(request).await })
    }
}
