"""What a request took, from admission to its end, by the state that vLLM's frontend keeps."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

OUTCOMES = ("stop", "length", "abort", "error")  # from best to worst


@dataclass(frozen=True, slots=True)
class Finished:
    """What a request took. Seconds are None where the engine did not get that far."""

    task: str
    request: str
    outcome: str
    prompt_tokens: int
    cached_tokens: int
    generation_tokens: int
    queue_seconds: float | None
    first_token_seconds: float | None
    inter_token_seconds: float | None  # mean over the tokens after the first
    total_seconds: float


class Series(Protocol):
    """One task's counters; `instruments.TaskSeries` is one."""

    generation: Any
    running: Any

    def finished(self, facts: Finished) -> None: ...


@dataclass(eq=False, slots=True)
class Flight:
    """A request in the engine, of one sequence or n; its prompt counts once.

    `states` are vLLM's `RequestState`s, by the engine's own ids.
    """

    task: str
    request: str
    arrival: float
    series: Series
    states: dict[str, Any] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    outcome: str = "stop"
    _told: int = 0

    def add(self, state: Any) -> None:
        self.states[state.request_id] = state
        self.running.add(state.request_id)

    def end(self, sequence: str, reason: str) -> bool:
        """End a sequence; whether it was the last. The request's outcome is the worst of all."""
        self.running.discard(sequence)
        outcome = reason if reason in OUTCOMES else "stop"
        self.outcome = max(self.outcome, outcome, key=OUTCOMES.index)
        return not self.running

    def generated(self) -> int:
        return sum(_tokens(state) for state in self.states.values())

    def fresh(self) -> int:
        """Tokens generated since the last call."""
        before, self._told = self._told, max(self._told, self.generated())
        return self._told - before

    def finished(self) -> Finished:
        states = self.states.values()
        computed = [state for state in states if not state.is_prefilling]
        timed = [state.stats for state in states if state.stats is not None]
        spoke = [stats for stats in timed if stats.num_generation_tokens]
        return Finished(
            self.task,
            self.request,
            self.outcome,
            max((state.prompt_len for state in computed), default=0),
            min((state.num_cached_tokens for state in computed), default=0),
            self.generated(),
            _least(
                max(0.0, stats.scheduled_ts - stats.queued_ts)
                for stats in timed
                if stats.scheduled_ts
            ),
            _least(stats.first_token_latency for stats in spoke),
            _mean(
                (stats.last_token_ts - stats.first_token_ts, stats.num_generation_tokens - 1)
                for stats in spoke
            ),
            time.time() - self.arrival,
        )


def _tokens(state: Any) -> int:
    return state.detokenizer.num_output_tokens() if state.detokenizer is not None else 0


def _least(values: Iterable[float]) -> float | None:
    return min(values, default=None)


def _mean(spans: Iterable[tuple[float, int]]) -> float | None:
    """Seconds per token over all spans."""
    seconds, tokens = 0.0, 0
    for span, count in spans:
        seconds, tokens = seconds + span, tokens + count
    return seconds / tokens if tokens else None
