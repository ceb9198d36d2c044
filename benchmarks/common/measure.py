"""One side of a comparison, in a process of its own: seconds and peak memory.

Peak memory is the largest resident set that the kernel saw. Pages of mapped files count in it, so
the largest anonymous part is sampled beside it. A worker that knows better (it can tell its
imports from its work) says so itself on its last line of output, as JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SAMPLE_SECONDS = 0.02


class SideFailed(Exception):
    """A side ended with an error; the text has the end of what it wrote."""


@dataclass(frozen=True)
class Run:
    """`seconds` is the whole process, `cpu` its processor time; bytes are resident at the peak."""

    seconds: float
    cpu: float
    peak: int
    anonymous: int
    says: Mapping[str, Any]  # what the worker reported itself

    @property
    def work(self) -> float:
        """Seconds without start-up and imports, where the worker timed itself."""
        return float(self.says.get("seconds", self.seconds))


@dataclass
class Side:
    """Something to run; `prepare` is called before, untimed."""

    name: str
    command: Sequence[str]
    prepare: Callable[[], None]
    env: Mapping[str, str] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)

    def run(self) -> Run:
        """Run once and keep the figures; raises SideFailed."""
        self.prepare()
        os.sync()  # what others wrote is not flushed at this side's cost
        self.runs.append(_measured(self.name, self.command, self.env))
        return self.runs[-1]

    def median(self, of: Callable[[Run], float]) -> float:
        return statistics.median(of(run) for run in self.runs)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "command": list(self.command),
            "runs": [asdict(run) for run in self.runs],
        }


def alternate(sides: Sequence[Side], repeat: int, report: Callable[[str], None]) -> None:
    """Run all sides in turn, `repeat` times; every other round goes backwards."""
    for i in range(repeat):
        for side in sides if i % 2 == 0 else reversed(sides):
            report(f"{side.name}, {i + 1} of {repeat}")
            side.run()


def _measured(name: str, command: Sequence[str], env: Mapping[str, str]) -> Run:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, **env})
        sampler = _Sampler(process.pid)
        sampler.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        sampler.stop()
        out.seek(0)
        err.seek(0)
        said, complained = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if process.returncode:
        raise SideFailed(f"{name} ended with {process.returncode}:\n{complained[-3000:]}")
    return Run(
        seconds=seconds,
        cpu=usage.ru_utime + usage.ru_stime,
        peak=usage.ru_maxrss << 10,
        anonymous=sampler.highest,
        says=_last_line(said),
    )


def _last_line(text: str) -> Mapping[str, Any]:
    lines = text.strip().splitlines()
    if not lines or not lines[-1].startswith("{"):
        return {}
    found: Mapping[str, Any] = json.loads(lines[-1])
    return found


class _Sampler(threading.Thread):
    """Watches the anonymous memory of a process until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.highest = 0
        self._path = Path(f"/proc/{pid}/status")
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            try:
                lines = self._path.read_text().splitlines()
            except OSError:  # it has ended, or the system has no /proc
                return
            for line in lines:
                if line.startswith("RssAnon:"):
                    self.highest = max(self.highest, int(line.split()[1]) << 10)

    def stop(self) -> None:
        self._done.set()
        self.join()
