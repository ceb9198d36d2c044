"""The order in which everything is run, and which sides make which lines."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.common.cache import Cache
from benchmarks.common.family import files_of, open_family, size_of
from benchmarks.common.lines import Lines, seconds_of
from benchmarks.common.measure import Side, SideFailed, alternate
from benchmarks.common.sides import HERE, Sides, remove

STARTUPS = 3
MEASURED = 15  # packs with and without measuring, at least
TOOLS = ("mergekit", "zipnn", "tar")


class Experiment:
    """Runs all sides of one family. `repeat` counts runs of the timed pairs; sizes need one."""

    def __init__(
        self, sides: Sides, tools: Sequence[str], repeat: int, report: Callable[[str], None]
    ) -> None:
        family = sides.family
        self.sides, self.tools, self.repeat, self._report = sides, tools, repeat, report
        self._model = size_of(files_of(family.tasks[sides.task]))
        self.lines = Lines(family.nbytes, self._model)
        self.measured: list[Side] = []
        self.unpack_cache = Cache("warm")
        self.load_before = os.getloadavg()[0]

    def run(self) -> None:
        """Raises SideFailed."""
        self._report("warming up")
        warm_up(self.sides.work, self.sides.family.dtype, self.sides.jobs)
        pack, mergekit = self._pack()
        store = size_of(files_of(self.sides.store))
        unpack = self._unpack(store)
        self.lines.memory(pack, unpack, mergekit)
        self._measuring()
        self.lines.originals(pack, store)
        self._sizes(pack, store)

    def _pack(self) -> tuple[Side, Side | None]:
        pack, read = self.sides.pack(), self.sides.read()
        startup = self.sides.mergekit_startup()
        mergekits: list[Side] = []
        if "mergekit" in self.tools:
            # More threads are slower where other work has the cores: it gets to try both.
            mergekits = [self.sides.mergekit(n) for n in sorted({1, self.sides.jobs})]
            startup.run()  # its files come from the disk the first time
            startup.runs.clear()
            self._alternate([startup], STARTUPS)
        self._alternate([pack, *mergekits, read], self.repeat)
        remove(self.sides.merged)
        mergekit = min(mergekits, key=lambda side: side.median(seconds_of), default=None)
        self.lines.pack(pack, read, mergekit, startup)
        return pack, mergekit

    def _measuring(self) -> None:
        """What it costs to measure how near each task is, and the task vectors."""
        for tiers in ("mask", "rest"):
            side = self.sides.measuring(tiers, max(MEASURED, self.repeat))
            self._alternate([side], 1)
            self.lines.measuring(side)
        remove(self.sides.work / "measured")

    def _unpack(self, store: int) -> Side:
        self.unpack_cache = cache = Cache.fitting(store + 3 * self._model)
        unpack = self.sides.unpack(cache)
        flushed, quick = self.sides.copy(cache, sync=True), self.sides.copy(cache, sync=False)
        self._alternate([unpack, flushed, quick], self.repeat)
        rebuilt = size_of(files_of(self.sides.unpacked))
        if abs(rebuilt / self._model - 1) > 0.01:
            raise SideFailed(f"unpacking wrote {rebuilt} bytes for a model of {self._model}")
        for path in (self.sides.unpacked, self.sides.copied(sync=True), self.sides.copied()):
            remove(path)
        self.lines.unpack(unpack, flushed, quick)
        return unpack

    def _sizes(self, pack: Side, store: int) -> None:
        if "zipnn" in self.tools:
            zipnn, folders = self.sides.zipnn(), self.sides.zipnn_folders
            self._alternate([zipnn], 1)
            self.lines.zipnn(pack, store, zipnn, folders, len(self.sides.family.tasks))
            remove(self.sides.zipped)
        if "tar" in self.tools:
            tar = self.sides.tar()
            self._alternate([tar], 1)
            self.lines.tar(pack, store, tar)
            remove(self.sides.archive)

    def _alternate(self, sides: Sequence[Side], repeat: int) -> None:
        alternate(sides, repeat, self._report)
        self.measured += sides


def warm_up(scratch: Path, dtype: str, jobs: int) -> None:
    """Read the programs and write their bytecode, with models of the same dtype."""
    root = scratch / "small"
    make_family(root, 2e6, 2, dtype, jobs)
    small = Sides(open_family(root, "base", task_names(root)), root, jobs, Cache("warm"))
    small.pack().run()
    small.unpack(Cache("warm")).run()
    remove(root)


def make_family(root: Path, params: float, tasks: int, dtype: str, threads: int) -> None:
    """A synthetic family, unless it is there whole; in a process of its own.

    This process stays small: a child's peak memory starts from its parent's.
    """
    done = root / "complete"
    if done.is_file():
        return
    remove(root)
    words = [root, "--params", params, "--tasks", tasks, "--dtype", dtype, "--threads", threads]
    command = [sys.executable, str(HERE / "common" / "synthetic.py"), *map(str, words)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise SideFailed(f"no family was written: {made.stderr.strip().splitlines()[-1]}")
    done.touch()


def task_names(root: Path) -> list[str]:
    """Of a synthetic family."""
    return sorted(path.name for path in root.glob("task*") if path.is_dir())
