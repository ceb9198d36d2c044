"""Bodies of requests: read whole, counted while they come, and refused where they are too large."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from taskstore_serving.api.answers import Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LIMIT = 64 << 20  # bytes
PATIENCE = 30.0  # seconds without a byte of a body that is not whole
_LONGEST = 300.0  # seconds for a whole body
_LINGER = 5.0  # seconds in which what still comes of a refused body is thrown away
_UNREAD = (408, 413, 415)  # of refusals before the whole body came


async def read(scope: Message, receive: Receive, limit: int, patience: float) -> bytes | None:
    """Read a whole body, of whatever type; None where the client left before its end.

    Raises Refusal: 413 beyond `limit` bytes, declared or come; 408 where nothing comes for
    `patience` seconds; 415 for a Content-Encoding, since nothing here decodes one.
    """
    coding, length = header(scope, b"content-encoding"), header(scope, b"content-length")
    if coding not in (b"", b"identity"):
        shown = coding[:40].decode("latin-1")
        raise Refusal(415, f"The body's Content-Encoding {shown!r} is not read; send it plain")
    if length.isdigit() and int(length[:20]) > limit:
        raise _too_large(limit)
    parts, size, more = list[bytes](), 0, True
    try:
        async with asyncio.timeout(_LONGEST):
            while more:
                async with asyncio.timeout(patience):
                    message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise _too_large(limit)
                more = message.get("more_body", False)
    except TimeoutError:
        raise Refusal(408, "The body did not come in time; send the request again") from None
    return b"".join(parts)


async def answer(send: Send, refusal: Refusal, receive: Receive | None = None) -> None:
    """Send a refusal; `receive` gives what still comes of a body that was not read whole."""
    raw, unread = refusal.raw(), refusal.status in _UNREAD
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(raw))]
    if unread:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": raw, "more_body": unread})
    if unread:
        if receive is not None:
            await _throw_away(receive)
        await send({"type": "http.response.body", "body": b""})


async def _throw_away(receive: Receive) -> None:
    """Take what still comes: a client that writes into a closed connection loses the answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER):
            while (message := await receive())["type"] == "http.request":
                if not message.get("more_body", False):
                    return


def header(scope: Message, name: bytes) -> bytes:
    """The first header of this name, in small letters; empty without one."""
    return next((value.lower() for key, value in scope["headers"] if key == name), b"")


def _too_large(limit: int) -> Refusal:
    return Refusal(413, f"The body is larger than {limit >> 20} MiB, which is the limit")
