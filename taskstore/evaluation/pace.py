"""Say how long evaluations will take: by the seconds of earlier ones, or of the first."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median

from taskstore.progress import duration

Say = Callable[[str], None]


LONG = 60.0  # seconds; nothing is said of less


class Pace:
    """The seconds that evaluations took, by the label of the evaluator, and how many are left."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}
        self._label, self._left = "", 0
        self._say: Say | None = None

    def took(self, label: str, seconds: object) -> None:
        """Remember the seconds of an evaluation, where they are known."""
        if isinstance(seconds, (int, float)) and 0 <= seconds < math.inf:
            self._seconds.setdefault(label, []).append(seconds)

    def expect(self, label: str, count: int, say: Say) -> None:
        """`count` evaluations come, at most. Say how long they take, now or after the first."""
        self._label, self._left, self._say = label, count, say
        if label in self._seconds:
            self._tell("earlier ones took")

    def done(self, label: str) -> None:
        """Count an evaluation, or one whose score was known; after the first that ran, say."""
        if label == self._label:
            self._left -= 1
            if label in self._seconds:
                self._tell("the first took")

    def _tell(self, which: str) -> None:
        each = median(self._seconds[self._label])
        if self._say and self._left > 0 and self._left * each >= LONG:
            self._say(
                f"at most {self._left} evaluation{'' if self._left == 1 else 's'} to come; {which} "
                f"{duration(each)}, so about {duration(self._left * each)}"
            )
        self._say = None
