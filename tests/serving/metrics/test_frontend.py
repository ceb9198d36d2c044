"""What vLLM's frontend tells of requests, whichever way they come and go."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.serving.metrics.test_dashboard import expressions, names
from tests.serving.support.engines import FAMILY, need_vllm
from tests.serving.support.loggers import fresh_loggers
from tests.serving.support.scripted import Core, Server

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def configuration() -> Any:
    need_vllm()
    from vllm import AsyncEngineArgs

    base = str(FAMILY / "base")
    return AsyncEngineArgs(base, enforce_eager=True, max_model_len=128).create_engine_config()


@pytest.fixture
def serve(configuration: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Runs a scenario, and gives what its metrics changed by."""
    from prometheus_client import REGISTRY
    from taskstore_serving.metrics import observer
    from vllm.v1.engine import async_llm

    monkeypatch.setattr(async_llm.EngineCoreClient, "make_async_mp_client", Core)

    def samples() -> dict[tuple[str, ...], float]:
        return {
            (s.name.removeprefix("taskstore_"), *s.labels.values()): s.value
            for family in REGISTRY.collect()
            for s in family.samples
            if s.name.startswith("taskstore_") and "le" not in s.labels
        }

    async def run(scenario: Callable[[Server], Awaitable[None]]) -> dict[tuple[str, ...], float]:
        engine = async_llm.AsyncLLM.from_vllm_config(configuration)
        engine.input_processor.lora_config = SimpleNamespace(enable_tower_connector_lora=True)
        installed = observer.install(engine, "base")
        before = samples()
        await asyncio.wait_for(scenario(Server(engine)), 60)
        after = samples()
        installed.close()
        engine.shutdown()
        return {
            name: value - before.get(name, 0)
            for name, value in after.items()
            if value != before.get(name, 0) and not name[0].endswith("_created")
        }

    with fresh_loggers("taskstore", "taskstore.serving"):
        yield lambda scenario: asyncio.run(run(scenario))


def counts(changed: dict[tuple[str, ...], float]) -> dict[str, float]:
    """Requests by outcome, of German."""
    return {name[2]: n for name, n in changed.items() if name[:2] == ("requests_total", "german")}


def test_a_request_is_told_with_its_task_tokens_and_times(
    serve: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    async def scenario(server: Server) -> None:
        asked, plain = server.ask("cmpl-7"), server.ask("cmpl-8", task=None, max_tokens=1)
        await server.core.say(0, [11])
        await server.core.say(0, [12, 13])
        await server.core.say(0, [14], "length")
        await server.core.say(1, [11], "length")
        assert len((await asked).outputs[0].token_ids) == 4
        await plain

    changed = serve(scenario)
    assert changed[("requests_total", "german", "length")] == 1
    assert changed[("requests_total", "base", "length")] == 1
    assert changed[("prompt_tokens_total", "german")] == 5
    assert changed[("cached_prompt_tokens_total", "german")] == 3
    assert changed[("generation_tokens_total", "german")] == 4
    assert changed[("generation_tokens_total", "base")] == 1
    assert changed[("queue_seconds_sum", "german")] == 2
    assert changed[("time_to_first_token_seconds_count", "german")] == 1
    assert changed[("inter_token_seconds_count", "german")] == 1
    assert ("requests_running", "german") not in changed  # up and down again
    assert changed[("swaps_total",)] == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if "german: request" in line]
    assert len(lines) == 1
    assert "'cmpl-7' length; tokens: 5 prompt, 3 cached, 4 generated; seconds: 2.000 q" in lines[0]


def test_every_way_to_end(serve: Any) -> None:
    async def scenario(server: Server) -> None:
        stopped = server.ask("stops")
        await server.core.say(0, [11], "stop")
        several = server.ask("several", n=2)  # one request
        await server.core.say(1, [11], "stop")
        await server.core.say(2, [11], "length")
        found = server.ask("finds its stop string", stop="4", max_tokens=9)
        four = server.engine.get_tokenizer().encode("4", add_special_tokens=False)
        await server.core.say(3, four)
        gone = server.ask("client goes")
        await server.core.say(4, [11])
        turned_off = server.ask("operator aborts", n=2)
        await server.core.request(6)
        embedded = server.embed("embeds", "german")
        import torch

        await server.core.say(7, [], "stop", pooling_output=torch.zeros(3))
        await asyncio.gather(stopped, several, found, embedded)
        gone.cancel()
        await server.engine.abort("operator aborts")
        await asyncio.gather(turned_off, gone, return_exceptions=True)

    changed = serve(scenario)
    assert counts(changed) == {"stop": 3, "length": 1, "abort": 2}
    assert changed[("generation_tokens_total", "german")] == 5
    assert changed[("prompt_tokens_total", "german")] == 23
    assert changed[("time_to_first_token_seconds_count", "german")] == 4  # no embedding's
    assert ("requests_running", "german") not in changed


def test_an_input_that_is_streamed_is_one_request(serve: Any) -> None:
    async def scenario(server: Server) -> None:
        from vllm import SamplingParams
        from vllm.engine.protocol import StreamingInput
        from vllm.sampling_params import RequestOutputKind

        more = asyncio.Event()

        async def parts() -> Any:
            yield StreamingInput({"prompt_token_ids": [5, 6, 7]})
            await more.wait()

        async def run() -> None:
            params = SamplingParams(max_tokens=9, output_kind=RequestOutputKind.DELTA)
            async for _ in server.engine.generate(parts(), params, "streamed"):
                more.set()

        asked = asyncio.create_task(run())
        await server.core.say(0, [11, 12], "stop")  # of what came so far
        await asked

    changed = serve(scenario)
    assert changed[("requests_total", "base", "stop")] == 1
    assert changed[("generation_tokens_total", "base")] == 2
    assert ("requests_running", "base") not in changed


def test_they_are_where_vllm_shows_its_own_and_a_dashboard_looks(serve: Any) -> None:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient
    from vllm.entrypoints.serve.instrumentator.metrics import attach_router

    async def scenario(server: Server) -> None:
        asked = server.ask("a")
        await server.core.say(0, [11], "stop")
        await asked
        attach_router(app := FastAPI())
        lines.extend(TestClient(app).get("/metrics").text.splitlines())

    lines: list[str] = []
    serve(scenario)
    shown = {line.split("{")[0].split(" ")[0] for line in lines}
    assert set().union(*map(names, expressions())) <= shown
    assert any(line.startswith('taskstore_resident_bytes{use="live"} 7') for line in lines)


def test_an_observer_that_fails_fails_alone(
    serve: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from taskstore_serving.metrics import observer

    def fails(*_: Any) -> None:
        raise ZeroDivisionError

    async def scenario(server: Server) -> None:
        asked = [server.ask("a"), server.ask("b")]
        await server.core.say(0, [11], "stop")
        await server.core.say(1, [11], "stop")
        assert [out.finished for out in await asyncio.gather(*asked)] == [True, True]

    monkeypatch.setattr(observer.Observer, "ended", fails)
    assert counts(serve(scenario)) == {}
    assert capfd.readouterr().err.count("a request is missing in the metrics") == 2


def test_a_copy_of_the_client_is_observed_and_asks_its_own_parts(serve: Any) -> None:
    async def scenario(server: Server) -> None:
        other = copy.copy(server.engine)
        other.input_processor = copy.copy(other.input_processor)
        other.output_processor = copy.copy(other.output_processor)
        other.output_processor.tokenizer = copy.copy(other.output_processor.tokenizer)
        used, process = [], other.input_processor.process_inputs_async

        def own(*inputs: Any, **more: Any) -> Any:
            used.append(inputs)
            return process(*inputs, **more)

        other.input_processor.process_inputs_async = own
        asked = server.ask("a", client=other)
        await server.core.say(0, [11], "stop")
        await asked
        assert used

    assert counts(serve(scenario)) == {"stop": 1}


def test_a_server_that_is_too_busy_and_a_request_that_is_wrong(serve: Any) -> None:
    async def scenario(server: Server) -> None:
        server.engine.scheduler_config.max_num_queued_reqs = 1
        first = server.ask("first")
        await server.core.request(0)
        refused = await asyncio.gather(server.ask("second"), return_exceptions=True)
        assert type(refused[0]).__name__ == "QueueOverflowError"
        await server.core.say(0, [11], "stop")
        await first
        server.engine.scheduler_config.max_num_queued_reqs = None
        wrong = await asyncio.gather(server.ask("third", logprobs=9999), return_exceptions=True)
        assert type(wrong[0]).__name__ == "VLLMValidationError"

    assert counts(serve(scenario)) == {"stop": 1, "error": 1}


def test_an_engine_that_dies(serve: Any) -> None:
    async def scenario(server: Server) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        asked = [server.ask("a"), server.ask("b", n=2)]
        await server.core.request(2)
        server.core.resources.engine_dead = True
        server.core.outputs.put_nowait(EngineDeadError())
        late = await asyncio.gather(*asked, return_exceptions=True)
        late += await asyncio.gather(server.ask("late"), return_exceptions=True)
        assert [type(error) for error in late] == [EngineDeadError] * 3

    changed = serve(scenario)
    assert counts(changed) == {"error": 3}
    assert ("requests_running", "german") not in changed
