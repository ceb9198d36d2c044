"""The last events of a process, numbered, for those who ask again and again what is new."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

LIMIT = 1000


class Recent:
    """Events are plain values: `number` (from 1), `time` (seconds of the clock), `kind`, facts."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._events: deque[dict[str, Any]] = deque(maxlen=limit)
        self.last = 0

    def add(self, kind: str, **facts: Any) -> None:
        """Keep an event; the oldest goes where there are too many. `facts` may say its time."""
        self.last += 1
        self._events.append({"time": time.time(), **facts, "kind": kind, "number": self.last})

    def after(self, number: int) -> list[dict[str, Any]]:
        """Events with higher numbers, oldest first."""
        return [event for event in self._events if event["number"] > number]
