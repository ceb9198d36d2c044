"""Several API processes of one server: a hold ends, whatever becomes of the change."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from taskstore_serving.api.peers import Peers
from taskstore_serving.engine.holds import Holds


class Engine:
    """The part of an engine that peers use; it may lose its answer to a `take` that was granted."""

    def __init__(self, holds: Holds, index: int, *, loses: bool = False) -> None:
        parallel = SimpleNamespace(_api_process_count=2, _api_process_rank=index)
        self.vllm_config = SimpleNamespace(parallel_config=parallel)
        self._holds, self._loses = holds, loses

    async def collective_rpc(self, method: str, args: tuple[Any, ...]) -> list[Any]:
        verb, *rest = args
        found = getattr(self._holds, verb)(*rest)
        if verb == "take" and self._loses:
            raise TimeoutError("no answer")
        return [found]


def test_a_hold_whose_answer_is_lost_is_given_back() -> None:
    """Else no process could change a task again, and requests to this one would wait for ever."""
    holds = Holds()

    async def hold() -> None:
        async with Peers(Engine(holds, 0, loses=True)).holding("alpha"):
            raise AssertionError("it was not told that it holds the task")

    with pytest.raises(TimeoutError):
        asyncio.run(hold())
    assert holds.state()["owner"] == -1


def test_nobody_gives_back_what_another_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    holds = Holds()
    assert holds.take("alpha", 1)

    async def hold() -> None:
        async with Peers(Engine(holds, 0)).holding("beta"):
            raise AssertionError("another process holds a task")

    monkeypatch.setattr("taskstore_serving.api.peers.WAIT", -1.0)
    with pytest.raises(Exception, match="Another API process changes a task"):
        asyncio.run(hold())
    assert holds.state() == {"task": "alpha", "owner": 1, "idle": [1]}
