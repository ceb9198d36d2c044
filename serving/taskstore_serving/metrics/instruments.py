"""Metrics for Prometheus beside vLLM's own; every series of a request names its task.

With one API process these are in prometheus_client's own registry, which vLLM exposes. With
several (PROMETHEUS_MULTIPROC_DIR) vLLM adds up files of all processes: counters and histograms
need nothing more, and gauges say how they combine. A series cannot be taken back there, so a
removed task's gauges stay at 0.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from taskstore_serving.metrics.requests import OUTCOMES, Finished

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
TOKEN_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5)


class Instruments:
    """All metrics, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        made = {"registry": registry, "namespace": "taskstore"}

        def gauge(name: str, text: str, labels: tuple[str, ...] = (), mode: Any = "max") -> Gauge:
            return Gauge(name, text, labels, multiprocess_mode=mode, **made)

        def counter(name: str, text: str, labels: tuple[str, ...] = ("task",)) -> Counter:
            return Counter(name, text, labels, **made)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(name, text, ("task",), buckets=buckets, **made)

        self.requests = counter("requests", "Requests that ended, by how.", ("task", "outcome"))
        self.prompt = counter("prompt_tokens", "Prompt tokens of ended requests.")
        self.cached = counter("cached_prompt_tokens", "Those of them that the prefix cache held.")
        self.generation = counter("generation_tokens", "Tokens generated.")
        self.first_token = histogram(
            "time_to_first_token_seconds", "From arrival to the first token."
        )
        self.queue = histogram("queue_seconds", "From the engine's queue to the first step.")
        self.inter_token = histogram(
            "inter_token_seconds",
            "Mean time between a request's tokens, pauses for other tasks included.",
            TOKEN_SECONDS,
        )
        self.running = gauge("requests_running", "Requests in the engine.", ("task",), "livesum")
        self.swaps = counter("swaps", "Changes of the live task.", ())
        self.swap_seconds = counter("swap_seconds", "Time that they took.", ())
        self.active = gauge("active_task", "1 for the task whose weights are live.", ("task",))
        self.affinity = Gauge(  # vLLM's own name, which routers read; it is there with LoRA alone
            "vllm:lora_requests_info",
            "The time of the last look, with the active and the waiting tasks.",
            ("max_lora", "running_lora_adapters", "waiting_lora_adapters"),
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.info = gauge(
            "task_info",
            "1 for each task served, with its tier and how near that is to the fine-tune.",
            ("task", "tier", "fidelity", "grade"),
        )
        self.resident = gauge(
            "resident_bytes", "Memory of all workers, by what it holds.", ("use",)
        )
        self.tasks = gauge("tasks", "Tasks served, the base aside.")
        self.verified = gauge(
            "verified", "1 when the workers say that their weights are the store's."
        )


@cache
def instruments(registry: CollectorRegistry = REGISTRY) -> Instruments:
    """The metrics of a registry, made once: a name can be registered only once."""
    return Instruments(registry)


class TaskSeries:
    """One task's series, at 0 from the start, so that the first rate is right."""

    def __init__(self, shown: Instruments, task: str) -> None:
        self._requests = {outcome: shown.requests.labels(task, outcome) for outcome in OUTCOMES}
        self._prompt, self._cached = shown.prompt.labels(task), shown.cached.labels(task)
        self._times = [
            metric.labels(task) for metric in (shown.queue, shown.first_token, shown.inter_token)
        ]
        self.generation, self.running = shown.generation.labels(task), shown.running.labels(task)

    def refused(self) -> None:
        self._requests["error"].inc()

    def finished(self, facts: Finished) -> None:
        self._requests[facts.outcome].inc()
        self._prompt.inc(facts.prompt_tokens)
        self._cached.inc(facts.cached_tokens)
        seconds = (facts.queue_seconds, facts.first_token_seconds, facts.inter_token_seconds)
        for metric, value in zip(self._times, seconds, strict=True):
            if value is not None:
                metric.observe(value)


def drop(gauge: Gauge, *labels: str) -> None:
    """Take one series of a gauge back where that is possible; elsewhere it stays as it is."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        gauge.remove(*labels)
