"""Remember scores, one JSON line each, so that a long search goes on where it was interrupted.

A score belongs to weights, a task and an evaluator, not to a path or a lambda: two thresholds that
rebuild the same model are evaluated once. A line that was cut off in the middle is ignored.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from taskstore.errors import OutputError
from taskstore.evaluation.command import Measured
from taskstore.locations.files import read_regular

MAX_BYTES = 256 << 20
Key = tuple[str, ...]


class Journal:
    """The scores in a file; `path` None: in memory only."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[Key, float] = {}
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
            key, score, *n = json.loads(line)
            if math.isfinite(score):
                self._known[tuple(map(str, key))] = Measured.over(score, *n or [None])
            return
        if not line.startswith("[[") and line not in ("", "["):
            raise OutputError(
                f"{path} is no journal of scores, and is left alone: it holds {line[:40]!r}; name "
                "another file with --journal"
            )

    def score(self, key: Key, evaluate: Callable[[], float]) -> float:
        """The score of a key; `evaluate` finds one that is not known, and it is written down."""
        if key not in self._known:
            score = evaluate()
            self._append(key, score)
            self._known[key] = score
        return self._known[key]

    def _append(self, key: Key, score: float) -> None:
        if self._path is None:
            return
        n = [score.n] if isinstance(score, Measured) else []
        line = json.dumps([key, score, *n]) + "\n"
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
