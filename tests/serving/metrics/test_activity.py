"""What a server tells of itself to those who look: events, and how often workers are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from taskstore_serving.metrics import activity
from taskstore_serving.metrics.activity import Activity
from taskstore_serving.metrics.recent import Recent
from taskstore_serving.metrics.requests import Finished, Flight


class Client:
    """Asks one worker, which makes a swap between two questions."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.swaps = Recent()
        self.answers = asyncio.Event()

    async def collective_rpc(self, method: str, args: tuple[int]) -> list[dict[str, Any]]:
        assert method == "taskstore_activity"
        await self.answers.wait()
        self.asked.append(*args)
        self.swaps.add("swap", before=None, task="a", seconds=0.5)
        made = [dict(swap) for swap in self.swaps.after(args[0])]
        return [{"active": "a", "swaps": 1, "swap_seconds": 0.5, "swaps_made": made}]


def flight(task: str, request: str) -> Flight:
    series: Any = SimpleNamespace()
    found = Flight(task, request, 5.0, series)
    words: Any = SimpleNamespace(num_output_tokens=lambda: 3)
    found.add(SimpleNamespace(request_id=request, detokenizer=words))
    return found


def done(task: str, request: str, tokens: int) -> Finished:
    return Finished(task, request, "stop", 7, 0, tokens, 0.1, 0.2, 0.01, 1.5)


def run(scenario: Callable[[Activity, Client], Awaitable[None]]) -> None:
    async def inside() -> None:
        client = Client()
        client.answers.set()
        await scenario(Activity(client), client)

    asyncio.run(inside())


def test_events_are_numbered_and_the_oldest_go() -> None:
    recent = Recent(limit=3)
    for task in "abcde":
        recent.add("swap", task=task)
    assert [(e["number"], e["task"]) for e in recent.after(0)] == [(3, "c"), (4, "d"), (5, "e")]
    assert [e["task"] for e in recent.after(4)] == ["e"]
    assert (recent.after(recent.last), recent.after(99)) == ([], [])


def test_requests_and_swaps_come_once_to_who_says_what_was_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(activity, "PERIOD", 3600.0)

    async def scenario(now: Activity, client: Client) -> None:
        running = flight("a", "r" * 500)
        now.started(running)
        now.finished(done("b", "other", 20))
        told = await now.told([running, running], after=0)
        assert [event["kind"] for event in told["events"]] == ["started", "finished", "swap"]
        assert told["totals"]["b"] == {"requests": 1, "tokens": 20}
        assert told["totals"]["a"]["tokens"] == 3  # of a request that still runs
        assert dict(told["running"]) == {"a": 1}
        (shown,) = told["requests"]
        assert len(shown["request"]) == 100 and shown["since"] == 5.0
        assert told["engine"]["active"] == "a" and told["engine"]["answered"] > 0
        assert (await now.told([], told["last"]))["events"] == []
        now._asked = float("-inf")
        (swap,) = (await now.told([], told["last"]))["events"]
        assert (swap["kind"], swap["swap"], client.asked) == ("swap", 2, [0, 1])

    run(scenario)


def test_many_lookers_ask_the_workers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "PERIOD", 3600.0)

    async def scenario(now: Activity, client: Client) -> None:
        found = await asyncio.gather(*(now.told([], 0) for _ in range(20)))
        assert len(client.asked) == 1
        assert all(told["engine"]["active"] == "a" for told in found)

    run(scenario)


def test_a_long_step_holds_no_answer_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "PATIENCE", 0.02)

    async def scenario(now: Activity, client: Client) -> None:
        client.answers.clear()
        now.started(flight("a", "r"))
        told = await now.told([], 0)
        assert [event["kind"] for event in told["events"]] == ["started"]
        assert told["engine"] == {"answered": 0.0}
        monkeypatch.setattr(activity, "PATIENCE", 60.0)
        client.answers.set()
        assert (await now.told([], 0))["engine"]["active"] == "a"

    run(scenario)


def test_an_engine_that_fails_is_asked_again() -> None:
    async def scenario(now: Activity, client: Client) -> None:
        asked = client.collective_rpc
        client.collective_rpc = None  # type: ignore[assignment, method-assign]
        assert (await now.told([], 0))["engine"] == {"answered": 0.0}
        client.collective_rpc = asked  # type: ignore[method-assign]
        now._asked = float("-inf")
        assert (await now.told([], 0))["engine"]["active"] == "a"

    run(scenario)
