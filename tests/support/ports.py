"""Free ports for servers that cannot take port 0."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress

_LOWEST, _END = 12_000, 32_000  # below those that systems give to clients, which come and go
_random = random.SystemRandom()


def free_ports(count: int) -> list[int]:
    """Return different ports of loopback that nobody listens at."""
    with ExitStack() as stack:
        found = set[int]()
        while len(found) < count:
            port = _random.randrange(_LOWEST, _END)
            with suppress(OSError):
                taken = socket.socket()
                stack.enter_context(taken)
                taken.bind(("127.0.0.1", port))
                found.add(port)
        return sorted(found)


def free_port() -> int:
    return free_ports(1)[0]
