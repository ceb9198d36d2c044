"""The middleware: whose request it is, what is replayed, what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from taskstore_serving.api.answers import Refusal, unknown_model
from taskstore_serving.api.dispatch import Dispatch, model_of, with_model

FRONT = SimpleNamespace(app="the front's app")


class Served:
    """Knows the base `base` and the task `german`."""

    default = ""

    def __init__(self) -> None:
        self.now: list[str] = []

    def named(self, name: str) -> str:
        return {"org/model": "german"}.get(name, name)

    async def settled(self, name: str) -> None:
        pass

    def resolve(self, name: str) -> Any:
        if name not in ("base", "german"):
            raise unknown_model(name, ["base", "german"])
        return FRONT if name == "german" else None

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        self.now.append(name)
        yield
        self.now.remove(name)


class Inner:
    """The application behind: reads the body, notes what it saw."""

    def __init__(self) -> None:
        self.body, self.app, self.length, self.running = b"", None, b"", [""]
        self.after: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            self.body += message["body"]
            more = message.get("more_body", False)
        self.app, self.after = scope["app"], await receive()
        self.running = list(scope["served"].now)
        self.length = dict(scope["headers"]).get(b"content-length", b"")
        await send({"type": "http.response.start", "status": 200, "headers": []})


def call(
    body: bytes,
    path: str = "/v1/completions",
    served: Any = None,
    headers: Any = (),
    limit: int = 1000,
    pieces: int = 1,
    **changes: Any,
) -> tuple[int, Any, Inner]:
    """Status, error and what the application saw."""
    served, inner, sent = served or Served(), Inner(), []
    step = max(1, -(-len(body) // pieces))
    parts = [body[at : at + step] for at in range(0, len(body), step)] or [b""]
    messages = [
        {"type": "http.request", "body": part, "more_body": at < len(parts) - 1}
        for at, part in enumerate(parts)
    ]
    messages.append({"type": "http.disconnect"})

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    home = SimpleNamespace(state=SimpleNamespace(taskstore=served))
    scope = {"type": "http", "method": "POST", "path": path, "app": home, "served": served}
    asyncio.run(
        Dispatch(inner, limit)({**scope, "headers": list(headers), **changes}, receive, send)
    )
    error = json.loads(sent[1]["body"])["error"] if len(sent) > 1 else None
    return (sent[0]["status"] if sent else 0), error, inner


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_task_gets_its_front_and_the_very_same_body(pieces: int) -> None:
    body = json.dumps({"prompt": "x" * 50, "model": "german"}).encode()
    served = Served()
    status, _, inner = call(body, served=served, pieces=pieces)
    assert (status, inner.body, inner.app) == (200, body, FRONT.app)
    assert inner.after == {"type": "http.disconnect"}  # a client that leaves is still seen
    assert inner.running == ["german"]
    assert served.now == []


@pytest.mark.parametrize(
    "body", [b'{"model": "base"}', b'{"model": null}', b"{}", b"", b"{", b"[1]", b'{"model": 5}']
)
def test_all_else_is_left_to_vllm(body: bytes) -> None:
    status, _, inner = call(body)
    assert (status, inner.body) == (200, body)
    assert inner.app is not FRONT.app


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "GET"},
        {"headers": [(b"content-type", b"multipart/form-data; boundary=x")]},
        {"type": "websocket"},
    ],
)
def test_what_names_no_model_in_json_passes(changes: Any) -> None:
    status, _, inner = call(b'{"model": "nobody"}', **changes)
    assert (status, inner.body) == (200, b'{"model": "nobody"}')
    assert inner.app is not FRONT.app


def test_unknown_names_are_404_with_the_nearest_first() -> None:
    status, error, inner = call(b'{"model": "germn"}')
    assert (status, error["code"], error["param"], inner.body) == (404, 404, "model", b"")
    assert error["message"] == "The model `germn` does not exist; there are german, base"
    _, error, _ = call(json.dumps({"model": "x" * 500}).encode())
    assert len(error["message"]) < 200


@pytest.mark.parametrize("changes", [{}, {"method": "GET"}, {"method": "DELETE"}])
@pytest.mark.parametrize("kind", [b"application/json", b"multipart/form-data; boundary=x"])
def test_large_bodies_are_413(changes: Any, kind: bytes) -> None:
    headers = [(b"content-type", kind)]
    status, error, inner = call(b"x" * 1001, headers=headers, pieces=5, **changes)
    assert (status, error["type"], inner.body) == (413, "RequestTooLargeError", b"")
    assert call(b" " * 1000, headers=headers, pieces=5, **changes)[0] == 200


def test_a_client_that_leaves_early_is_nobodys_request() -> None:
    status, _, inner = call(b"", pieces=1)
    assert status == 200
    inner = Inner()

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    asyncio.run(Dispatch(inner)(scope, gone, lambda _: gone()))
    assert inner.app is None


def test_requests_without_a_name_go_to_the_default() -> None:
    served = Served()
    served.default = "german"
    for body in (b'{"n": 1}', b'{"n": 1, "model": null}', b'{"n": 1, "model": ""}'):
        headers = [(b"content-length", b"%d" % len(body))]
        _, _, inner = call(body, served=served, headers=headers)
        assert json.loads(inner.body) == {"n": 1, "model": "german"}
        assert inner.length == b"%d" % len(inner.body)
        assert inner.app == FRONT.app
    for path in ("/v1/taskstore/verify", "/v1/load_lora_adapter", "/p/v1/taskstore/verify"):
        _, _, inner = call(b"{}", path, served, root_path="/p" if path[1] == "p" else "")
        assert inner.body == b"{}"


def test_an_id_at_the_hub_becomes_the_name_that_vllm_knows() -> None:
    body = b'{"model": "org/model", "n": 1}'
    status, _, inner = call(body, headers=[(b"content-length", b"%d" % len(body))])
    assert (status, json.loads(inner.body)) == (200, {"model": "german", "n": 1})
    assert (inner.app, inner.length) == (FRONT.app, b"%d" % len(inner.body))
    assert call(b'{"model": "org/other"}')[0] == 404


def test_the_name_is_read_as_python_reads_it() -> None:
    assert model_of(b'{"mod\\u0065l": "a", "model": "b"}') == "b"
    assert model_of(b'{"x": NaN, "model": "a"}') == "a"
    assert model_of(b'{"x": "\\ud800", "model": "a"}') == "a"
    assert model_of(b'{"x": {"model": "inner"}}') is None
    assert json.loads(with_model(b'{"model": "a"}', "b")) == {"model": "b"}
    assert with_model(b"[1]", "b") == b"[1]"
    for body, why in ((b"\xff{}", "UTF-8"), (b'{"x": ' + b"[" * 200_000, "nested")):
        with pytest.raises(Refusal, match=why) as caught:
            model_of(body)
        assert caught.value.status == 400
