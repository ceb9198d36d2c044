"""Find tensors with equal bytes: tied weights held twice, and integers that never change.

Most checkpoints leave tied weights out; some hold both copies. Such a pair is kept once, as an
alias, when it is equal in the base and in every task that has it: then its masks are equal too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from taskstore.models import Checkpoint
from taskstore.models.family import Family

BLOCK, SAMPLED = 1 << 20, 32
HEAD = 64  # elements of a tensor that are looked at first
AT_ONCE = 16  # tensors: of a model elsewhere each is a request


def same_bytes(a: Checkpoint, name_a: str, b: Checkpoint, name_b: str) -> bool:
    """Tell whether dtype, shape and bits are the same; stops at the first block that differs."""
    info = a.tensors[name_a]
    if info != b.tensors[name_b]:
        return False
    return all(
        np.array_equal(
            a.read(name_a, start, min(start + BLOCK, info.numel)),
            b.read(name_b, start, min(start + BLOCK, info.numel)),
        )
        for start in range(0, info.numel, BLOCK)
    )


def twins(family: Family) -> list[tuple[str, str]]:
    """Return pairs of fine-tunes that are the same model, bit for bit; each is named once more."""
    found: list[tuple[str, str]] = []
    kinds: dict[object, list[Checkpoint]] = {}
    named = [(task, sorted(task.tensors)) for task in family.tasks]
    samples = [(task, names[:: max(1, len(names) // SAMPLED)]) for task, names in named]
    heads = _heads([(task, name) for task, sample in samples for name in sample])
    for (task, names), (_, sample) in zip(named, samples, strict=True):
        own = tuple(next(heads) for _ in sample)
        key = (tuple((n, task.tensors[n]) for n in names), own)
        for other in kinds.setdefault(key, []):
            if all(same_bytes(task, name, other, name) for name in names):
                found.append((other.name, task.name))
                break
        else:
            kinds[key].append(task)
    return found


def _heads(tensors: Sequence[tuple[Checkpoint, str]]) -> Iterator[bytes]:
    """Yield the first elements of each tensor, in order; many are read at once."""

    def head(tensor: tuple[Checkpoint, str]) -> bytes:
        model, name = tensor
        return model.read(name, 0, min(HEAD, model.tensors[name].numel)).tobytes()

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="taskstore-heads") as pool:
        yield from pool.map(head, tensors)


def tied(family: Family) -> dict[str, str]:
    """Return tensor of the base -> an earlier one with its bytes, there and in every task.

    What a store says of its tasks holds for those that join it.
    """
    if family.aliases is not None:
        return dict(family.aliases)
    aliases: dict[str, str] = {}
    seen: dict[object, list[str]] = {}
    base = family.base
    names = [n for n, i in sorted(base.tensors.items()) if len(i.shape) > 1 and i.numel]
    for name, print_ in zip(names, _heads([(base, name) for name in names]), strict=True):
        info = base.tensors[name]
        for other in seen.setdefault((info, print_), []):
            if _tied_everywhere(family, name, other):
                aliases[name] = other
                break
        else:
            seen[info, print_].append(name)
    return aliases


def _tied_everywhere(family: Family, name: str, other: str) -> bool:
    """Tell whether two tensors are equal in the base, and in each task that has `name`."""
    if not same_bytes(family.base, name, family.base, other):
        return False
    return all(
        other in task.tensors and same_bytes(task, name, task, other)
        for task in family.tasks
        if name in task.tensors
    )
