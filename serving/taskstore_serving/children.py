"""vLLM's processes as `taskstore serve` wants them: they end with it, and say why they failed.

Both begin in vLLM's general plugin, which runs in each of its processes, and only below a server
of ours, which names a file for errors in the environment.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from multiprocessing.connection import wait
from pathlib import Path

ERRORS = "TASKSTORE_ERROR_FILE"


def adopt() -> None:
    """In a process that vLLM started for a server of ours; elsewhere it does nothing."""
    parent, path = multiprocessing.parent_process(), os.environ.get(ERRORS)
    if parent is None or path is None or any(isinstance(h, _Note) for h in _logger().handlers):
        return
    _logger().addHandler(_Note(Path(path)))

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True, name="taskstore-parent").start()


def first_error(path: Path) -> str:
    """What the first process that failed said; "" where none did."""
    return path.read_text().strip() if path.exists() else ""


class _Note(logging.Handler):
    """Writes the first exception that is logged to a file: the root cause comes first."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.ERROR)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, Exception):
            try:
                with self._path.open("x") as file:
                    file.write(_text(error))
            except OSError:
                return


def _text(error: Exception) -> str:
    """Our own errors are sentences; others say their kind too."""
    from taskstore.errors import TaskstoreError

    return str(error) if isinstance(error, TaskstoreError) else f"{type(error).__name__}: {error}"


def _logger() -> logging.Logger:
    return logging.getLogger("vllm")
