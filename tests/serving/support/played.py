"""Our routes on an engine that is played: no weights, and answers as a test wants them."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from taskstore_serving.engine.holds import Holds
from taskstore_serving.options import ServeOptions

FIDELITY = {"kind": "approximate", "grade": "B", "weight_error": 0.04, "projection": 1.0}


class Engine:
    """One worker. `refusals`: method -> what it refuses with."""

    def __init__(self) -> None:
        self.tasks = ["alpha", "beta"]
        self.holds = Holds()
        self.refusals: dict[str, str] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.digests: dict[str, str] = {}  # of tasks that were replaced
        self.swaps: list[dict[str, Any]] = []
        self.active: str | None = None
        self.said: dict[str, int] = {}  # settings of a task that the base has not
        self.errored, self.model_config = False, None
        self.output_processor = SimpleNamespace(request_states={})
        self.vllm_config = SimpleNamespace(
            parallel_config=SimpleNamespace(_api_process_count=1, _api_process_rank=0),
            load_config=SimpleNamespace(load_format="taskstore", model_loader_extra_config={}),
        )

    async def collective_rpc(self, name: str, args: Any = ()) -> list[Any]:
        if name == "taskstore_state":
            known = {"tier": "mask", "bytes": 1 << 20, "fidelity": FIDELITY, "scores": None}
            tasks = {t: {"digest": self.digests.get(t, f"d-{t}"), **known} for t in self.tasks}
            state = {"active": self.active, "swaps": 0, "swap_seconds": 0.0, "tasks": tasks}
            state["held"] = self.holds.state()
            return [{**state, "memory": {"live": 5 << 20}, "verified": True}]
        if name == "taskstore_activity":
            made = [swap for swap in self.swaps if swap["number"] > args[0]]
            return [{"active": self.active, "swaps": 7, "swap_seconds": 0.2, "swaps_made": made}]
        method, *rest = args
        if name == "taskstore_hold":
            return [getattr(self.holds, method)(*rest)]
        if method in self.refusals:
            return [{"result": None, "error": self.refusals[method]}]
        if method == "taskstore_add":
            self.tasks.append(*rest)
        self.calls.append((method, *rest))
        if method == "taskstore_replace":
            self.digests[rest[0]] = "new"
        if method == "taskstore_settle" and not rest[1]:
            self.digests.pop(rest[0], None)
        if method == "taskstore_remove":
            self.tasks.remove(*rest)
        proofs = [{"task": "alpha", "tensors": 1, "bytes": 2}]
        return [{"result": proofs if method == "taskstore_verify" else None, "error": ""}]


class Front:
    def __init__(self) -> None:
        self.requests: dict[str, Any] = {}
        self.template = "base"
        self.client = SimpleNamespace(model_config=SimpleNamespace(max_model_len=5))
        self.app = SimpleNamespace(state=SimpleNamespace(openai_serving_models=self))

    async def show_available_models(self) -> Any:
        from vllm.entrypoints.serve.engine.protocol import ModelCard

        return SimpleNamespace(data=[ModelCard(id=name) for name in self.requests])

    def close(self, owner: Any) -> None:
        pass


def app_of(store: Path, engine: Engine, args: Namespace, patch: pytest.MonkeyPatch) -> Any:
    """The app of a server of the store, with all of our routes and none of vLLM's."""
    from fastapi import FastAPI
    from prometheus_client import CollectorRegistry
    from taskstore_serving.api import tasks
    from taskstore_serving.checks.configs import check_config
    from taskstore_serving.endpoint import TaskstoreEndpoint
    from taskstore_serving.metrics import observer
    from taskstore_serving.metrics.instruments import Instruments

    async def build(*_: Any) -> Front:
        return Front()

    def install(client: Any, base: str) -> observer.Observer:
        return observer.Observer(client, base, Instruments(CollectorRegistry()))

    patch.setattr(tasks, "build", build)
    patch.setattr(tasks, "completed_config", lambda *_: {"a setting": 1})
    patch.setattr(tasks, "check_config", lambda task, *_: check_config(task, engine.said, {}))
    patch.setattr(observer, "install", install)
    engine.vllm_config.load_config.model_loader_extra_config = ServeOptions(str(store)).to_dict()
    app, plugin = FastAPI(), TaskstoreEndpoint()
    app.state.args = Namespace(api_key=None)
    plugin.attach_router(app)
    app.state.openai_serving_models = Front()
    asyncio.run(plugin.init_state(engine, app.state, args))
    return app
