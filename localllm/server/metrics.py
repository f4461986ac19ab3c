"""What the server counts, for Prometheus; the names are vLLM's with another prefix."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from localllm.engine.engine import Engine
from localllm.engine.sequence import Sequence
from localllm.server.records import Record, current_record

_FIRST = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_NEXT = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.0, 2.5, 5.0)
_WHOLE = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"})

Engines = Callable[[], dict[str, Engine]]


class Metrics:
    """Counters and histograms of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._counter(
            "http_requests", "Requests answered.", "method", "path", "status"
        )
        self._seconds = self._histogram(
            "e2e_request_latency_seconds", "From a request to the end of its answer.", _WHOLE
        )
        self.first = self._histogram(
            "time_to_first_token_seconds", "From a request to its first token.", _FIRST
        )
        self.next = self._histogram(
            "inter_token_latency_seconds", "From one token of an answer to the next.", _NEXT
        )
        self.finished = self._counter(
            "request_success", "Answers ended, by reason.", "model_name", "finished_reason"
        )
        self.tokens = {
            name: self._counter(name, text, "model_name")
            for name, text in (
                ("prompt_tokens", "Tokens of prompts."),
                ("generation_tokens", "Tokens generated."),
                ("prefix_cache_queries", "Tokens of prompts looked up in the prefix cache."),
                ("prefix_cache_hits", "Tokens of prompts found in the prefix cache."),
                ("spec_decode_num_draft_tokens", "Tokens drafted."),
                ("spec_decode_num_accepted_tokens", "Drafted tokens that were drawn."),
            )
        }

    def of_model(self, name: str) -> AnswerMetrics:
        """What is counted of one model's answers."""
        return AnswerMetrics(self, name)

    def watch(self, engines: Engines) -> None:
        """Show the gauges of these engines, read when they are asked for."""
        self._registry.register(_Gauges(engines))

    def report(self, record: Record) -> None:
        """Count a request that was answered."""
        method = record.method if record.method in _METHODS else "other"
        self._requests.labels(method, record.route, str(record.status)).inc()
        if record.model:
            self._seconds.labels(record.model).observe(record.seconds)

    def page(self) -> bytes:
        """All of it in the text format of Prometheus."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"localllm_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"localllm_{name}", text, ("model_name",), registry=self._registry, buckets=buckets
        )


@dataclass
class _Progress:
    """An answer under way: when its last token came, or, before the first, when it was asked."""

    last: float
    record: Record | None
    leads: bool
    begun: bool = False


class AnswerMetrics:
    """What is counted of one model's answers, told by `Service`; all on the event loop."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._first = metrics.first.labels(name)
        self._next = metrics.next.labels(name)
        self._finished = metrics.finished
        self._tokens = {key: counter.labels(name) for key, counter in metrics.tokens.items()}
        self._name = name
        self._live: dict[int, _Progress] = {}

    def begin(self, leaders: list[Sequence], sequences: list[Sequence]) -> None:
        """Answers are under way, for the current request if there is one.

        Args:
            leaders: the first answer to each prompt, with which the prompt is counted.
            sequences: all answers.
        """
        record = current_record()
        started = time.monotonic() if record is None else record.started
        if record is not None:
            record.leaders += leaders
            record.sequences += sequences
        leading = {id(sequence) for sequence in leaders}
        for sequence in sequences:
            self._live[id(sequence)] = _Progress(started, record, id(sequence) in leading)

    def arrived(self, sequence: Sequence, tokens: int) -> None:
        """So many tokens have come at once."""
        progress = self._live.get(id(sequence))
        if progress is None or not tokens:
            return
        now = time.monotonic()
        elapsed, progress.last = now - progress.last, now
        if not progress.begun:
            progress.begun = True
            self._first.observe(elapsed)
            if progress.record is not None and progress.record.first_token is None:
                progress.record.first_token = elapsed
            tokens -= 1
            elapsed = 0.0
        for _ in range(tokens):
            self._next.observe(elapsed)
            elapsed = 0.0  # the others came with it

    def end(self, sequence: Sequence) -> None:
        """An answer has ended, or nobody waits for it any more."""
        progress = self._live.pop(id(sequence), None)
        if progress is None:
            return
        reason = "error" if sequence.error else sequence.stats.finish_reason or "abort"
        stats = sequence.stats
        self._finished.labels(self._name, reason).inc()
        self._count("generation_tokens", stats.generated_tokens)
        self._count("spec_decode_num_draft_tokens", stats.drafted_tokens)
        self._count("spec_decode_num_accepted_tokens", stats.accepted_tokens)
        if progress.leads:
            self._count("prompt_tokens", stats.prompt_tokens)
            self._count("prefix_cache_queries", stats.prompt_tokens)
            self._count("prefix_cache_hits", stats.cached_tokens)

    def _count(self, name: str, tokens: int) -> None:
        self._tokens[name].inc(tokens)


class _Gauges(Collector):
    """Gauges of the loaded models."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        """As they are now."""
        running = _gauge("num_requests_running", "Answers that are computed.")
        waiting = _gauge("num_requests_waiting", "Answers that wait for their turn or for pages.")
        usage = _gauge("kv_cache_usage_perc", "Held part of the KV pages; 1 is all.")
        pages = _gauge("kv_pages", "Pages of KV memory: held, cached or free.", "state")
        for name, engine in self._engines().items():
            use = engine.occupancy
            running.add_metric([name], use.running)
            waiting.add_metric([name], use.waiting)
            usage.add_metric([name], use.held / use.pages)
            for state, count in (("held", use.held), ("cached", use.kept), ("free", use.free)):
                pages.add_metric([name, state], count)
        yield from (running, waiting, usage, pages)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"localllm_{name}", text, labels=("model_name", *labels))
