//! `DecisionService` on the wire. WatchDecisions hands over bytes that are ready, where the generated code would encode a message anew
//! for every watcher; everything else is the generated code's.

use std::convert::Infallible;
use std::task::{Context, Poll};

use agentctl_api::v1;
use agentctl_api::v1::decision_service_server::DecisionServiceServer;
use bytes::{BufMut as _, Bytes};
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service as Tower};
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstDecoder;

use super::{Service, watch};
use crate::grpc::REQUEST_MAX;
use crate::grpc::feed::Outlet;

/// Path of the one method that is served here.
const WATCH: &str = "/agentctl.v1.DecisionService/WatchDecisions";
/// Buffer of a watch to begin with: most of them are idle most of the time, and there are many.
const BUFFER: usize = 512;
/// What is ready is sent together up to about here.
const TOGETHER: usize = 32 << 10;

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
        let watch = Watch(self.service.clone());
        Box::pin(async move {
            let mut grpc = Grpc::new(Ready).apply_max_message_size_config(Some(REQUEST_MAX), None);
            Ok(grpc.server_streaming(watch, request).await)
        })
    }
}

/// WatchDecisions.
struct Watch(Service);

impl ServerStreamingService<v1::WatchDecisionsRequest> for Watch {
    type Response = Bytes;
    type ResponseStream = Outlet<Bytes>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<v1::WatchDecisionsRequest>) -> Self::Future {
        let Service(services) = self.0.clone();
        Box::pin(async move { watch::watch(&services, request).await.map(Response::new) })
    }
}

/// Answers that are encoded already.
#[derive(Debug, Clone, Copy, Default)]
struct Ready;

impl Codec for Ready {
    type Encode = Bytes;
    type Decode = v1::WatchDecisionsRequest;
    type Encoder = Self;
    type Decoder = ProstDecoder<v1::WatchDecisionsRequest>;

    fn encoder(&mut self) -> Self::Encoder {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER, TOGETHER))
    }
}

impl Encoder for Ready {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, TOGETHER)
    }
}
