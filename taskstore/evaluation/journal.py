"""Remember scores, one JSON line each, so that a long search goes on where it was interrupted.

A score belongs to weights, a task and an evaluator, not to a path or a lambda: two thresholds that
rebuild the same model are evaluated once. A line that was cut off in the middle is ignored.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from taskstore.errors import OutputError
from taskstore.evaluation.command import Measured
from taskstore.evaluation.pace import Pace
from taskstore.locations.files import read_regular

MAX_BYTES = 256 << 20
Key = tuple[str, ...]


class Journal:
    """The scores in a file; `path` None: in memory only."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[Key, float] = {}
        self._pace = Pace()
        if path is not None and path.exists():
            try:
                lines = read_regular(path, MAX_BYTES).decode(errors="replace").splitlines()
            except OSError as error:
                raise OutputError(f"{path} cannot be read: {error.strerror}") from None
            for line in lines:
                self._take(path, line)

    def _take(self, path: Path, line: str) -> None:
        """Remember a line's score; raises OutputError for one that no journal has."""
        with suppress(ValueError, TypeError, OverflowError, RecursionError):
            key, score, *more = json.loads(line)
            n, seconds = (*more, None, None)[:2]
            if math.isfinite(score):
                self._known[tuple(map(str, key))] = Measured.over(score, n)
                self._pace.took(str(key[0]), seconds)
            return
        if not line.startswith("[[") and line not in ("", "["):
            raise OutputError(
                f"{path} is no journal of scores, and is left alone: it holds {line[:40]!r}; name "
                "another file with journal=FILE"
            )

    def knows(self, key: Key) -> bool:
        return key in self._known

    def score(self, key: Key, evaluate: Callable[[], float]) -> float:
        """The score of a key; `evaluate` finds one that is not known, and it is written down."""
        if key not in self._known:
            began = time.monotonic()
            score = evaluate()
            seconds = time.monotonic() - began
            self._append(key, score, seconds)
            self._known[key] = score
            self._pace.took(key[0], seconds)
        self._pace.done(key[0])
        return self._known[key]

    def expect(self, label: str, count: int, say: Callable[[str], None]) -> None:
        """Say about how long `count` evaluations of `label` take, as soon as that is known."""
        self._pace.expect(label, count, say)

    def _append(self, key: Key, score: float, seconds: float) -> None:
        if self._path is None:
            return
        n = score.n if isinstance(score, Measured) else None
        line = json.dumps([key, score, n, round(seconds, 3)]) + "\n"
        try:
            cut_off = self._path.exists() and read_regular(self._path, MAX_BYTES)[-1:] not in (
                b"",
                b"\n",
            )
            with open(self._path, "a", encoding="utf-8") as file:
                file.write("\n" + line if cut_off else line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error.strerror}") from None
