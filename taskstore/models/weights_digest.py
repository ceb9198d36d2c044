"""One figure for the weights of a checkpoint, read in blocks, several tensors at a time.

It is what a store's manifest gives for the same weights: the digest of the tensors' checksums.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from blake3 import blake3

from taskstore.executors import default_jobs, ordered_map
from taskstore.format.digests import model_digest
from taskstore.models.checkpoint import Checkpoint

BLOCK = 1 << 20


def tensor_digests(
    checkpoint: Checkpoint, names: Iterable[str], jobs: int
) -> Iterator[tuple[str, str]]:
    """(name, BLAKE3 of the tensor's bytes), in the order of `names`."""

    def one(name: str) -> tuple[str, str]:
        state, count = blake3(), checkpoint.tensors[name].numel
        for start in range(0, count, BLOCK):
            values_N = checkpoint.read(name, start, min(start + BLOCK, count))
            state.update(values_N.view("u1"))
        return name, state.hexdigest()

    return ordered_map(one, names, jobs=jobs)


def digest_of(checkpoint: Checkpoint, jobs: int | None = None) -> str:
    """The model digest of an open checkpoint; reads all of it."""
    found = tensor_digests(checkpoint, checkpoint.tensors, jobs or default_jobs())
    return model_digest(dict(found))
