//! Traces to an OpenTelemetry collector: OTLP over gRPC, in batches, beside the loop. A collector that is away costs nothing but
//! its traces.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracerProvider, Tracer};

/// Time for one batch.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Time for what is left when the server stops.
const FLUSH: Duration = Duration::from_secs(2);
/// Who the traces are of.
const SERVICE: &str = "agentd";

/// Sends what it is given until it is shut down.
#[derive(Debug)]
pub(super) struct Export(SdkTracerProvider);

/// Begins to send to `endpoint`. Must be called on a runtime: the connection lives there.
///
/// # Errors
/// The endpoint cannot be used, in words.
pub(super) fn start(endpoint: &str, env: &str) -> Result<(Export, Tracer), String> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(TIMEOUT)
        .build()
        .map_err(|error| error.to_string())?;
    let resource = Resource::builder()
        .with_service_name(SERVICE)
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("deployment.environment.name", env.to_owned()),
        ])
        .build();
    let provider =
        SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
    let tracer = provider.tracer(SERVICE);
    Ok((Export(provider), tracer))
}

impl Export {
    /// Sends what is left and ends. Blocks for at most two seconds.
    pub(super) fn shut_down(self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH) {
            tracing::debug!(%error, "the last traces were not sent");
        }
    }
}
