"""The files of a router: configuration, map of tasks beside it, and the program's socket."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from taskstore.errors import OptionError
from taskstore.locations import publish
from taskstore.locations.files import LocalFolder, absolute
from taskstore.routing.haproxy import MARK, Admin, RouterOptions, configuration, tasks_text
from taskstore.routing.placement import place
from taskstore.routing.watch import Watch

LOOK = 0.5  # seconds between two looks at a server that is drained


@dataclass(frozen=True)
class RouterFiles:
    """Where they lie, by the configuration's path."""

    configuration: Path
    tasks: Path
    admin: Path

    @classmethod
    def of(cls, target: Path) -> RouterFiles:
        path = absolute(target)
        return cls(path, path.with_suffix(".map"), path.with_suffix(".sock"))


def write(
    servers: Mapping[str, str],
    tasks: Iterable[str],
    target: Path,
    options: RouterOptions,
    *,
    overwrite: bool = False,
) -> dict[str, str]:
    """Place tasks on servers (name -> HOST:PORT), and write both files; returns task -> HOST:PORT.

    Raises TargetExists or OutputError for a configuration that is there.
    """
    files = RouterFiles.of(target)
    placed = place(dict.fromkeys(tasks, 0.0), list(servers))
    text = configuration(servers, files.tasks, files.admin, options)
    names = tasks_text(placed)
    with publish.file(files.configuration, overwrite=overwrite, ours=_ours) as partial:
        partial.write_text(text)
        LocalFolder(files.tasks.parent).put(files.tasks.name, names.encode())
    return {task: servers[name] for task, name in placed.items()}


def follow(
    servers: Mapping[str, str],
    target: Path,
    every: float,
    key: str | None,
    told: Callable[[dict[str, str]], None],
) -> None:
    """Move tasks of the HAProxy that runs with a configuration, until interrupted.

    The map's file follows, so that a restart begins where it was.
    """
    files = RouterFiles.of(target)
    admin = Admin(files.admin, files.tasks)
    admin.placed()

    def moved(changes: dict[str, str]) -> None:
        LocalFolder(files.tasks.parent).put(files.tasks.name, tasks_text(admin.placed()).encode())
        told(changes)

    Watch(servers, admin, key).follow(every, moved)


def drain(servers: Mapping[str, str], target: Path, server: str, *, back: bool = False) -> None:
    """Take a server out of the HAProxy that runs with a configuration, when its requests ended.

    `back` brings it back. Raises OptionError for one that is none of the `servers`, InputError.
    """
    name = next((name for name, address in servers.items() if address == server), None)
    if name is None:
        raise OptionError(f"server {server!r} is none of {', '.join(servers.values())}")
    files = RouterFiles.of(target)
    admin = Admin(files.admin, files.tasks)
    admin.drain(name, back=back)
    while not back and admin.running(name):
        time.sleep(LOOK)


def _ours(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(MARK)) == MARK.encode()
