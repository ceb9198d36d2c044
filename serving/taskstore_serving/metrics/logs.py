"""Logs of a server's tasks: a line per request, without any of its text.

Logger `taskstore.serving`, on stderr, as loud as vLLM's own logger (`--log-level`,
VLLM_LOGGING_LEVEL). With json in TASKSTORE_LOG every line is an object. A logging configuration
that names `taskstore` or `taskstore.serving`, and VLLM_CONFIGURE_LOGGING=0, are left as they are.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from taskstore_serving.metrics.requests import Finished

_LONGEST = 100  # characters of a request's id, which a client may choose
_TEXT = "%(levelname)s %(asctime)s [%(name)s pid=%(process)d] %(message)s"

_log = logging.getLogger("taskstore.serving")


@dataclass(frozen=True, slots=True)
class Event:
    """A message of a log record: text for people, fields for machines."""

    name: str
    text: str
    fields: dict[str, Any]

    def __str__(self) -> str:
        return self.text


def finished(facts: Finished) -> None:
    """Log a request that ended."""
    if not _log.isEnabledFor(logging.INFO):
        return
    request = facts.request[:_LONGEST]
    text = (
        f"{facts.task}: request {request!r} {facts.outcome}; tokens: {facts.prompt_tokens} prompt, "
        f"{facts.cached_tokens} cached, {facts.generation_tokens} generated; seconds: "
        f"{_seconds(facts.queue_seconds)} queue, {_seconds(facts.first_token_seconds)} first token,"
        f" {_seconds(facts.total_seconds)} total"
    )
    _log.info(Event("request", text, asdict(facts) | {"request": request}))


def swapped(before: str | None, after: str | None, seconds: float) -> None:
    """Log a swap, in a worker; None is the base."""
    if _log.isEnabledFor(logging.DEBUG):
        text = f"swap {before or 'base'} to {after or 'base'}: {seconds * 1e3:.1f} ms"
        _log.debug(Event("swap", text, {"before": before, "task": after, "seconds": seconds}))


def not_swapped(before: str | None, after: str | None, why: str) -> None:
    """Log a swap that failed, in a worker; the step's requests end, and the base becomes live."""
    text = f"swap {before or 'base'} to {after or 'base'} failed, its requests end: {why}"
    _log.warning(Event("swap_failed", text, {"before": before, "task": after, "why": why}))


def configure() -> None:
    """Let taskstore's loggers write to stderr; call it again after vLLM configured its own."""
    top, engine = logging.getLogger("taskstore"), logging.getLogger("vllm")
    if isinstance(top.handlers[0] if top.handlers else None, _Handler):
        top.handlers.clear()
    if top.handlers or _log.handlers or os.environ.get("VLLM_CONFIGURE_LOGGING") == "0":
        return
    machines = "json" in os.environ.get("TASKSTORE_LOG", "").lower().split(",")
    handler = _Handler(sys.stderr)
    handler.setFormatter(Json() if machines else logging.Formatter(_TEXT, "%m-%d %H:%M:%S"))
    top.addHandler(handler)
    top.setLevel(engine.level or logging.INFO)
    top.propagate = False


class _Handler(logging.StreamHandler[Any]):
    """Marks a handler as ours, not one of a user's configuration."""


class Json(logging.Formatter):
    """A line of JSON per record."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if isinstance(record.msg, Event):
            line |= {"event": record.msg.name} | record.msg.fields
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
