"""ASGI middleware that sends a request to its task's front, by `model` in the body.

It runs after vLLM's own middleware, so a request has passed the API key when it comes here. No
route is rewritten: `request.app` becomes the app of the task's front, and vLLM's route goes on.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from taskstore_serving.api.answers import Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_LIMIT = 64 << 20
OWN = ("/v1/taskstore", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")


class _Named(msgspec.Struct):
    model: Any = None


_NAMED = msgspec.json.Decoder(_Named)


class Dispatch:
    """The middleware. It uses `default`, `resolve` and `running` of `app.state.taskstore`."""

    def __init__(self, app: Any, limit: int = BODY_LIMIT) -> None:
        self.app, self._limit = app, limit

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if not _has_model(scope):
            await self.app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
            if body is None:
                return
            served = scope["app"].state.taskstore
            name = model_of(body)
            if name in (None, "") and served.default and not _is_own(scope):
                name, body = served.default, with_model(body, served.default)
                _set_length(scope, len(body))
            front = served.resolve(name) if isinstance(name, str) and name else None
        except Refusal as refusal:
            await answer(send, refusal)
            return
        if front is None:
            await self.app(scope, _replay(body, receive), send)
            return
        scope["app"] = front.app
        with served.running(name):
            await self.app(scope, _replay(body, receive), send)

    async def _read(self, scope: Message, receive: Receive) -> bytes | None:
        """Read the whole body; None where the client left before its end."""
        length = _header(scope, b"content-length")
        if length.isdigit() and int(length) > self._limit:
            raise self._too_large()
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._limit:
                raise self._too_large()
            more = message.get("more_body", False)
        return b"".join(parts)

    def _too_large(self) -> Refusal:
        return Refusal(413, f"The body is larger than {self._limit >> 20} MiB, which is the limit")


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


async def answer(send: Send, refusal: Refusal) -> None:
    raw = refusal.raw()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(raw))]
    if refusal.status == 413:
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    start = {"type": "http.response.start", "status": refusal.status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": raw})


def _replay(body: bytes, receive: Receive) -> Receive:
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def once_then_live() -> Message:
        return pending.pop() if pending else await receive()

    return once_then_live


def _has_model(scope: Message) -> bool:
    """Whether the body may name a model: all of vLLM's are JSON, but for forms, which upload."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    return not _header(scope, b"content-type").startswith(b"multipart/")


def _is_own(scope: Message) -> bool:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path.startswith(OWN)


def _header(scope: Message, name: bytes) -> bytes:
    return next((value.lower() for key, value in scope["headers"] if key == name), b"")


def _set_length(scope: Message, size: int) -> None:
    others = [(key, value) for key, value in scope["headers"] if key != b"content-length"]
    scope["headers"] = [*others, (b"content-length", b"%d" % size)]
