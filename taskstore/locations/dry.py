"""A dry run: all checks are made, and the first write, or call of the user's command, ends it.

`publish` asks before it writes and `evaluation` before it runs a command, so whatever goes through
them can be rehearsed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


class Stopped(Exception):
    """The dry run has come to where something would be written or run."""


@dataclass
class Rehearsal:
    """What a dry run has found.

    stopped whether it came to where something would be written or run
    bytes   what would be written, about; None: not known before
    facts   what else a command says about it
    """

    stopped: bool = False
    bytes: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


_current: ContextVar[Rehearsal | None] = ContextVar("dry", default=None)


@contextmanager
def run() -> Iterator[Rehearsal]:
    """Make the block a dry run; it ends where it would write for the first time."""
    found = Rehearsal()
    token = _current.set(found)
    try:
        with suppress(Stopped):
            yield found
    finally:
        _current.reset(token)


def on() -> bool:
    """Whether this is a dry run."""
    return _current.get() is not None


def stop() -> None:
    """End a dry run, since something would be written or run now."""
    if found := _current.get():
        found.stopped = True
        raise Stopped


def note(bytes: int | None = None, **facts: Any) -> None:
    """Note what would be written, in a dry run."""
    if found := _current.get():
        found.bytes = found.bytes if bytes is None else bytes
        found.facts |= facts
