"""vLLM's own frontend over an engine that says what a test tells it to say."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

STATE: dict[str, Any] = {
    "active": None,
    "swaps": 2,
    "swap_seconds": 0.5,
    "tasks": {
        "german": {"bytes": 1, "tier": "mask", "fidelity": {"kind": "approximate", "grade": "C"}}
    },
    "memory": {"live": 7},
    "verified": True,
}


class Core:
    """In the place of the engine's process, to which a frontend talks through this."""

    client_index, engine_ranks_managed = 0, (0,)

    def __init__(self, **_: Any) -> None:
        self.requests: list[Any] = []
        self.outputs: asyncio.Queue[Any] = asyncio.Queue()
        self.resources = SimpleNamespace(engine_dead=False)

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        return ("generate", "embed")

    async def add_request_async(self, request: Any) -> None:
        self.requests.append(request)

    async def abort_requests_async(self, _: list[str]) -> None: ...

    async def collective_rpc_async(self, method: str, *_: Any) -> list[dict[str, Any]]:
        assert method == "taskstore_state"
        return [STATE]

    async def get_output_async(self) -> Any:
        said = await self.outputs.get()
        if isinstance(said, Exception):
            raise said
        return said

    def shutdown(self, timeout: float | None = None) -> None: ...

    async def request(self, i: int) -> Any:
        """The i-th that came, as soon as it is there."""
        async with asyncio.timeout(60):
            while len(self.requests) <= i:
                await asyncio.sleep(0.001)
        return self.requests[i]

    async def say(self, i: int, tokens: list[int], end: str | None = None, **more: Any) -> None:
        """A step's output for the i-th request; its first says that it waited for 2 s."""
        from vllm.v1.engine import EngineCoreEvent as Event
        from vllm.v1.engine import EngineCoreEventType as Kind
        from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
        from vllm.v1.metrics.stats import PrefillStats

        request = await self.request(i)
        prefill, events = PrefillStats(), [Event(Kind.QUEUED, 10.0), Event(Kind.SCHEDULED, 12.0)]
        prefill.set(5, 3, 0)
        reason = FinishReason[end.upper()] if end else None
        output = EngineCoreOutput(
            request.request_id,
            tokens,
            finish_reason=reason,
            events=events,
            prefill_stats=prefill,
            **more,
        )
        self.outputs.put_nowait(EngineCoreOutputs(outputs=[output]))


class Server:
    def __init__(self, engine: Any) -> None:
        self.engine, self.core = engine, engine.engine_core

    def ask(self, id: str, task: str | None = "german", client: Any = None, **how: Any) -> Any:
        """A request in the background."""
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        lora = task and LoRARequest(task, 1, "taskstore://a/b")
        prompt = {"prompt_token_ids": [5, 6, 7, 8, 9]}

        async def run() -> Any:
            client_ = client or self.engine
            params = SamplingParams(**{"max_tokens": 50, **how})
            async for out in client_.generate(prompt, params, id, lora_request=lora):
                last = out
            return last

        return asyncio.create_task(run())

    def embed(self, id: str, task: str) -> Any:
        from vllm import PoolingParams
        from vllm.lora.request import LoRARequest

        lora, prompt = LoRARequest(task, 1, "taskstore://a/b"), {"prompt_token_ids": [5, 6, 7]}

        async def run() -> None:
            params = PoolingParams(task="embed")
            async for _ in self.engine.encode(prompt, params, id, lora_request=lora):
                pass

        return asyncio.create_task(run())
