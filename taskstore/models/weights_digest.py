"""Digest the weights of a checkpoint: a sample, or all, in blocks, several tensors at a time.

The latter is what a store's manifest gives for the same weights: the digest of the tensors'
checksums.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import msgspec
from blake3 import blake3

from taskstore.executors import Executor
from taskstore.format.digests import model_digest
from taskstore.models.checkpoint import Checkpoint

BLOCK = 1 << 20
LOOKS, LOOK = 256, 256  # tensors of a model, about, and elements of each, that tell its weights


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


def sampled(model: Checkpoint) -> str:
    """Digest what headers say of a model's tensors, its size and commit, and some of its weights.

    One that was trained on in its place has other weights under the same headers.
    """
    every = sorted((name, i.dtype, list(i.shape)) for name, i in model.tensors.items())
    known = [every, model.original_bytes, model.revision, model.digest]
    state = blake3(msgspec.json.encode(known))
    if not model.digest and os.path.isabs(
        model.source or ""
    ):  # elsewhere a few bytes may cost a window
        for name, info in list(model.tensors.items())[:: max(1, len(every) // LOOKS)]:
            middle = info.numel // 2
            state.update(model.read(name, middle, min(info.numel, middle + LOOK)).tobytes())
    return state.hexdigest()
