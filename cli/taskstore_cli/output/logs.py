"""Log lines on stderr: warnings, and with --verbose or TASKSTORE_LOG what the library does.

TASKSTORE_LOG is a level (debug, info, warning, error), a form (text, json), or both: info,json.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from taskstore.errors import OptionError

VARIABLE = "TASKSTORE_LOG"
LEVELS = ("debug", "info", "warning", "error")
FORMS = ("text", "json")

_log = logging.getLogger("taskstore.command")


@contextmanager
def written(command: str, verbose: int) -> Iterator[None]:
    """Write log lines while a command runs, and at its end how long it took and what memory.

    `verbose`: 0 as the environment says, 1 info, 2 debug. Raises OptionError for a variable that
    says nothing known.
    """
    level, form = asked(os.environ.get(VARIABLE, ""))
    level = ("", "info", "debug")[min(verbose, 2)] or level or "warning"
    top, handler = logging.getLogger("taskstore"), _Handler()
    handler.setFormatter(_formatter(form))
    was, began = top.level, time.monotonic()
    top.addHandler(handler)
    top.setLevel(level.upper())
    try:
        _log.info("%s begins", command)
        yield
        _log.info(
            "%s took %.1f s, %s of memory at most", command, time.monotonic() - began, _peak()
        )
    finally:
        top.removeHandler(handler)
        top.setLevel(was)


def asked(words: str) -> tuple[str, str]:
    """The level and the form that TASKSTORE_LOG names; "": none."""
    found = [word for word in words.lower().split(",") if word]
    levels = [word for word in found if word in LEVELS]
    forms = [word for word in found if word in FORMS]
    if len(levels) + len(forms) != len(found) or len(levels) > 1 or len(forms) > 1:
        raise OptionError(
            f"{VARIABLE}={words!r} is not a level ({', '.join(LEVELS)}), a form "
            f"({', '.join(FORMS)}), or one of each with a comma between"
        )
    return "".join(levels), "".join(forms)


class _Handler(logging.Handler):
    """Writes to stderr as it is now, so that a progress bar stays below the lines."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


class _Text(logging.Formatter):
    """A warning looks like the command's own; the rest has a time and says who speaks."""

    def format(self, record: logging.LogRecord) -> str:
        level, message = record.levelname.lower(), " ".join(record.getMessage().split())
        if record.levelno >= logging.WARNING:
            return f"{level}: {message}"
        return f"{self.formatTime(record, '%H:%M:%S')} {level}: {message} ({record.name})"


def _formatter(form: str) -> logging.Formatter:
    if form != "json":
        return _Text()
    from taskstore_serving.metrics.logs import Json

    return Json()


def _peak() -> str:
    import resource

    from taskstore_cli.output.console import size

    unit = 1 if sys.platform == "darwin" else 1024
    return size(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
