"""How long work reports itself: a callback that gets what is done, out of what, doing what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """`done` and `total` are bytes of model weights, or examples that are measured; `stage` is a
    verb, `item` what it acts on.
    """

    stage: str
    item: str
    done: int
    total: int


Callback = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """The default callback."""


class Meter:
    """Adds up what is done and tells the callback; it may be called from one thread only."""

    def __init__(self, callback: Callback, total: int) -> None:
        self._callback, self._total = callback, total
        self._done = 0
        self._stage = "reading"

    def stage(self, stage: str, item: str) -> None:
        self._stage = stage
        self.add(item, 0)

    def add(self, item: str, done: int) -> None:
        """`done` more bytes of weights have been dealt with."""
        self._done = min(self._done + done, self._total)
        self._callback(Progress(self._stage, item, self._done, self._total))
