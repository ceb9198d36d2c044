"""Runs the compiled loops of one level of the processor."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from taskstore.native import levels


@contextmanager
def at_level(level: str) -> Iterator[None]:
    """What Python modules call are the loops of that level, in those that are imported by now."""
    ours = [module for name, module in sys.modules.items() if name.startswith("taskstore.")]
    before = [
        (module, name, loops)
        for module in ours
        for name, loops in vars(module).items()
        if isinstance(loops, ModuleType) and loops.__name__.startswith("taskstore.native.loops_")
        if not module.__name__.startswith("taskstore.native")
    ]
    for module, name, loops in before:
        part = loops.__name__.rpartition(".")[2]
        setattr(module, name, getattr(levels.loops(level), part))
    try:
        yield
    finally:
        for module, name, loops in before:
            setattr(module, name, loops)
