//! The bus service: how the bus does, now or again and again.

use std::pin::Pin;

use agentctl_api::v1;
use agentctl_api::v1::bus_service_server::BusService;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::pace::{self, Looks};
use super::{Services, status, to_proto};
use crate::tasks::OnFailure;

/// The service.
#[derive(Debug)]
pub struct Service(pub Services);

#[tonic::async_trait]
impl BusService for Service {
    type WatchBusStream = Pin<Box<dyn Stream<Item = Result<v1::WatchBusResponse, Status>> + Send>>;

    async fn get_bus_stats(
        &self,
        _request: Request<v1::GetBusStatsRequest>,
    ) -> Result<Response<v1::GetBusStatsResponse>, Status> {
        let stats = Some(stats(&self.0)?);
        Ok(Response::new(v1::GetBusStatsResponse { stats }))
    }

    async fn watch_bus(
        &self,
        request: Request<v1::WatchBusRequest>,
    ) -> Result<Response<Self::WatchBusStream>, Status> {
        let interval = pace::interval(request.into_inner().interval.as_ref())?;
        let (items, stream) = mpsc::channel(1);
        let services = self.0.clone();
        self.0.tasks.spawn("watch-bus", OnFailure::Log, async move {
            let (name, services, items) = ("bus", &services, &items);
            watch(&Looks { name, services, interval, items }).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

fn stats(services: &Services) -> Result<v1::BusStats, Status> {
    let Some(monitor) = &services.bus else { return Err(status::not_found("bus", "")) };
    let stats = monitor.stats();
    Ok(v1::BusStats {
        backend: stats.backend.to_owned(),
        place: stats.place,
        connected: stats.connected,
        published: stats.published,
        dropped: stats.dropped,
        lag: stats.lag,
        failures: stats.failures,
        last_error: stats.last_error.unwrap_or_default(),
        last_published_time: stats.last_published.map(to_proto::timestamp),
        held: stats.depth.map(|depth| depth.held),
        evicted: stats.depth.map(|depth| depth.evicted),
        time: Some(to_proto::timestamp(services.clock.now_ms())),
    })
}

async fn watch(looks: &Looks<'_, v1::WatchBusResponse>) {
    loop {
        let look = stats(looks.services).map(|stats| v1::WatchBusResponse { stats: Some(stats) });
        if !looks.show(look).await || !looks.wait().await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use agentd_core::app::Env;
    use tokio_stream::StreamExt as _;
    use tonic::Code;

    use super::*;
    use crate::auth::Role;
    use crate::grpc::telemetry::harness::Server;

    /// A server whose records go to the ring in its own process.
    fn with_bus() -> (Server, crate::bus::Running) {
        let mut server = Server::start(Env::Dev);
        let s = &server.services;
        let bus = crate::bus::start(None, Env::Dev, &s.publisher, &s.clock, &s.tasks);
        server.services.bus = Some(bus.monitor());
        (server, bus)
    }

    #[tokio::test]
    async fn the_stats_follow_what_is_recorded() {
        let (server, _bus) = with_bus();
        let service = Service(server.services.clone());
        let watch = v1::WatchBusRequest {
            interval: Some(prost_types::Duration { seconds: 0, nanos: 250_000_000 }),
        };
        let asked = Server::ask(Role::Viewer, watch);
        let mut stream = service.watch_bus(asked).await.unwrap().into_inner();
        let first = stream.next().await.unwrap().unwrap().stats.unwrap();
        assert_eq!((first.backend.as_str(), first.place.as_str()), ("memory", ""));
        server.onboard("web").await;
        loop {
            let stats = stream.next().await.unwrap().unwrap().stats.unwrap();
            if stats.published >= 3 && stats.lag == 0 {
                assert!(stats.connected && stats.held.is_some());
                assert!(stats.last_published_time.is_some() && stats.last_error.is_empty());
                break;
            }
        }
        server.services.tasks.stop();
        let last = loop {
            match stream.next().await.unwrap() {
                Ok(_) => {}
                Err(status) => break status,
            }
        };
        assert_eq!(last.code(), Code::Unavailable, "a drain ends the stream");
    }

    #[tokio::test]
    async fn an_interval_outside_the_limits_is_refused_and_named() {
        let (server, _bus) = with_bus();
        let watch = v1::WatchBusRequest {
            interval: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
        };
        let asked = Server::ask(Role::Viewer, watch);
        let refused = Service(server.services.clone()).watch_bus(asked).await;
        let Err(status) = refused else { panic!("accepted") };
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "`interval` must be 250 ms to 60 s, or absent, got `1 ms`");
    }
}
