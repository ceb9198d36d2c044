"""What the observer makes of requests and of the workers' answers, without an engine."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest
from taskstore_serving.metrics import observer
from taskstore_serving.metrics.instruments import Instruments

from tests.support import ROOT

STATE = {
    "active": "german",
    "swaps": 3,
    "swap_seconds": 0.25,
    "tasks": {
        "german": {"bytes": 1, "tier": "mask", "fidelity": {"kind": "approximate", "grade": "C"}},
        "roman": {"bytes": 2, "tier": "rest", "fidelity": {"kind": "not measured", "grade": None}},
    },
    "memory": {"live": 100, "masks": 10},
    "verified": True,
}


def only(*tasks: str) -> dict[str, Any]:
    """The state when no other tasks are served."""
    known: Any = STATE["tasks"]
    return {**STATE, "tasks": {task: known[task] for task in tasks}}


class Server:
    """An observer with a registry of its own and a client that answers as it is told."""

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, Any]] | None = None) -> None:
        self.registry, self.asked = CollectorRegistry(), 0
        self.client = SimpleNamespace(
            errored=False, collective_rpc=self._rpc, engine_core=SimpleNamespace(client_index=0)
        )
        self._ask = ask
        self.observer = observer.Observer(self.client, "base", Instruments(self.registry))

    async def _rpc(self, method: str) -> Any:
        assert method == "taskstore_state"
        self.asked += 1
        return await self._ask() if self._ask else [STATE]

    def value(self, name: str, **labels: str) -> float | None:
        found: float | None = self.registry.get_sample_value(f"taskstore_{name}", labels)
        return found


def sequence(id: str, task: str | None = None, tokens: int = 0, **changes: Any) -> Any:
    """A `RequestState` as vLLM keeps it, with `tokens` generated, one in 0.1 s after the first."""
    stats = SimpleNamespace(
        num_generation_tokens=tokens,
        queued_ts=10.0 if tokens else 0.0,
        scheduled_ts=12.0 if tokens else 0.0,
        first_token_ts=12.5,
        last_token_ts=12.5 + 0.1 * (tokens - 1),
        first_token_latency=3.0,
    )
    fields = {
        "request_id": id,
        "external_req_id": f"cmpl-{id}",
        "parent_req": None,
        "lora_name": task,
        "prompt_len": 12,
        "num_cached_tokens": 8,
        "is_prefilling": not tokens,
        "detokenizer": SimpleNamespace(num_output_tokens=lambda: stats.num_generation_tokens),
        "stats": stats,
    }
    return SimpleNamespace(**{**fields, **changes})


def test_every_request_counts_for_its_task_and_its_outcome() -> None:
    server = Server()
    ends = [("german", "stop"), ("german", "length"), (None, "stop"), ("german", "repetition")]
    for i, (task, outcome) in enumerate(ends):
        server.observer.started(sequence(str(i), task, tokens=5), arrival=0.0)
        assert server.value("requests_running", task=task or "base") == 1
        server.observer.ended(str(i), outcome)
        server.observer.ended(str(i), "abort")  # told twice
        assert server.value("requests_running", task=task or "base") == 0
    assert server.value("requests_total", task="german", outcome="stop") == 2
    assert server.value("requests_total", task="german", outcome="length") == 1
    assert server.value("requests_total", task="base", outcome="stop") == 1
    assert server.value("requests_total", task="german", outcome="abort") == 0
    assert server.value("prompt_tokens_total", task="german") == 36
    assert server.value("cached_prompt_tokens_total", task="german") == 24
    assert server.value("generation_tokens_total", task="german") == 15
    assert server.value("queue_seconds_sum", task="german") == pytest.approx(6)
    assert server.value("time_to_first_token_seconds_sum", task="german") == pytest.approx(9)
    assert server.value("inter_token_seconds_sum", task="german") == pytest.approx(0.3)


def test_n_sequences_are_one_request() -> None:
    server, parent = Server(), SimpleNamespace(request_id="p")
    for i in range(3):
        server.observer.started(sequence(f"{i}_p", "roman", 4, parent_req=parent), 0.0)
    assert server.value("requests_running", task="roman") == 1
    server.observer.ended("1_p", "stop")
    server.observer.ended("0_p", "length")
    assert server.value("requests_total", task="roman", outcome="length") == 0
    server.observer.ended("2_p", "stop")
    assert server.value("requests_total", task="roman", outcome="length") == 1
    assert server.value("requests_total", task="roman", outcome="stop") == 0
    assert server.value("prompt_tokens_total", task="roman") == 12
    assert server.value("generation_tokens_total", task="roman") == 12
    assert server.value("requests_running", task="roman") == 0


def test_a_request_that_never_ran_has_no_times_and_no_tokens() -> None:
    server = Server()
    server.observer.started(sequence("a", "german"), 0.0)
    server.observer.ended("a", "abort")
    server.observer.started(sequence("b", "german", stats=None), 0.0)  # --disable-log-stats
    server.observer.ended("b", "stop")
    server.observer.refused(SimpleNamespace(lora_name="german"))
    server.observer.refused(None)
    assert server.value("requests_total", task="german", outcome="abort") == 1
    assert server.value("requests_total", task="german", outcome="error") == 1
    assert server.value("requests_total", task="base", outcome="error") == 1
    assert server.value("prompt_tokens_total", task="german") == 0
    assert server.value("queue_seconds_count", task="german") == 0
    assert server.value("time_to_first_token_seconds_count", task="german") == 0


def test_what_the_workers_say() -> None:
    server = Server()
    server.observer.show([STATE, {**STATE, "swap_seconds": 0.5}])
    assert server.value("swaps_total") == 3
    assert server.value("swap_seconds_total") == 0.5
    active = {t: server.value("active_task", task=t) for t in ("base", "german", "roman")}
    assert active == {"base": 0, "german": 1, "roman": 0}
    assert server.value("resident_bytes", use="live") == 200
    assert (server.value("tasks"), server.value("verified")) == (2, 1)
    kept = {"tier": "mask", "fidelity": "approximate", "grade": "C"}
    assert server.value("task_info", task="german", **kept) == 1
    server.observer.show([{**STATE, "active": None, "swaps": 7}, {**STATE, "verified": False}])
    assert server.value("swaps_total") == 7
    assert server.value("active_task", task="base") == 1
    assert server.value("verified") == 0
    assert server.value("requests_total", task="roman", outcome="stop") == 0  # known before used


def test_gauges_of_a_removed_task_go_and_its_totals_stay() -> None:
    server = Server()
    server.observer.show([STATE])
    for id in ("a", "b"):
        server.observer.started(sequence(id, "roman", tokens=2), 0.0)
    server.observer.ended("a", "stop")
    server.observer.show([{**only("german"), "memory": {"live": 100}}])
    server.observer.ended("b", "stop")
    rested = {"tier": "rest", "fidelity": "not measured", "grade": ""}
    assert server.value("task_info", task="roman", **rested) is None
    assert server.value("active_task", task="roman") is None
    assert server.value("requests_running", task="roman") is None
    assert server.value("resident_bytes", use="masks") is None
    assert server.value("requests_total", task="roman", outcome="stop") == 2
    server.observer.show([STATE])
    assert server.value("requests_running", task="roman") == 0


def test_a_task_added_since_the_last_answer_keeps_its_gauges() -> None:
    server = Server()
    server.observer.show([STATE])
    server.observer.started(sequence("a", "spanish"), 0.0)
    server.observer.show([STATE])  # asked before it was added
    assert server.value("requests_running", task="spanish") == 1


def follow(server: Server, wanted: Callable[[], bool]) -> None:
    """Let the observer ask until something holds."""

    async def run() -> None:
        server.observer.follow()
        async with asyncio.timeout(60):
            while not wanted():
                await asyncio.sleep(0.001)
        server.observer.close()

    asyncio.run(run())


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "PERIOD", 0.001)


@pytest.mark.usefixtures("often")
def test_workers_are_asked_again_and_tokens_counted_on_the_way() -> None:
    server, state = Server(), sequence("a", "german", tokens=3)
    server.observer.started(state, 0.0)
    follow(server, lambda: server.asked > 3)
    assert server.value("generation_tokens_total", task="german") == 3
    state.stats.num_generation_tokens = 5
    server.observer.ended("a", "stop")
    assert server.value("generation_tokens_total", task="german") == 5


@pytest.mark.usefixtures("often")
def test_a_scrape_waits_for_no_engine() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    server = Server(never)
    server.observer.show([STATE])
    follow(server, lambda: server.asked == 1)
    assert b"taskstore_swaps_total 3.0" in generate_latest(server.registry)


@pytest.mark.usefixtures("often")
def test_workers_that_do_not_answer_are_not_verified(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise RuntimeError("no such method")

    server = Server(fails)
    server.observer.show([STATE])
    follow(server, lambda: server.asked > 3)
    assert server.value("verified") == 0
    assert [r.getMessage() for r in caplog.records] == [
        "the workers do not tell their state: RuntimeError('no such method')"
    ]


@pytest.mark.usefixtures("often")
def test_a_dead_engine_is_asked_no_more() -> None:
    async def dies() -> None:
        server.client.errored = True
        raise RuntimeError

    server = Server(dies)

    async def run() -> None:
        server.observer.follow()
        following = server.observer._following
        assert following is not None
        await asyncio.wait_for(following, 60)

    asyncio.run(run())
    assert (server.asked, server.value("verified")) == (1, 0)


MANY = """
import asyncio, sys
from taskstore_serving.metrics.observer import Observer
from tests.serving.metrics.test_metrics import Server, only, sequence
from taskstore_serving.metrics.instruments import instruments

async def main():
    server = Server()
    server.client.engine_core.client_index = int(sys.argv[1])
    observer = Observer(server.client, "base", instruments())
    observer.follow()
    for id in ("a", "b"):
        observer.started(sequence(id, "german", tokens=5), 0.0)
    await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    observer.ended("a", "stop")
    if sys.argv[1] == "0":
        observer.show([{**only("roman"), "active": "roman"}])

asyncio.run(main())
if sys.argv[1] == "1":
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    print(generate_latest(registry).decode())
"""


def test_several_api_processes_add_up(tmp_path: Path) -> None:
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for process in "01":
        run = [sys.executable, "-W", "error", "-c", MANY, process]
        shown = subprocess.run(run, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
        assert not shown.returncode, shown.stderr
    lines = shown.stdout.splitlines()
    assert 'taskstore_requests_total{outcome="stop",task="german"} 2.0' in lines
    assert 'taskstore_requests_running{task="german"} 2.0' in lines
    assert "taskstore_swaps_total 3.0" in lines
    assert 'taskstore_active_task{task="german"} 0.0' in lines
    assert 'taskstore_active_task{task="roman"} 1.0' in lines


def test_routers_see_the_active_and_the_waiting_tasks() -> None:
    """As vLLM's gauge of adapters, which affinity scorers read; one series, of the last look."""
    server = Server()
    name = "vllm:lora_requests_info"
    labels = ("max_lora", "running_lora_adapters", "waiting_lora_adapters")

    def shown() -> list[tuple[str, ...]]:
        found = [s for f in server.registry.collect() for s in f.samples if s.name == name]
        assert all(sample.value > 0 for sample in found)
        return [tuple(sample.labels[label] for label in labels) for sample in found]

    server.observer.show([STATE])
    assert shown() == [("1", "german", "")]
    for id, task in (("a", "roman"), ("b", "german"), ("c", None)):
        server.observer.started(sequence(id, task), 1.0)
    server.observer.show([STATE])
    assert shown() == [("1", "german", "roman")]
    server.observer.ended("a", "stop")
    server.observer.show([{**STATE, "active": None}])
    assert shown() == [("1", "", "german")]
