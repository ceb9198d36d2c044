"""Workers of `serve.py`: started together, driven in turn, and what they said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from benchmarks.common.measure import SideFailed
from benchmarks.common.sides import HERE

Found = dict[str, Any]


@dataclass
class Worker:
    """An engine in a process; a context manager."""

    name: str
    model: Path
    store: Path | None
    tasks: Sequence[str]
    options: Mapping[str, Any]
    threads: int
    log: Path
    start: float = 0.0  # seconds that the engine took
    loads: dict[str, list[Found]] = field(default_factory=dict)  # by the name of the load

    def __enter__(self) -> Self:
        given = {
            "model": str(self.model),
            "store": str(self.store or ""),
            "tasks": list(self.tasks),
            "options": dict(self.options),
        }
        env = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(self.threads),
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
        }
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "serving" / "worker.py"), json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            env=env,
        )
        self.start = self._answer()["start"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        _pipe(self._process.stdin).close()
        self._process.kill()
        self._process.wait()

    def ask(self, do: str, **order: Any) -> Found:
        """Raises SideFailed where the worker ends instead of answering."""
        pipe = _pipe(self._process.stdin)
        pipe.write(json.dumps({"do": do, **order}) + "\n")
        pipe.flush()
        return self._answer()

    def load(self, name: str, **order: Any) -> None:
        self.loads.setdefault(name, []).append(self.ask("load", **order))

    def _answer(self) -> Found:
        line = _pipe(self._process.stdout).readline()
        if not line:
            raise SideFailed(f"{self.name} ended:\n{self.log.read_text()[-3000:]}")
        found: Found = json.loads(line)
        return found


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
