"""ASGI middleware that sends a request to its task's front, by `model` in the body.

It runs after vLLM's own middleware, so a request has passed the API key when it comes here. Bodies
of all routes, types and methods are read here, up to the limit. No
route is rewritten: `request.app` becomes the app of the task's front, and vLLM's route goes on.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from taskstore_serving.api.answers import Refusal
from taskstore_serving.api.body import (
    LIMIT,
    PATIENCE,
    Message,
    Receive,
    Send,
    answer,
    header,
    read,
)

OWN = ("/v1/taskstore", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")


class _Named(msgspec.Struct):
    model: Any = None


_NAMED = msgspec.json.Decoder(_Named)


class Dispatch:
    """The middleware; `app.state.taskstore` is a `Served`, or offers as much."""

    def __init__(self, app: Any, limit: int = LIMIT, patience: float = PATIENCE) -> None:
        self.app, self._limit, self._patience = app, limit, patience

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            body = await read(scope, receive, self._limit, self._patience)
            if body is None:
                return
            served, name, front = scope["app"].state.taskstore, None, None
            if _may_name_model(scope):
                name = model_of(body)
                if name in (None, "") and served.default and not _is_own(scope):
                    name, body = served.default, with_model(body, served.default)
                    _set_length(scope, len(body))
                if isinstance(name, str) and (own := served.named(name)) != name:
                    name, body = own, with_model(body, own)
                    _set_length(scope, len(body))
                if isinstance(name, str) and name:
                    await served.settled(name)
                    front = served.resolve(name)
        except Refusal as refusal:
            await answer(send, refusal, receive)
            return
        if front is None:
            await self.app(scope, _replay(body, receive), send)
            return
        scope["app"] = front.app
        with served.running(name):
            await self.app(scope, _replay(body, receive), send)


def model_of(body: bytes) -> Any:
    """Read `model` of a JSON object; None without one, or where vLLM will say what is wrong.

    Raises Refusal for what vLLM answers in another format than OpenAI's.
    """
    try:
        return _NAMED.decode(body).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:  # Python takes more than the standard: NaN, lone surrogates
        found = json.loads(body)
    except UnicodeDecodeError:
        raise Refusal(400, "The body is no UTF-8 text") from None
    except RecursionError:
        raise Refusal(400, "The body is nested too deeply") from None
    except ValueError:
        return None
    return found.get("model") if isinstance(found, dict) else None


def with_model(body: bytes, name: str) -> bytes:
    """Set `model` in a JSON object; anything else is returned as it is."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return body
    return json.dumps({**found, "model": name}).encode() if isinstance(found, dict) else body


def _replay(body: bytes, receive: Receive) -> Receive:
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def once_then_live() -> Message:
        return pending.pop() if pending else await receive()

    return once_then_live


def _may_name_model(scope: Message) -> bool:
    """Whether the body may name a model: all of vLLM's are JSON, but for forms, which upload."""
    form = header(scope, b"content-type").startswith(b"multipart/")
    return scope["method"] == "POST" and (not form or _is_own(scope))


def _is_own(scope: Message) -> bool:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path.startswith(OWN)


def _set_length(scope: Message, size: int) -> None:
    others = [(key, value) for key, value in scope["headers"] if key != b"content-length"]
    scope["headers"] = [*others, (b"content-length", b"%d" % size)]
