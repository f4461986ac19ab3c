"""OpenTelemetry spans, one a request, for the endpoint that the environment names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from localllm import __version__
from localllm.errors import UsageError
from localllm.server.counts import cached_tokens, completion_tokens, prompt_tokens
from localllm.server.records import Record

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# The operation's name by the route; other routes run no model.
# https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}


def wanted() -> bool:
    """Whether the environment names a place to send spans to."""
    return any(os.environ.get(name) for name in _VARIABLES)


class Tracing:
    """Makes a span of each request that runs a model.

    Args:
        exporter: takes the spans; None: the one that the environment describes (OTLP over HTTP).

    Raises:
        UsageError: the extra is not installed.
    """

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            if exporter is None:
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

                exporter = OTLPSpanExporter()
        except ImportError as error:
            raise UsageError(
                f"{_VARIABLES[0]} is set, but {error.name} is not installed",
                "pip install 'localllm[otel]'",
            ) from error
        name = os.environ.get("OTEL_SERVICE_NAME", "localllm")
        resource = Resource.create({"service.name": name})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("localllm", __version__)

    def report(self, record: Record) -> None:
        """Make the span of a request that was answered, below the client's own if it sent one."""
        operation = _OPERATIONS.get(record.route)
        if operation is None:
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        sent = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in record.headers.items()
            if name in (b"traceparent", b"tracestate")
        }
        span = self._tracer.start_span(
            f"{operation} {record.model}".strip(),
            context=TraceContextTextMapPropagator().extract(sent),
            kind=SpanKind.SERVER,
            attributes=_attributes(record, operation),
            start_time=int(record.began * 1e9),
        )
        if record.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(int((record.began + record.seconds) * 1e9))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def _attributes(record: Record, operation: str) -> dict[str, Any]:
    reasons = [one.stats.finish_reason or "abort" for one in record.sequences]
    found: dict[str, Any] = {
        "http.request.method": record.method,
        "http.response.status_code": record.status,
        "http.route": record.route,
        "localllm.request.id": record.id,
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "localllm",
    }
    if record.model:
        found |= {"gen_ai.request.model": record.model, "gen_ai.response.model": record.model}
    if record.sequences:
        found |= {
            "gen_ai.usage.input_tokens": prompt_tokens(record),
            "gen_ai.usage.cache_read.input_tokens": cached_tokens(record),
            "gen_ai.usage.output_tokens": completion_tokens(record),
            "gen_ai.response.finish_reasons": reasons,
        }
    if record.first_token is not None:
        found["gen_ai.response.time_to_first_chunk"] = record.first_token
    return found
