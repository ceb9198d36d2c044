"""Notices when others changed a module's weights since the last swap.

XOR needs to know what is live; a swap of anything else would make weights of no task. Noticed are
tensors that were moved or replaced, writes (torch counts them; only those through `.data` or numpy
escape), and a second family attached to the same memory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from weakref import WeakSet

import torch
from torch import nn

from taskstore.errors import SwapError
from taskstore.swap.binding import Live

_watching: WeakSet[Watch] = WeakSet()
_lock = threading.Lock()


class Watch:
    """Watches the tensors of one attached module. Raises SwapError where another one does."""

    def __init__(self, module: nn.Module, lives: Sequence[Live]) -> None:
        self._lives = lives
        self._memory = frozenset(live.tensor.data_ptr() for live in lives if live.nbytes)
        self._places = _places(module, lives)
        self.accept()
        with _lock:
            if any(self._memory & other._memory for other in _watching):
                raise SwapError("a family is attached to this module already; close that one first")
            _watching.add(self)

    def close(self) -> None:
        with _lock:
            _watching.discard(self)

    def accept(self) -> None:
        """Take what is there now as right."""
        self._versions = [_version(live.tensor) for live in self._lives]

    def check(self) -> None:
        """Raise SwapError for a tensor that was moved, replaced or written to."""
        for name, table, leaf, pointer in self._places:
            now = table.get(leaf)
            if now is None or now.data_ptr() != pointer:
                raise SwapError(
                    f"{name!r} was moved or replaced since the store was attached (a .to(), "
                    "a load with assign, a new parameter); attach again"
                )
        for live, version in zip(self._lives, self._versions, strict=True):
            if _version(live.tensor) != version:
                raise SwapError(
                    f"{live.name!r} was written to since the last swap (an optimiser, a load, "
                    "running statistics in training mode); where it is still a task's, verify() "
                    "proves it and allows swaps again"
                )

    def written(self) -> None:
        """A swap wrote: tell autograd, for which a backward pass would now be wrong."""
        for live in self._lives:
            if not live.tensor.is_inference():
                torch.autograd.graph.increment_version(live.tensor)
        self.accept()


def _version(tensor: torch.Tensor) -> int:
    """Writes that torch has counted; inference tensors have no count."""
    return 0 if tensor.is_inference() else tensor._version


def _places(
    module: nn.Module, lives: Iterable[Live]
) -> list[tuple[str, dict[str, torch.Tensor | None], str, int]]:
    """(name, the dict that holds it, its key, address) of everything behind `lives`."""
    storages = {live.tensor.untyped_storage().data_ptr() for live in lives}
    tables = [
        (path, table)
        for path, child in module.named_modules()
        for table in (child._parameters, child._buffers)
    ]
    return [
        (f"{path}.{leaf}" if path else leaf, table, leaf, value.data_ptr())
        for path, table in tables
        for leaf, value in table.items()
        if value is not None
        and value.layout == torch.strided
        and value.untyped_storage().data_ptr() in storages
    ]
