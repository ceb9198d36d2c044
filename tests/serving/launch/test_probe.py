"""Asking a server whether it is ready, over a real socket."""

from __future__ import annotations

import asyncio
import socket
from argparse import Namespace
from collections.abc import Awaitable, Callable

import pytest
from taskstore_serving.launch import probe
from taskstore_serving.launch.server import listen

from taskstore.errors import ServingFailed

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answering(*statuses: int) -> Answer:
    """One status per request, then the last for ever; 0 closes without a word."""
    left = list(statuses)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        assert line.startswith(b"GET /ready ")
        status = left.pop(0) if len(left) > 1 else left[0]
        if status:
            writer.write(b"HTTP/1.1 %d Word\r\n\r\n" % status)
        writer.close()

    return answer


async def asked(bound: socket.socket, answer: Answer) -> int:
    """How often `ready` was called, once the probe is done; it begins before the server does."""
    calls: list[None] = []
    args = Namespace(ssl_keyfile=None)
    waiting = asyncio.create_task(probe.until_ready(args, bound, lambda: calls.append(None)))
    await asyncio.sleep(0.05)
    async with await asyncio.start_server(answer, sock=bound):
        await asyncio.wait_for(waiting, 60)
    return len(calls)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_it_waits_until_the_weights_are_proved(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PAUSE", 0.01)
    with listen(host, 0) as bound:
        assert asyncio.run(asked(bound, answering(0, 503, 503, 200))) == 1


def test_a_server_without_our_routes_is_none_of_ours() -> None:
    with (
        listen("127.0.0.1", 0) as bound,
        pytest.raises(ServingFailed, match="without the plugin `taskstore`"),
    ):
        asyncio.run(asked(bound, answering(404)))
