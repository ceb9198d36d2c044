"""Digest the weights of a checkpoint, read in blocks, several tensors at a time.

It is what a store's manifest gives for the same weights: the digest of the tensors' checksums.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from blake3 import blake3

from taskstore.executors import Executor
from taskstore.format.digests import model_digest
from taskstore.models.checkpoint import Checkpoint

BLOCK = 1 << 20


def tensor_digests(
    checkpoint: Checkpoint, names: Iterable[str], executor: Executor
) -> Iterator[tuple[str, str]]:
    """Yield (name, BLAKE3 of the tensor's bytes), in the order of `names`."""
    return executor.map(_digest, checkpoint, names)


def _digest(checkpoint: Checkpoint, name: str) -> tuple[str, str]:
    state, count = blake3(), checkpoint.tensors[name].numel
    for start in range(0, count, BLOCK):
        state.update(checkpoint.read(name, start, min(start + BLOCK, count)).view("u1"))
    return name, state.hexdigest()


def digest_of(checkpoint: Checkpoint, executor: Executor) -> str:
    """Return the model digest of an open checkpoint; reads all of it."""
    return model_digest(dict(tensor_digests(checkpoint, checkpoint.tensors, executor)))
