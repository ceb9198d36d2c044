"""Bodies: read whole, counted while they come, refused in time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from taskstore_serving.api import body as bodies
from taskstore_serving.api.answers import Refusal, http_error
from taskstore_serving.api.body import answer, read


class Client:
    """Sends pieces of a body; then says nothing more, or leaves."""

    def __init__(
        self, pieces: Sequence[bytes], *, whole: bool = True, leaves: bool = False
    ) -> None:
        self.pieces, self.whole, self.leaves, self.taken = list(pieces), whole, leaves, 0
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        if not self.pieces:
            if self.leaves:
                return {"type": "http.disconnect"}
            await asyncio.Event().wait()
        piece = self.pieces.pop(0)
        self.taken += len(piece)
        more = bool(self.pieces) or not self.whole
        return {"type": "http.request", "body": piece, "more_body": more}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


def taken(client: Client, *headers: tuple[bytes, bytes], limit: int = 1000) -> Any:
    return asyncio.run(read({"headers": list(headers)}, client.receive, limit, 0.05))


@pytest.mark.parametrize("kind", [b"application/json", b"multipart/form-data; boundary=b", b""])
def test_a_body_is_counted_whatever_its_type_and_declared_length(kind: bytes) -> None:
    of_kind = (b"content-type", kind)
    assert taken(Client([b"x" * 600, b"x" * 400]), of_kind) == b"x" * 1000
    for length in ((), ((b"content-length", b"5"),), ((b"content-length", b"x"),)):
        client = Client([b"x" * 600] * 50)
        with pytest.raises(Refusal, match="larger than") as caught:
            taken(client, of_kind, *length)
        assert caught.value.status == 413
        assert client.taken == 1200  # no further piece was asked for
    for told in (b"1001", b"9" * 5000):
        client = Client([])
        with pytest.raises(Refusal, match="larger than"):
            taken(client, of_kind, (b"content-length", told))


def test_a_body_that_never_comes_is_408() -> None:
    for pieces in ([], [b"x"]):
        with pytest.raises(Refusal, match="did not come in time") as caught:
            taken(Client(pieces, whole=False))
        assert caught.value.status == 408
    assert taken(Client([b"x"], whole=False, leaves=True)) is None


def test_a_body_that_drips_is_408_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_LONGEST", 0.01)
    with pytest.raises(Refusal, match="did not come in time"):
        taken(Client([], whole=False))


def test_encodings_that_nothing_decodes_are_415() -> None:
    for coding in (b"gzip", b"br, gzip", b"\xff"):
        with pytest.raises(Refusal, match="send it plain") as caught:
            taken(Client([b"x"]), (b"content-encoding", coding))
        assert caught.value.status == 415
    assert taken(Client([b"x"]), (b"content-encoding", b"identity")) == b"x"


def test_what_still_comes_is_thrown_away_before_the_connection_is_closed() -> None:
    client = Client([b"x" * 100] * 5, whole=False, leaves=True)
    asyncio.run(answer(client.send, Refusal(413, "too large"), client.receive))
    start, first, last = client.sent
    assert (start["status"], dict(start["headers"])[b"connection"]) == (413, b"close")
    assert json.loads(first["body"])["error"]["type"] == "RequestTooLargeError"
    assert (first["more_body"], last["body"], client.taken) == (True, b"", 500)


def test_a_client_that_sends_on_forever_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_LINGER", 0.01)
    client = Client([b"x"], whole=False)
    asyncio.run(answer(client.send, Refusal(413, "too large"), client.receive))
    assert len(client.sent) == 3


def test_errors_of_the_framework_have_openais_shape() -> None:
    error: Any = SimpleNamespace(status_code=418, detail="a teapot", headers={"allow": "GET"})
    request: Any = None
    found = asyncio.run(http_error(request, error))
    assert (found.status_code, found.headers["allow"]) == (418, "GET")
    body = json.loads(bytes(found.body))["error"]
    assert (body["message"], body["type"], body["code"]) == ("a teapot", "BadRequestError", 418)
