"""How long work reports itself: a callback that gets what is done, out of what, doing what."""

from __future__ import annotations

import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

EVERY = 10.0  # seconds between two lines of progress where there is no terminal


@dataclass(frozen=True)
class Progress:
    """`done` and `total` are bytes of model weights ("B"), or what `unit` says; `stage` is a verb,
    `item` what it acts on.
    """

    stage: str
    item: str
    done: int
    total: int
    unit: str = "B"


Function = Callable[[Progress], None]
Callback = Function | bool  # True: a bar of tqdm, in a terminal or a notebook


def duration(seconds: float) -> str:
    """A time as people say it: "8 s", "4 min", "2 h 10 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


class Remaining:
    """Estimates how long the rest of a piece of work takes, by its rate of the last half minute.

    What is loaded and compiled before the first bytes are done does not count, and nothing is said
    before the rate has been seen for `SEEN` seconds and a hundredth of the work.
    """

    SEEN, WINDOW = 4.0, 30.0  # seconds

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()  # when, and what was done then

    def after(self, now: float, progress: Progress) -> float | None:
        """Return the seconds that are left, at a time in seconds; None: not known yet."""
        seen, done = self._seen, progress.done
        if seen and done < seen[-1][1]:  # the next step of a longer piece of work
            seen.clear()
        if done and (not seen or done > seen[-1][1]):
            seen.append((now, done))
        while len(seen) > 2 and seen[1][0] <= now - self.WINDOW:
            seen.popleft()
        if len(seen) < 2 or progress.done >= progress.total:
            return None
        (first, before), (last, _) = seen[0], seen[-1]
        if last - first < self.SEEN or (done - before) * 100 < progress.total:
            return None
        return max(0.0, (progress.total - done) * (last - first) / (done - before) - (now - last))


def silent(_: Progress) -> None:
    """The default callback."""


class Meter:
    """Adds up what is done and tells the callback; it may be called from one thread only."""

    def __init__(self, callback: Callback, total: int, unit: str = "B") -> None:
        own = Bar() if callback is True else silent
        self.callback: Function = own if isinstance(callback, bool) else callback
        self._total, self._unit = total, unit
        self._done = 0
        self._stage = "reading"

    def stage(self, stage: str, item: str) -> None:
        self._stage = stage
        self.add(item, 0)

    def add(self, item: str, done: int) -> None:
        """`done` more bytes of weights have been dealt with."""
        self._done = min(self._done + done, self._total)
        self.callback(Progress(self._stage, item, self._done, self._total, self._unit))


class Bar:
    """A callback that draws a bar on stderr, or in a notebook; it appears with the first report."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, progress: Progress) -> None:
        if self._bar is None:
            bytes_ = progress.unit == "B"
            terminal = _in_notebook() or sys.stderr.isatty()
            self._bar = _tqdm()(
                total=progress.total,
                unit="B" if bytes_ else f" {progress.unit}",
                unit_scale=bytes_,
                mininterval=0.1 if terminal else EVERY,
            )
        bar = self._bar
        if progress.total != bar.total or progress.done < bar.n:
            bar.reset(progress.total)  # the next step of a longer piece of work
        words = f"{progress.stage} {progress.item[-24:]}"
        bar.set_description_str("".join(c if c.isprintable() else "?" for c in words), False)
        bar.update(progress.done - bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


@contextmanager
def drawn() -> Iterator[Bar]:
    """Return a bar for a piece of work; it is closed at the end, whatever happens."""
    bar = Bar()
    try:
        yield bar
    finally:
        bar.close()


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules


def _tqdm() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without ipywidgets gets a bar of text
        from tqdm.auto import tqdm
    return tqdm
