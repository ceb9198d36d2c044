"""Notices when others changed a module's weights since the last swap.

XOR needs to know what is live; a swap of anything else would make weights of no task. Noticed are
tensors that were moved, replaced or reshaped, writes, and a second family attached to the same
memory. torch counts writes, but not those through `.data`, numpy or dlpack: so 64 to 191 elements
of each tensor are compared too. What is not found is a write that torch does not count and that
leaves all of those as they were; `Attached.verify` finds it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from weakref import WeakSet

import torch
from torch import nn

from taskstore.errors import SwapError
from taskstore.kernels.torch_dtypes import INTEGERS
from taskstore.swap.binding import Live

SAMPLES = 64  # elements of a tensor at least, or all; fewer than three times as many
Place = tuple[int, torch.Size, tuple[int, ...], torch.dtype, torch.device]
_watching: WeakSet[Watch] = WeakSet()
_lock = threading.Lock()


class Watch:
    """Watches the tensors of one attached module. Raises SwapError where another one does."""

    def __init__(self, module: nn.Module, lives: Sequence[Live]) -> None:
        self._lives = lives
        self._memory = frozenset(live.tensor.data_ptr() for live in lives if live.nbytes)
        self._places = _places(module, lives)
        self._samples = _samples(lives)
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
        self._seen = [torch.cat(views) for _, views in self._samples]

    def check(self) -> None:
        """Raise SwapError for a tensor that was moved, replaced or written to."""
        for name, table, leaf, place in self._places:
            now = table.get(leaf)
            if now is None or _place(now) != place:
                raise SwapError(
                    f"{name!r} was moved or replaced since the store was attached (a .to(), "
                    "a load with assign, a new parameter); attach again"
                )
        for live, version in zip(self._lives, self._versions, strict=True):
            if _version(live.tensor) != version:
                _refuse(live.name)
        for (names, views), seen in zip(self._samples, self._seen, strict=True):
            if not torch.equal(torch.cat(views), seen):
                before = torch.split(seen, [view.numel() for view in views])
                same = (torch.equal(*pair) for pair in zip(views, before, strict=True))
                _refuse(next((n for n, ok in zip(names, same, strict=True) if not ok), names[0]))

    def written(self) -> None:
        """A swap wrote: tell autograd, for which a backward pass would now be wrong."""
        for live in self._lives:
            if not live.tensor.is_inference():
                torch.autograd.graph.increment_version(live.tensor)
        self.accept()


def _refuse(name: str) -> None:
    raise SwapError(
        f"{name!r} was written to since the last swap (an optimiser, a load, a write through "
        ".data or numpy, running statistics in training mode); where it is still a task's, "
        "verify() proves it and allows swaps again"
    )


def _samples(lives: Iterable[Live]) -> list[tuple[list[str], list[torch.Tensor]]]:
    """Names, and views of some elements of each: evenly apart, by an odd number, bits as integers.

    One pair for each device and size of an element.
    """
    found: dict[tuple[torch.device, torch.dtype], tuple[list[str], list[torch.Tensor]]] = {}
    for number, live in enumerate(lives):
        bits = INTEGERS.get(live.tensor.element_size(), torch.int64)
        if not live.nbytes:
            continue
        apart = max(1, live.tensor.numel() // SAMPLES - 1 | 1)
        flat_N = live.tensor.view(-1).view(bits)
        names, views = found.setdefault((flat_N.device, bits), ([], []))
        names.append(live.name)
        views.append(flat_N[number * 7919 % apart :: apart])
    return list(found.values())


def _place(tensor: torch.Tensor) -> Place:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _version(tensor: torch.Tensor) -> int:
    """Writes that torch has counted; inference tensors have no count."""
    return 0 if tensor.is_inference() else tensor._version


def _places(
    module: nn.Module, lives: Iterable[Live]
) -> list[tuple[str, dict[str, torch.Tensor | None], str, Place]]:
    """(name, the dict that holds it, its key, place) of everything behind `lives`."""
    storages = {live.tensor.untyped_storage().data_ptr() for live in lives}
    tables = [
        (path, table)
        for path, child in module.named_modules()
        for table in (child._parameters, child._buffers)
    ]
    return [
        (f"{path}.{leaf}" if path else leaf, table, leaf, _place(value))
        for path, table in tables
        for leaf, value in table.items()
        if value is not None
        and value.layout == torch.strided
        and value.untyped_storage().data_ptr() in storages
    ]
