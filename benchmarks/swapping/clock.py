"""Several ways of one thing, timed in turn inside one process.

A run of a side is one call that is not counted and as many that are as bring all sides together to
about half a second; its figure is their median. Sides take turns run by run, every other round
backwards, so that what slows the machine slows all. They do not take turns call by call: after each
of its operations torch's idle threads keep their cores busy for some milliseconds, and who comes
next would pay for it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

RUN_SECONDS = 0.5  # of all sides together
MOST_CALLS = 50


@dataclass
class Way:
    """`call` is timed; `before` and `after`, which gets what `call` returned, are not."""

    name: str
    call: Callable[[], Any]
    before: Callable[[], None] = lambda: None
    after: Callable[[Any], None] = lambda _: None
    seconds: list[float] = field(default_factory=list)

    def time(self, device: str) -> float:
        """Seconds of one call, until the device has done it."""
        self.before()
        finish(device)
        began = time.perf_counter()
        result = self.call()
        finish(device)
        seconds = time.perf_counter() - began
        self.after(result)
        return seconds


def in_turn(ways: Sequence[Way], repeat: int, device: str) -> dict[str, list[float]]:
    """Name -> seconds of a call, `repeat` times; a first call of each is not counted."""
    first = sum(way.time(device) for way in ways)
    calls = min(max(1, round(RUN_SECONDS / first)), MOST_CALLS)
    for i in range(repeat):
        for way in ways if i % 2 == 0 else reversed(ways):
            way.time(device)
            way.seconds.append(statistics.median(way.time(device) for _ in range(calls)))
    return {way.name: way.seconds for way in ways}


def finish(device: str) -> None:
    """Wait for what the device still does."""
    if is_cuda(device):
        torch.cuda.synchronize(device)


def is_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


def name_of(device: str) -> str:
    """Of a GPU, its model; else cpu."""
    return torch.cuda.get_device_name(device) if is_cuda(device) else "cpu"
