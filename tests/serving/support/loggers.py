"""Loggers as in a fresh process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fresh_loggers(*names: str) -> Iterator[None]:
    """Without handlers or levels for a while, then as before."""
    loggers = [logging.getLogger(name) for name in names]
    before = [(one.handlers[:], one.level, one.propagate) for one in loggers]
    for one in loggers:
        one.handlers[:], one.propagate = [], True
        one.setLevel(logging.NOTSET)
    try:
        yield
    finally:
        for one, (handlers, level, propagate) in zip(loggers, before, strict=True):
            one.handlers[:], one.propagate = handlers, propagate
            one.setLevel(level)
