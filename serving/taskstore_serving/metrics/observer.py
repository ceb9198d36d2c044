"""Observes a server: metrics per task, and a log line per request.

    observer = metrics.install(engine_client, base_name)

Labels are the base's served name and names of `LoRARequest`s, which the server alone makes, for
tasks that it serves: a name that a client made up is answered with 404 before. A removed task's
gauges go; its totals stay.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from taskstore_serving.metrics import logs, request_hooks
from taskstore_serving.metrics.activity import Activity
from taskstore_serving.metrics.instruments import Instruments, TaskSeries, drop, instruments
from taskstore_serving.metrics.requests import Flight
from taskstore_serving.metrics.worker_answers import merged

PERIOD = 5.0  # seconds between questions to the workers
PATIENCE = 60.0  # seconds; a step of the engine comes before its answer

_log = logging.getLogger("taskstore.serving")


def install(engine_client: Any, base_name: str) -> Observer:
    """Observe all requests of an `AsyncLLM` and its workers; call it once, in its event loop.

    Copies of the client are observed if `copy.copy` made them afterwards; `request_hooks` says why.
    """
    logs.configure()
    observer = Observer(engine_client, base_name, instruments())
    request_hooks.observe(engine_client, observer)
    observer.follow()
    return observer


class Observer:
    """Counts the requests that the hooks tell of, and asks the workers now and then."""

    def __init__(self, engine_client: Any, base_name: str, shown: Instruments) -> None:
        self._client, self._base, self._shown = engine_client, base_name, shown
        self._activity = Activity(engine_client)
        self._flights: dict[str, Flight] = {}  # by the engine's ids of sequences
        self._parents: dict[str, Flight] = {}  # of several sequences, by the engine's id
        self._series = {base_name: TaskSeries(shown, base_name)}
        self._served: frozenset[str] = frozenset()
        self._uses: frozenset[str] = frozenset()
        self._infos: frozenset[tuple[str, ...]] = frozenset()
        self._affinity: tuple[str, ...] = ()
        self._swaps, self._swap_seconds = 0, 0.0
        self._following: asyncio.Task[None] | None = None

    def started(self, state: Any, arrival: float) -> None:
        """Count a new sequence, by vLLM's `RequestState`; several may be one request."""
        parent = state.parent_req and state.parent_req.request_id
        flight = self._parents.get(parent) if parent else None
        if flight is None:
            task = state.lora_name or self._base
            flight = Flight(task, state.external_req_id, arrival, self._of(task))
            flight.series.running.inc()
            self._activity.started(flight)
            if parent:
                self._parents[parent] = flight
        flight.add(state)
        self._flights[state.request_id] = flight

    def ended(self, sequence: str, reason: str) -> None:
        """End one sequence; one that ended already, or started before this observer, is ignored."""
        flight = self._flights.pop(sequence, None)
        if flight is None:
            return
        parent = flight.states[sequence].parent_req
        if not flight.end(sequence, reason):
            return
        if parent:
            self._parents.pop(parent.request_id, None)
        facts, series = flight.finished(), flight.series
        series.running.dec()
        series.generation.inc(flight.fresh())
        series.finished(facts)
        self._activity.finished(facts)
        logs.finished(facts)

    def refused(self, lora_request: Any) -> None:
        """Count a request that the server was too busy for, or its engine dead."""
        self._of(lora_request.lora_name if lora_request else self._base).refused()

    async def activity(self, after: int) -> dict[str, Any]:
        """What the server does now, and its events after a number (`metrics.activity`)."""
        return await self._activity.told(self._flights.values(), after)

    def follow(self) -> None:
        """Ask the workers from now on; of several API processes the first does, for all."""
        if self._client.engine_core.client_index == 0:
            self._following = asyncio.get_running_loop().create_task(self._follow())

    def close(self) -> None:
        if self._following is not None:
            self._following.cancel()

    async def _follow(self) -> None:
        """Ask and count until the engine is dead; scrapes read what was written last."""
        said = False
        while not self._client.errored:
            self._count_tokens()
            try:
                asked = self._client.collective_rpc("taskstore_state")
                self.show(await asyncio.wait_for(asked, PATIENCE))
            except Exception as error:
                self._shown.verified.set(0)
                if not said:
                    _log.warning("the workers do not tell their state: %r", error)
                said = True
            await asyncio.sleep(PERIOD)
        self._shown.verified.set(0)

    def show(self, states: Sequence[dict[str, Any]]) -> None:
        """Show the answers to `taskstore_state`, a dict of each worker."""
        state, shown = merged(states), self._shown
        self._show_tasks(frozenset(state["tasks"]), state["active"] or self._base)
        self._show_infos(frozenset(_info(*one) for one in state["tasks"].items()))
        self._show_affinity(state["active"] or "")
        for use in self._uses - state["memory"].keys():
            shown.resident.labels(use).set(0)
            drop(shown.resident, use)
        self._uses = frozenset(state["memory"])
        for use, size in state["memory"].items():
            shown.resident.labels(use).set(size)
        shown.swaps.inc(max(0, state["swaps"] - self._swaps))
        shown.swap_seconds.inc(max(0.0, state["swap_seconds"] - self._swap_seconds))
        self._swaps, self._swap_seconds = state["swaps"], state["swap_seconds"]
        shown.verified.set(state["verified"])

    def _show_tasks(self, served: frozenset[str], active: str) -> None:
        for task in self._served - served:
            self._shown.active.labels(task).set(0)
            drop(self._shown.active, task)
            if self._series.pop(task, None):
                drop(self._shown.running, task)
        self._served = served
        for task in (self._base, *served):
            self._of(task)
            self._shown.active.labels(task).set(task == active)
        self._shown.tasks.set(len(served))

    def _show_infos(self, infos: frozenset[tuple[str, ...]]) -> None:
        for labels in self._infos - infos:
            self._shown.info.labels(*labels).set(0)
            drop(self._shown.info, *labels)
        self._infos = infos
        for labels in infos:
            self._shown.info.labels(*labels).set(1)

    def _show_affinity(self, active: str) -> None:
        """Show the live task and those that wait for it, as vLLM shows adapters (one at a time)."""
        flying = {flight.task for flight in self._flights.values()} - {active, self._base}
        labels = "1", active, ",".join(sorted(flying))
        if self._affinity and self._affinity != labels:
            drop(self._shown.affinity, *self._affinity)
        self._affinity = labels
        self._shown.affinity.labels(*labels).set_to_current_time()

    def _count_tokens(self) -> None:
        """Count the tokens of requests that still run."""
        for flight in set(self._flights.values()):
            flight.series.generation.inc(flight.fresh())

    def _of(self, task: str) -> TaskSeries:
        if task not in self._series:
            self._series[task] = TaskSeries(self._shown, task)
        return self._series[task]


def _info(task: str, known: Mapping[str, Any]) -> tuple[str, ...]:
    """Labels of what is served of a task."""
    found = known["fidelity"]
    return task, known["tier"], found["kind"], found["grade"] or ""
