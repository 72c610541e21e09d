"""OpenTelemetry as a stranger uses it: the stock SDK, and requests no SDK would send."""

import time
from collections.abc import Iterable

import grpc
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as pb
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as metrics
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource as SdkResource

METHOD = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"


def bearer(server, principal: str) -> str:
    return f"Bearer {server.token_file(principal).read_text()}"


def provider(server, principal: str, app: str, protocol: str) -> MeterProvider:
    """The SDK as its documentation sets it up, but for the address, the token and a short interval."""
    if protocol == "grpc":
        headers = (("authorization", bearer(server, principal)),)
        exporter = GrpcExporter(endpoint=f"http://{server.address}", insecure=True, headers=headers)
    else:
        headers = {"authorization": bearer(server, principal)}
        exporter = HttpExporter(endpoint=f"http://{server.address}/v1/metrics", headers=headers)
    resource = SdkResource.create({"service.name": app, "deployment.environment.name": "stage"})
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=300)
    return MeterProvider(metric_readers=[reader], resource=resource)


def attributes(**values: str | int) -> list[KeyValue]:
    def value(v: str | int) -> AnyValue:
        return AnyValue(int_value=v) if isinstance(v, int) else AnyValue(string_value=v)

    return [KeyValue(key=key.replace("__", "."), value=value(v)) for key, v in values.items()]


def nanos(ahead: float = 0.0) -> int:
    return int((time.time() + ahead) * 1e9)


def gauge(name: str, value: float, ahead: float = 0.0, unit: str = "1", labels: Iterable[KeyValue] = ()) -> metrics.Metric:
    point = metrics.NumberDataPoint(as_double=value, time_unix_nano=nanos(ahead), attributes=labels)
    return metrics.Metric(name=name, unit=unit, gauge=metrics.Gauge(data_points=[point]))


def requests(counts: list[int], bounds: list[float], *, seconds: float = 10.0, **labels: str | int) -> metrics.Metric:
    """Durations of requests of the last seconds, as a delta."""
    point = metrics.HistogramDataPoint(
        start_time_unix_nano=nanos(-seconds), time_unix_nano=nanos(), count=sum(counts), bucket_counts=counts,
        explicit_bounds=bounds, attributes=attributes(**labels),
    )  # fmt: skip
    histogram = metrics.Histogram(data_points=[point], aggregation_temporality=metrics.AGGREGATION_TEMPORALITY_DELTA)
    return metrics.Metric(name="http.server.request.duration", unit="s", histogram=histogram)


def export(app: str, *found: metrics.Metric, environment: str | None = "stage", **more: str) -> pb.ExportMetricsServiceRequest:
    """A request about one app."""
    named = {"service__name": app} | more
    if environment is not None:
        named["deployment__environment__name"] = environment
    resource = Resource(attributes=attributes(**named))
    scopes = [metrics.ScopeMetrics(metrics=found)]
    return pb.ExportMetricsServiceRequest(
        resource_metrics=[metrics.ResourceMetrics(resource=resource, scope_metrics=scopes)]
    )


def send(server, principal: str, request: pb.ExportMetricsServiceRequest | bytes) -> pb.ExportMetricsServiceResponse:
    """One request over gRPC, as bytes if they are no request."""
    with grpc.insecure_channel(server.address, [("grpc.max_send_message_length", -1)]) as channel:
        call = channel.unary_unary(
            METHOD,
            request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
            response_deserializer=pb.ExportMetricsServiceResponse.FromString,
        )
        return call(request, metadata=(("authorization", bearer(server, principal)),), timeout=30)
