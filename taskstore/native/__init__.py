"""The compiled loops, in C++: `from taskstore.native import cpu` is `loops/cpu.cpp`.

Its types are in `cpu.pyi`. The sources are compiled once per level of the processor, with the same
results. The best level that runs here is loaded when the first loop is asked for; TASKSTORE_CPU=v2
takes a lower one.
"""

from __future__ import annotations

from typing import Any

from taskstore.native import levels


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    return getattr(levels.loops(levels.chosen()), name)
