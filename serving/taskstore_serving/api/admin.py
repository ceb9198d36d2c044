"""Our routes: below /v1, where vLLM's API key guards them, and /ready, which is open."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from taskstore.errors import TaskstoreError
from taskstore_serving.api.answers import WAIT, Refusal, unknown_model
from taskstore_serving.api.keys import keys
from taskstore_serving.api.tasks import Served
from taskstore_serving.weights.digests import task_digest

Route = Callable[[Request, Served], Awaitable[Response]]


def attach(app: FastAPI) -> None:
    """Add our routes before vLLM's, which replaces those of the same path."""
    routes = [
        ("GET", "/ready", ready),
        ("GET", "/v1/models", models),
        ("GET", "/v1/models/{name:path}", model),
        ("GET", "/v1/taskstore", overview),
        ("GET", "/v1/taskstore/activity", activity),
        ("GET", "/v1/taskstore/tasks", held),
        ("POST", "/v1/taskstore/verify", verify),
        ("POST", "/v1/taskstore/tasks/{name:path}", add),
        ("DELETE", "/v1/taskstore/tasks/{name:path}", remove),
        ("POST", "/v1/load_lora_adapter", load_adapter),
        ("POST", "/v1/unload_lora_adapter", unload_adapter),
        ("POST", "/scale_elastic_ep", scale),
    ]
    own = len(app.router.routes)
    for method, path, route in routes:
        answer = _answering(route, guarded=method != "GET")
        app.add_api_route(path, answer, methods=[method], tags=["taskstore"])
    app.router.routes[:] = app.router.routes[own:] + app.router.routes[:own]


def _answering(route: Route, guarded: bool) -> Callable[[Request], Awaitable[Response]]:
    """Refuse a guarded route, one that changes or stalls the engine, where anybody may call it."""

    @functools.wraps(route)
    async def answer(request: Request) -> Response:
        served = request.app.state.taskstore
        try:
            if guarded and not keys(served.args):
                text = "This route needs a server with an API key; start it with --api-key"
                raise Refusal(403, text)
            return await route(request, served)
        except TaskstoreError as error:
            refusal = error if isinstance(error, Refusal) else Refusal(400, str(error))
            return JSONResponse(refusal.body(), refusal.status)

    answer.__annotations__ = {"request": Request, "return": Response}
    del answer.__wrapped__
    return answer


async def ready(_: Request, served: Served) -> Response:
    if served.engine.errored:
        raise Refusal(503, "The engine has stopped")
    if not served.verified:
        raise Refusal(503, "The weights are not verified")
    return JSONResponse({"ready": True, "tasks": len(served.tasks)})


async def models(_: Request, served: Served) -> Response:
    return JSONResponse({"object": "list", "data": await _cards(served)})


async def model(request: Request, served: Served) -> Response:
    cards = {card["id"]: card for card in await _cards(served)}
    name = served.named(request.path_params["name"])
    if name not in cards:
        raise unknown_model(name, cards)
    return JSONResponse(cards[name])


async def _cards(served: Served) -> list[dict[str, Any]]:
    """vLLM's cards of the base and of the tasks, and of each task what is served of it."""
    base = served.app.state.openai_serving_models
    cards = [card.model_dump() for card in (await base.show_available_models()).data]
    for front in served.fronts.values():
        found = await front.app.state.openai_serving_models.show_available_models()
        for card in found.data:
            if task := served.tasks.get(card.id):
                known = {"store": task.store, "task": task.digest, **task.kept}
                whose = {**known, "chat_template": front.template}
                length = {"max_model_len": front.client.model_config.max_model_len}
                cards.append({**card.model_dump(), **length, "taskstore": whose})
    return cards


async def overview(_: Request, served: Served) -> Response:
    state = await served.state()
    known = {
        "store": served.options.store,
        "base": served.names[0],
        "default_task": served.default,
        "changeable": bool(keys(served.args)),
    }
    return JSONResponse({**state, **known, "verified": state["verified"] and served.verified})


async def activity(request: Request, served: Served) -> Response:
    """Requests and swaps as they happen, for who asks again and again (`metrics.activity`)."""
    after = request.query_params.get("after", "0")
    if not (after.isdecimal() and len(after) < 16):
        raise Refusal(400, f"after={after[:40]!r} is no number of an event", "after")
    again = {"Connection": "close"} if served.peers.count > 1 else {}  # the next may be another's
    return JSONResponse(await served.observer.activity(int(after)), headers=again)


async def held(_: Request, served: Served) -> Response:
    """The tasks of the store as it is on disk now, and which are served as it holds them."""
    return JSONResponse({"tasks": await asyncio.to_thread(_held, served)})


def _held(served: Served) -> list[dict[str, Any]]:
    store, tasks = served.store, dict(served.tasks)
    try:
        now = {
            name: task_digest(store.manifest, name, served.options.residual) for name in store.tasks
        }
    finally:
        store.close()
    return [
        {
            "task": name,
            "served": name in tasks,
            "current": name in tasks and tasks[name].digest == d,
        }
        for name, d in now.items()
    ]


async def verify(request: Request, served: Served) -> Response:
    body = await _object(request)
    task = body.get("task")
    if task is not None and not isinstance(task, str):
        raise Refusal(400, "`task` is the name of a model, or null for all", "task")
    return JSONResponse({"verified": await served.verify(task)})


async def add(request: Request, served: Served) -> Response:
    name = request.path_params["name"]
    await served.add(name)
    return JSONResponse({"task": name, "served": True}, 201)


async def remove(request: Request, served: Served) -> Response:
    name = request.path_params["name"]
    await served.remove(name, _wait(request))
    return JSONResponse({"task": name, "served": False})


async def load_adapter(request: Request, served: Served) -> Response:
    """Serve a task by vLLM's own route; `lora_path` is ignored, the task is the store's."""
    body = await _object(request)
    name = _adapter(body)
    if not isinstance(body.get("lora_path"), str) or not body["lora_path"]:
        raise Refusal(400, "Both 'lora_name' and 'lora_path' must be provided.")
    inplace = body.get("load_inplace") is True
    if inplace and name in served.tasks and served.is_current(name):
        await served.remove(name, WAIT)
    if (name in served.tasks and not inplace) or name in served.names:
        raise Refusal(400, f"The lora adapter '{name}' has already been loaded.", "lora_name")
    await served.add(name)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")


async def unload_adapter(request: Request, served: Served) -> Response:
    name = _adapter(await _object(request))
    if name not in served.tasks:
        raise Refusal(404, f"The lora adapter '{name}' cannot be found.", "lora_name")
    await served.remove(name, WAIT)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


async def scale(*_: Any) -> Response:
    raise Refusal(400, "This server has one engine, which does not scale")


def _adapter(body: dict[str, Any]) -> str:
    name = body.get("lora_name")
    if not isinstance(name, str) or not name:
        raise Refusal(400, "'lora_name' needs to be provided, a task of the store.", "lora_name")
    return name


def _wait(request: Request) -> float:
    given = request.query_params.get("wait", str(WAIT))
    try:
        wait = float(given)
    except ValueError:
        wait = -1
    if not 0 <= wait <= 3600:
        raise Refusal(400, f"wait={given!r} is no number of seconds up to 3600", "wait")
    return wait


async def _object(request: Request) -> dict[str, Any]:
    try:
        found = await request.json()
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refusal(400, "The body is no JSON object")
    return found
