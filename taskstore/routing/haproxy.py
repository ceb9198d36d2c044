"""Write HAProxy's configuration for the servers of a family, and change it at run time.

A request's `model` names its task, whose server stands in a map. A server that is down is passed
over: its tasks go where consistent hashing says, and come back with it.
"""

from __future__ import annotations

import csv
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from taskstore.errors import InputError, OptionError

BACKEND = "family"
MARK = "# Written by `taskstore route`."
_SERVER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
TASK = re.compile(r"[^\s#\"'\\;\x00-\x1f\x7f]+")  # ";" would end a command of the socket


@dataclass(frozen=True)
class RouterOptions:
    """How the router runs.

    bind       address that clients call
    buffer     bytes of a request that are held to find its `model`: above the longest prompt
    seconds    that an answer may take
    check      seconds between two looks whether a server is ready
    """

    bind: str = ":8000"
    buffer: int = 1 << 20
    seconds: int = 600
    check: float = 2.0

    def __post_init__(self) -> None:
        if not (_SERVER.fullmatch(self.bind) or re.fullmatch(r"\*?:[0-9]{1,5}", self.bind)):
            raise OptionError(f"bind {self.bind!r} is not HOST:PORT or :PORT")
        if not 16384 <= self.buffer <= 1 << 28:
            raise OptionError(f"buffer {self.buffer} is not from 16 KiB to 256 MiB")


def names_of(servers: Sequence[str]) -> dict[str, str]:
    """Return HOST:PORT by the name that a server has in the configuration: s1, s2, ..."""
    for server in servers:
        found = _SERVER.fullmatch(server)
        if not found or not 0 < int(found[2]) < 65536:
            raise OptionError(f"server {server!r} is not HOST:PORT")
    if len(set(servers)) != len(servers):
        raise OptionError("a server is given twice")
    if not servers:
        raise OptionError("no server is given")
    return {f"s{n}": server for n, server in enumerate(servers, 1)}


def configuration(
    servers: Mapping[str, str], tasks: Path, admin: Path, options: RouterOptions
) -> str:
    """Return the text of haproxy.cfg. `tasks`: its map; `admin`: the socket that changes it."""
    for path in (tasks, admin):
        if not re.fullmatch(r"[\w./@+-]+", str(path)):
            raise InputError(f"{path}: HAProxy takes no such path; write to another folder")
    lines = [
        f"  server {name} {address} check inter {round(options.check * 1000)}ms fall 2 rise 1"
        for name, address in servers.items()
    ]
    found = f"var(txn.model),map({tasks})"
    return f"""{MARK} Tasks and their servers: {tasks}
global
  stats socket {admin} mode 600 level admin
  tune.bufsize {options.buffer}
defaults
  mode http
  timeout connect 5s
  timeout client {options.seconds}s
  timeout server {options.seconds}s
  timeout http-request 60s
frontend clients
  bind {options.bind}
  option http-buffer-request
  http-request set-var(txn.model) req.body,json_query('$.model')
  http-request set-var(txn.server) {found}
  default_backend {BACKEND}
backend {BACKEND}
  # the map says whose task it is; what is not there, or whose server is down, is hashed
  balance hash var(txn.model)
  hash-type consistent sdbm avalanche
  hash-balance-factor 150
  use-server %[var(txn.server)] if {{ var(txn.server) -m found }}
  option httpchk GET /ready
  option redispatch 1
  retries 3
  retry-on conn-failure empty-response response-timeout
  http-response set-header x-taskstore-server %s
""" + "\n".join(lines) + "\n"  # fmt: skip


def tasks_text(placed: Mapping[str, str]) -> str:
    """Return the map's text: a task and its server's name on each line."""
    for task in placed:
        if not TASK.fullmatch(task):
            raise InputError(f"task {task!r} cannot stand in a map of HAProxy: rename it")
    return "".join(f"{task} {server}\n" for task, server in sorted(placed.items()))


class Admin:
    """A running HAProxy, through its socket."""

    def __init__(self, path: Path, tasks: Path) -> None:
        self._path, self._tasks = path, tasks

    def ask(self, command: str) -> str:
        """Send a command; returns the answer. Raises InputError where no HAProxy listens."""
        try:
            with socket.socket(socket.AF_UNIX) as channel:
                channel.settimeout(10)
                channel.connect(str(self._path))
                channel.sendall(command.encode() + b"\n")
                answer = b""
                while got := channel.recv(1 << 16):
                    answer += got
        except OSError as error:
            raise InputError(
                f"{self._path}: no HAProxy answers there ({error.strerror or error}); start it "
                "with the configuration that was written"
            ) from None
        return answer.decode(errors="replace").strip()

    def placed(self) -> dict[str, str]:
        """Return task -> server as the running map has it."""
        lines = (line.split() for line in self.ask(f"show map {self._tasks}").splitlines())
        return {words[1]: words[2] for words in lines if len(words) == 3}

    def move(self, placed: Mapping[str, str]) -> list[str]:
        """Make the running map what is `placed`; returns the tasks that changed."""
        tasks_text(placed)
        there, changed = self.placed(), []
        for task, server in placed.items():
            if there.get(task) != server:
                verb = "set" if task in there else "add"
                self._done(self.ask(f"{verb} map {self._tasks} {task} {server}"))
                changed.append(task)
        for task in there.keys() - placed.keys():
            self._done(self.ask(f"del map {self._tasks} {task}"))
            changed.append(task)
        return sorted(changed)

    def drain(self, server: str, *, back: bool = False) -> None:
        """Send a server no new requests; those that run end. `back`: it gets them again.

        The state is maint: one that only drains still gets the tasks that the map sends there.
        """
        self._done(self.ask(f"set server {BACKEND}/{server} state {'ready' if back else 'maint'}"))

    def running(self, server: str) -> int:
        """Return the requests that a server answers now; raises InputError for one not known."""
        names, *rows = csv.reader(self.ask("show stat").removeprefix("# ").splitlines())
        for row in rows:
            said = dict(zip(names, row, strict=False))
            if (said["pxname"], said["svname"]) == (BACKEND, server):
                return int(said["scur"])
        raise InputError(f"{self._path}: that HAProxy has no server {server!r}")

    def _done(self, answer: str) -> None:
        if answer:
            raise InputError(f"HAProxy refuses: {answer.splitlines()[0]}")
