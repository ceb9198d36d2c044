"""The page at /ui on an app that answers over HTTP, its engine played."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request
from fastapi.responses import StreamingResponse
from taskstore_serving.weights.digests import task_digest

import taskstore
from tests.serving.support.played import Engine, app_of
from tests.support import families
from tests.support.families import Family

KEY = "the key"
HOSTILE = "a<b&\"c'<img src=x onerror=alert(1)>"
LONG = "a-name-without-an-end-" * 5
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>&lt;b>"


def make_store(root: Path, count: int) -> Path:
    """A store of many small tasks; two have names that are hard to show."""
    shapes = {"layers.0.attn.weight": (9, 8), "norm.weight": (8,)}
    base = families.random_state(0, shapes=shapes)
    names = [HOSTILE, LONG, *(f"task-{i}" for i in range(count - 2))]
    made = Family(root, base, {f"t{i}": families.tuned(base, i) for i in range(count)})
    paths = dict(zip(names, made.paths.values(), strict=True))
    taskstore.pack(made.base_path, paths, root / "store", families.options())
    return root / "store"


@dataclass
class Played:
    """A server, and what it says: pieces of the answer by model."""

    url: str
    engine: Engine
    app: Any
    pieces: dict[str, list[str]] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    pause: float = 0.0

    def swap(self, before: str | None, task: str | None) -> None:
        number, self.engine.active = len(self.engine.swaps) + 1, task
        made = {"kind": "swap", "number": number, "time": time.time(), "seconds": 0.004}
        self.engine.swaps.append({**made, "before": before, "task": task})


def _answer(played: Played) -> Any:
    async def chat(request: Request) -> StreamingResponse:
        body = await request.json()
        played.asked.append(body)
        name, number = body["model"], str(len(played.asked))
        observer = played.app.state.taskstore.observer
        state = SimpleNamespace(
            request_id=number,
            external_req_id=f"chat-{number}",
            parent_req=None,
            lora_name=None if name == "base" else name,
            is_prefilling=False,
            prompt_len=7,
            num_cached_tokens=0,
            stats=None,
            detokenizer=None,
        )

        async def lines() -> Any:
            observer.started(state, time.time())
            pieces = played.pieces.get(name, ["hello ", name])
            for piece in pieces:
                said = {"choices": [{"delta": {"content": piece}, "finish_reason": None}]}
                yield f"data: {json.dumps(said)}\n\n"
                await asyncio.sleep(played.pause)
            yield 'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
            yield f'data: {{"choices": [], "usage": {{"completion_tokens": {len(pieces)}}}}}\n\n'
            yield "data: [DONE]\n\n"
            observer.ended(number, "stop")

        return StreamingResponse(lines(), media_type="text/event-stream")

    return chat


@contextmanager
def served(store: Path, key: str | None = KEY) -> Iterator[Played]:
    """All tasks of a store but the last, behind a key as vLLM asks for it."""
    import uvicorn
    from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

    opened = taskstore.open(store)
    names = list(opened.tasks)
    engine = Engine()
    engine.tasks = names[:-1]
    engine.digests = {name: task_digest(opened.manifest, name, 0) for name in names}
    opened.close()
    args = Namespace(model="folder", served_model_name=["base"], api_key=key and [key])
    with pytest.MonkeyPatch.context() as patch:
        app = app_of(store, engine, args, patch)
        played = Played("", engine, app)
        app.add_api_route("/v1/chat/completions", _answer(played), methods=["POST"])
        if key:
            app.add_middleware(AuthenticationMiddleware, tokens=[key])
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        played.url = f"http://127.0.0.1:{port}"
        yield played
        server.should_exit = True
        thread.join(10)
