"""Asks a server of ours over its own socket whether it is ready."""

from __future__ import annotations

import asyncio
import socket
import ssl
from argparse import Namespace
from collections.abc import Callable

from taskstore.errors import ServingFailed

PAUSE = 0.2
_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}


async def until_ready(args: Namespace, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Call `ready` once /ready answers 200; raises ServingFailed where there is no such route."""
    while (status := await _status(args, bound)) != 200:
        if status == 404:
            raise ServingFailed(
                "vLLM started without the plugin `taskstore`, so no task can be named; install "
                "taskstore anew, its entry points are missing"
            )
        await asyncio.sleep(PAUSE)
    ready()


async def _status(args: Namespace, bound: socket.socket) -> int:
    """The status of GET /ready; 0 while nothing answers."""
    host, port = bound.getsockname()[:2]
    context = ssl._create_unverified_context() if args.ssl_keyfile else None  # it is us
    try:
        reader, writer = await asyncio.open_connection(_LOCAL.get(host, host), port, ssl=context)
    except OSError:
        return 0
    try:
        writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        line = await reader.readline()
        return int(line.split()[1]) if line.startswith(b"HTTP/") else 0
    except OSError:
        return 0
    finally:
        writer.close()
