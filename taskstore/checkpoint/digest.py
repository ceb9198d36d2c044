"""One figure for the weights of a checkpoint, read in blocks, several tensors at a time.

It is what a store's manifest gives for the same weights: the digest of the tensors' checksums.
"""

from __future__ import annotations

from blake3 import blake3

from taskstore.checkpoint.api import Checkpoint
from taskstore.executors import default_jobs, ordered_map
from taskstore.format.digests import model_digest

BLOCK = 1 << 20


def digest_of(checkpoint: Checkpoint, jobs: int | None = None) -> str:
    """The model digest of an open checkpoint; reads all of it."""

    def one(name: str) -> tuple[str, str]:
        state, count = blake3(), checkpoint.tensors[name].numel
        for start in range(0, count, BLOCK):
            values_N = checkpoint.read(name, start, min(start + BLOCK, count))
            state.update(values_N.view("u1"))
        return name, state.hexdigest()

    return model_digest(dict(ordered_map(one, checkpoint.tensors, jobs=jobs or default_jobs())))
