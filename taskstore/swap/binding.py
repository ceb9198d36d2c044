"""Matches the tensors of a live module to the store's; refuses those that cannot be swapped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise

import torch
from torch import Tensor, nn

from taskstore.errors import SwapError
from taskstore.kernels.torch_dtypes import DTYPES
from taskstore.models.live_names import Shape, checkpoint_tensors, stored_names
from taskstore.models.spelling.prefixes import by_start

Prefix = str | Mapping[str, str]


@dataclass(frozen=True)
class Live:
    """One tensor in the module's memory; tied tensors are one of these with several names.

    names    names in the store, sorted
    tensor   detached, contiguous, the module's own memory
    """

    names: tuple[str, ...]
    tensor: Tensor

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def dtype(self) -> str:
        """safetensors' name of it."""
        return DTYPES[self.tensor.dtype]

    @property
    def flat(self) -> Tensor:
        """uint8 (bytes,), the same memory."""
        return self.tensor.view(-1).view(torch.uint8)

    @property
    def nbytes(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()


def bind(
    module: nn.Module,
    prefix: Prefix,
    ignore: Sequence[str],
    wanted: Mapping[str, set[Shape]] | None = None,
) -> list[Live]:
    """The module's tensors by their names in the store, in order of the names.

    `prefix` maps the start of a module's name to the start of the store's; a plain string stands
    before every name, and an empty one is found by itself where the names in `wanted` have one
    place only. Names in the store that match a pattern of `ignore` are left alone. Raises
    SwapError where a tensor cannot be written in place.
    """
    starts = {"": prefix} if isinstance(prefix, str) else dict(prefix)
    groups: dict[object, list[str]] = {}
    tensors: dict[str, Tensor] = {}
    every = checkpoint_tensors(module)
    shapes = {name: tuple(tensor.shape) for name, tensor in every.items()}
    other = stored_names(shapes, wanted) if wanted and not prefix else {}
    for own, tensor in every.items():
        name = other.get(own) or _renamed(own, starts)
        if ignored(name, ignore):
            continue
        if name in tensors:
            raise SwapError(f"two tensors of the module are {name!r} in the store; mend the prefix")
        _check(name, tensor)
        tensors[name] = tensor
        place = (str(tensor.device), tensor.data_ptr(), tensor.shape, tensor.dtype)
        groups.setdefault(place if tensor.numel() else name, []).append(name)
    found = [Live(tuple(sorted(names)), tensors[min(names)]) for names in groups.values()]
    _check_overlap(found)
    return sorted(found, key=lambda live: live.name)


def ignored(name: str, patterns: Iterable[str]) -> bool:
    """Whether a shell pattern matches the name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _renamed(name: str, starts: Mapping[str, str]) -> str:
    for own in sorted(starts, key=len, reverse=True):
        if name.startswith(own):
            return starts[own] + name[len(own) :]
    return name


def prefix_hint(live: Iterable[str], stored: Iterable[str]) -> str:
    """Say which prefix gives a module's names the start of the store's; "" where none does."""
    live, stored = set(live), set(stored)
    found, _ = by_start(stored - live, live - stored, lambda *_: True)
    if len(found) < len(stored - live) / 2 or not found:
        return ""
    theirs, own = min(found.items())
    while theirs and own and theirs[-1] == own[-1]:
        theirs, own = theirs[:-1], own[:-1]
    prefix = {own: theirs} if own else theirs
    return f"; other names only: attach with prefix={prefix!r}"


def left_alone(extra: Iterable[Live], lives: Sequence[Live]) -> None:
    """Raise SwapError where a tensor that the store lacks is a copy of one that is swapped."""
    for one in extra:
        for live in lives if one.tensor.dim() > 1 else ():
            alike = one.tensor.shape == live.tensor.shape and one.dtype == live.dtype
            ends = {name.rsplit(".", 2)[-2:][0] for name in one.names}
            if ends & {name.rsplit(".", 2)[-2:][0] for name in live.names}:
                continue  # a second model beside it
            if alike and torch.equal(one.tensor, live.tensor.to(one.tensor.device)):
                raise SwapError(
                    f"the module's {one.name!r}, which the store does not have, is a copy of "
                    f"{live.name!r} and would stay behind; tie them, or attach with "
                    f"ignore=[{one.name!r}]"
                )


def _check(name: str, tensor: Tensor) -> None:
    problem = None
    if tensor.is_meta:
        problem = "is on the meta device: the module is only half loaded; load all of it first"
    elif type(tensor) is not Tensor or tensor.layout != torch.strided or tensor.is_quantized:
        kind = type(tensor).__name__ if type(tensor) is not Tensor else str(tensor.layout)
        problem = f"is no plain dense tensor ({kind}); attach before it is wrapped or quantised"
    elif not tensor.is_contiguous():
        problem = (
            f"is not contiguous (strides {tuple(tensor.stride())}); give the module "
            "tensor.contiguous() in its place"
        )
    elif tensor.device.type == "cpu" and tensor.data_ptr() % tensor.element_size():
        problem = (
            "is not aligned in memory, as its file was mapped; give the module tensor.clone() in "
            "its place"
        )
    elif tensor.dtype not in DTYPES:
        problem = f"has dtype {tensor.dtype}, which no checkpoint holds"
    if problem:
        raise SwapError(f"tensor {name!r} {problem}")


def _check_overlap(lives: Iterable[Live]) -> None:
    ordered = sorted(
        (live for live in lives if live.nbytes),
        key=lambda live: (str(live.tensor.device), live.tensor.data_ptr()),
    )
    for one, two in pairwise(ordered):
        same = one.tensor.device == two.tensor.device
        if same and two.tensor.data_ptr() < one.tensor.data_ptr() + one.nbytes:
            raise SwapError(f"tensors {one.name!r} and {two.name!r} share some of their memory")
