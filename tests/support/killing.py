"""Runs commands in children of a small process, and kills them where they change the disk.

A child is forked from a process that has loaded the command and started no thread, so a run costs
a tenth of a second. It dies, by SIGKILL, just before its n-th rename, link, flush or removal, or
after some seconds; with `remote`, before its n-th request to a hub or a bucket. `exchange` false:
the system cannot exchange two names. What a command has its cluster do is done by the child itself,
so that it is killed there, too; units are small.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

REQUESTS = ("put", "get", "head", "list", "delete")  # of a bucket
CALLS = ("rename", "replace", "link", "unlink", "remove", "rmdir", "mkdir", "fsync")
_HOME = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    """`status` is negative for a signal; `said` what was written to stdout and stderr."""

    status: int
    said: str

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Killer:
    """Runs one command at a time; `temporary` is its folder for temporary files.

    The commands `warm` are run first, by the process itself: children inherit what they compiled.
    """

    def __init__(self, temporary: Path, *warm: Sequence[object]) -> None:
        paths = os.pathsep.join([str(_HOME), *filter(None, sys.path)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "TMPDIR": str(temporary)},
        )
        for words in warm:
            done = self._ask(words=[*map(str, words)])
            assert done.status == 0, done.said

    def run(
        self,
        *words: object,
        call: int = 0,
        seconds: float = 0,
        exchange: bool = True,
        remote: bool = False,
    ) -> Done:
        """Run a command; kill it before call number `call`, from 1, or after so many seconds."""
        line = [*map(str, words)]
        return self._ask(words=line, call=call, seconds=seconds, exchange=exchange, remote=remote)

    def _ask(self, **job: object) -> Done:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return Done(**json.loads(self._process.stdout.readline()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def serve() -> None:
    """Read jobs line by line, and answer each."""
    import taskstore_cli.main  # noqa: F401
    import torch  # noqa: F401

    import taskstore.analysis.page
    import taskstore.evaluation.bench
    import taskstore.merging.search.grid_search
    import taskstore.packing.revise
    import taskstore.packing.search_bits
    import taskstore.packing.search_lambda  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        if "call" not in job:
            print(json.dumps(asdict(Done(_run(job["words"]), ""))), flush=True)
            continue
        end, begin = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(end)
            _child(job, begin)
        os.close(begin)
        with os.fdopen(end, errors="replace") as said:
            text = said.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps(asdict(Done(status, text[-4000:]))), flush=True)


def _child(job: dict[str, Any], out: int) -> None:
    from taskstore.locations import publish

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(out)
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", closefd=False) for fd in (1, 2))
    _be_the_cluster()
    deadly = _Deadly(job["call"])
    if job["remote"]:
        _count_requests(deadly)
    else:
        for name in CALLS:
            setattr(os, name, deadly.before(getattr(os, name)))
        publish._exchange = deadly.before(publish._exchange)
    if not job["exchange"]:
        publish._exchange = lambda *_: False
    if job["seconds"]:
        signal.signal(signal.SIGALRM, lambda *_: _die())
        signal.setitimer(signal.ITIMER_REAL, job["seconds"])
    status = _run(job["words"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _count_requests(deadly: _Deadly) -> None:
    import httpx2
    import obstore

    for name in REQUESTS:
        setattr(obstore, name, deadly.before(getattr(obstore, name)))
    httpx2.Client.send = deadly.before(httpx2.Client.send)  # type: ignore[method-assign]


def _be_the_cluster() -> None:
    from taskstore import cluster
    from taskstore.packing.parts import driver, units
    from tests.support.elsewhere import OtherProcess

    def connect(_: str, *, resume: bool = False) -> Any:
        return OtherProcess(resume=resume)

    for module in (cluster, driver):
        module.__dict__["connect"] = connect
    units.LEAST = 3000


def _run(words: list[str]) -> int:
    """Run a command in this process; return its exit status, 99 for an error of no kind."""
    from taskstore_cli.main import main

    try:
        main.main(words, prog_name="taskstore")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    return 99


class _Deadly:
    """Counts calls; dies before one of them."""

    def __init__(self, last: int) -> None:
        self._last, self._count, self._lock = last, 0, threading.Lock()

    def before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            with self._lock:
                self._count += 1
                if self._count == self._last:
                    _die()
            return call(*args, **options)

        return counted


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    serve()
