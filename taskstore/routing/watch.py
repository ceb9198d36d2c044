"""Look at the servers of a family: which tasks they serve, and how many requests each has."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from threading import Timer

from taskstore.routing.haproxy import TASK, Admin
from taskstore.routing.placement import moved

LIMIT = 16 << 20  # bytes of an answer
SECONDS = 5.0  # that a server has to answer
_RUNNING = re.compile(
    r'taskstore_requests_running\{[^}]*task="((?:[^"\\]|\\.)*)"[^}]*\} ([0-9.e+]+)'
)


@dataclass(frozen=True)
class Seen:
    """What a server says: its tasks, and the requests in its engine by task."""

    tasks: frozenset[str]
    running: Mapping[str, float]


def look(address: str, key: str | None = None) -> Seen | None:
    """Ask one server; None where it does not answer as it should."""
    try:
        listed = json.loads(_get(address, "/v1/models", key))["data"]
        tasks = frozenset(str(model["id"]) for model in listed)
        text = _get(address, "/metrics", key).decode()
        return Seen(tasks, {task: float(count) for task, count in _RUNNING.findall(text)})
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None


def tasks_of(servers: Mapping[str, str], key: str | None = None) -> list[str]:
    """Return the tasks that any of the servers (name -> HOST:PORT) serves."""
    with ThreadPoolExecutor(len(servers)) as pool:
        seen = list(pool.map(lambda address: look(address, key), servers.values()))
    return sorted(frozenset[str]().union(*(one.tasks for one in seen if one)))


def _get(address: str, path: str, key: str | None) -> bytes:
    """Ask a server of this network, whose whole answer comes within SECONDS, or OSError."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with closing(http.client.HTTPConnection(address, timeout=SECONDS)) as connection:
        connection.connect()
        until, late = time.monotonic() + SECONDS, Timer(SECONDS, _cut, [connection.sock])
        late.start()
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            data = answer.read(LIMIT + 1)
        finally:
            late.cancel()
    if answer.status != 200 or len(data) > LIMIT or time.monotonic() >= until:
        raise ValueError("an answer that is an error, too long, or too late")
    return data


def _cut(channel: socket.socket) -> None:
    with suppress(OSError):
        channel.shutdown(socket.SHUT_RDWR)


class Watch:
    """Follows servers, and moves tasks of a router; loads are means over a few looks."""

    def __init__(self, servers: Mapping[str, str], admin: Admin, key: str | None = None) -> None:
        self._servers, self._admin, self._key = servers, admin, key
        self._loads: dict[str, float] = {}

    def once(self) -> dict[str, str]:
        """Look once; returns the tasks that moved, each with its server (HOST:PORT)."""
        with ThreadPoolExecutor(len(self._servers)) as pool:
            looks = pool.map(lambda address: look(address, self._key), self._servers.values())
            seen = {n: one for n, one in zip(self._servers, looks, strict=True) if one}
        if not seen:
            return {}
        served = frozenset[str]().union(*(one.tasks for one in seen.values()))
        tasks = {task for task in served if TASK.fullmatch(task)}  # others are not in the map
        for task in tasks:
            now = sum(one.running.get(task, 0.0) for one in seen.values())
            self._loads[task] = (self._loads.get(task, now) + now) / 2
        loads = {task: self._loads[task] for task in tasks}
        placed = moved(self._admin.placed(), loads, list(seen))
        changed = self._admin.move(placed)
        return {task: self._servers[placed[task]] for task in changed if task in placed}

    def follow(self, every: float, told: Callable[[dict[str, str]], None]) -> None:
        """Look for ever, `every` so many seconds; `told` of each look that moved a task."""
        while True:
            if changes := self.once():
                told(changes)
            time.sleep(every)
