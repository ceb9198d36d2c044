"""Two API processes over one engine that is played: what one changes, the other serves."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from taskstore_serving.engine.holds import Holds

from tests.serving.support.engines import need_vllm
from tests.serving.support.played import Engine, app_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
Scenario = Callable[[Any, Any], Awaitable[None]]


@pytest.fixture
def pair(packed: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], Engine]:
    """Runs a scenario of two processes' lists."""
    need_vllm()
    from taskstore_serving.api import peers

    monkeypatch.setattr(peers, "PERIOD", 0.02)
    monkeypatch.setattr(peers, "_PAUSE", 0.01)

    def run(scenario: Scenario) -> Engine:
        engine, found = Engine(), []
        args = Namespace(model="folder", served_model_name=["base"], api_key=["key"])
        parallel = engine.vllm_config.parallel_config
        parallel._api_process_count = 2
        for parallel._api_process_rank in range(2):
            found.append(app_of(packed, engine, args, monkeypatch).state.taskstore)

        async def both() -> None:
            for one in found:
                one.change = asyncio.Lock()
            following = [asyncio.create_task(one.peers.follow(one)) for one in found]
            try:
                await asyncio.wait_for(scenario(*found), 30)
            finally:
                for task in following:
                    task.cancel()

        asyncio.run(both())
        return engine

    return run


async def until(seen: Callable[[], bool]) -> None:
    while not seen():
        await asyncio.sleep(0.005)


def test_a_task_that_one_adds_is_known_to_the_other_at_once(pair: Any) -> None:
    async def scenario(one: Any, other: Any) -> None:
        await one.add("gamma")
        await asyncio.sleep(0.02)
        await other.settled("gamma")  # as each request does
        assert other.resolve("gamma").requests["gamma"]
        with pytest.raises(Exception, match="is served already"):
            other.is_current = lambda task: True
            await other.add("gamma")

    engine = pair(scenario)
    assert engine.tasks == ["alpha", "beta", "gamma"]
    assert engine.holds.state()["owner"] == -1


def test_a_task_goes_when_no_process_has_requests_of_it(pair: Any) -> None:
    async def scenario(one: Any, other: Any) -> None:
        with other.running("alpha"):
            with pytest.raises(Exception, match="still run"):
                await one.remove("alpha", 0.05)
            assert "alpha" in one.tasks
            removal = asyncio.create_task(one.remove("alpha", 20))
            await until(lambda: "alpha" in other.replaced)  # which lets new requests wait
            late = asyncio.create_task(other.settled("alpha"))
            await asyncio.sleep(0.1)
            assert not removal.done() and not late.done()
        await removal
        await late
        with pytest.raises(Exception, match="does not exist"):
            other.resolve("alpha")

    assert pair(scenario).tasks == ["beta"]


def test_new_weights_are_those_of_all(pair: Any) -> None:
    async def scenario(one: Any, other: Any) -> None:
        before = other.tasks["alpha"].front.requests["alpha"]
        await one.add("alpha")  # the played digests are not those of the store
        await until(lambda: other.tasks["alpha"].digest == "new")
        after = other.tasks["alpha"].front.requests["alpha"]
        assert after.lora_path.endswith("/new") and before.lora_int_id != after.lora_int_id
        assert other.replaced == {}

    pair(scenario)


def test_changes_of_several_take_turns(pair: Any) -> None:
    async def scenario(one: Any, other: Any) -> None:
        removals = (one.remove("alpha", 20), other.remove("beta", 20), one.add("gamma"))
        await asyncio.gather(*removals)
        await until(lambda: one.tasks.keys() == other.tasks.keys() == {"gamma"})

    assert pair(scenario).tasks == ["gamma"]


def test_one_holds_at_a_time() -> None:
    holds = Holds()
    assert holds.take("a", 0) and not holds.take("b", 1) and not holds.take("b", 0)
    assert holds.idle("a", 1) and not holds.idle("b", 1)
    assert holds.state() == {"task": "a", "owner": 0, "idle": [0, 1]}
    assert not holds.free(1) and holds.free(0)
    assert holds.take("b", 1) and holds.state()["idle"] == [1]
