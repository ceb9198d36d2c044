"""Which build of the compiled loops this process runs.

On x86-64 there are three, named as compilers name them: v2 (SSE 4.2), v3 (AVX2) and v4 (AVX-512);
elsewhere one, `plain`.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from types import ModuleType

from taskstore.errors import InputError

VARIABLE = "TASKSTORE_CPU"


@cache
def available() -> tuple[str, ...]:
    """The levels that this processor runs, the best last."""
    found = tuple(_module("processor").levels())
    if not found:
        raise InputError("taskstore needs an x86-64-v2 processor (SSE 4.2 and POPCNT)")
    return found


@cache
def chosen() -> str:
    """The level that TASKSTORE_CPU names, or the best."""
    wanted = os.environ.get(VARIABLE) or available()[-1]
    if wanted not in available():
        raise InputError(f"{VARIABLE}={wanted}: this processor has {', '.join(available())}")
    return wanted


@cache
def loops(level: str) -> ModuleType:
    """The module of a level, which holds one of `loops/` each."""
    return _module(f"loops_{level}")


def _module(name: str) -> ModuleType:
    try:
        return import_module(f"taskstore.native.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"taskstore.native.{name}":
            raise
        raise ImportError(
            f"taskstore.native.{name} is not compiled: install taskstore (pip install .), or in a "
            "checkout run python tools/build_native.py"
        ) from error
