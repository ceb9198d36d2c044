"""Makes vLLM's processes end with `taskstore serve`, and say why they failed.

vLLM's general plugin, which runs in each of its processes, calls `adopt`. It acts only below a
server of ours, which names its temporary folder in the environment.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import threading
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path

SCRATCH = "TASKSTORE_SCRATCH"
PREFIX = "taskstore-"  # of its name, whatever the environment says
_NAME = "error"
_LAST_WORDS = (  # what vLLM logs of an error that ends a process
    "Worker proc %s died unexpectedly (exit code: %s), shutting down executor.",
    "EngineCore failed to start.",
    "EngineCore encountered a fatal error.",
    "WorkerProc failed to start.",
    "WorkerProc failed.",
)


def adopt() -> None:
    """Tie this process to the server of ours that vLLM started it for; else do nothing."""
    parent, scratch = multiprocessing.parent_process(), Path(os.environ.get(SCRATCH, ""))
    adopted = any(isinstance(handler, _Note) for handler in _logger().handlers)
    if parent is None or adopted or not scratch.name.startswith(PREFIX):
        return
    _logger().addHandler(_Note(scratch / _NAME))

    def end_with_parent() -> None:
        wait([parent.sentinel])
        shutil.rmtree(scratch, ignore_errors=True)  # the server does it, unless it was killed
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True, name="taskstore-parent").start()


def first_error(scratch: Path) -> str:
    """The error of the first process that failed; "" where none did."""
    path = scratch / _NAME
    return path.read_text().strip() if path.exists() else ""


class _Note(logging.Handler):
    """Writes the first error that ends a process to a file: the root cause comes first."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.ERROR)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg in _LAST_WORDS:
            error = record.exc_info[1] if record.exc_info else None
            with suppress(FileExistsError), self._path.open("x") as file:
                file.write(_text(error) if error else record.getMessage())


def _text(error: BaseException) -> str:
    """An error in words: our own are sentences, others say their kind too."""
    from taskstore.errors import TaskstoreError

    return str(error) if isinstance(error, TaskstoreError) else f"{type(error).__name__}: {error}"


def _logger() -> logging.Logger:
    return logging.getLogger("vllm")
