"""Whether models were fine-tuned from the base that is named: a look at some of their weights.

Two trainings from different starts have nothing in common weight by weight, and merging them makes
noise (WARM, arXiv 2401.12187, and all task vectors rest on one initialisation). The cosine between
the weights of a fine-tune and those of its base is near 1, even after heavy training; between
strangers it is near 0. It is taken over blocks of the matrices, spread over the model; vectors such
as norms are alike in all models.
"""

from __future__ import annotations

import math

import numpy as np

from taskstore.errors import NotOneFamily
from taskstore.format.dtypes import MASKED
from taskstore.kernels import floats
from taskstore.models.family import Family

LEAST = 0.5  # cosine; lm6's heavy fine-tunes have 0.99
BLOCK, BLOCKS = 1 << 14, 64


def check(family: Family) -> None:
    """Raise NotOneFamily where a model's weights have little to do with the base's."""
    for t, task in enumerate(family.tasks):
        found = cosine(family, t)
        if found < LEAST:
            raise NotOneFamily(
                task.name,
                family.base.name,
                [f"the cosine between their weights is {found:.2f}, so they share no start"],
            )


def cosine(family: Family, t: int) -> float:
    """Of a task's weights and the base's, over a sample; 1 where they share no matrix."""
    base, task = family.base, family.tasks[t]
    names = [
        name
        for name, info in sorted(base.tensors.items())
        if len(info.shape) >= 2
        and info.dtype in MASKED
        and name in task.tensors
        and task.tensors[name].shape == info.shape
    ]
    names = names[:: max(1, math.ceil(len(names) / BLOCKS))]
    dot = ours = theirs = 0.0
    for name in names:
        numel = base.tensors[name].numel
        start = max(0, numel - BLOCK) // 2
        a, b = (
            floats.to_float32(
                model.read(name, start, min(start + BLOCK, numel)), model.tensors[name].dtype
            ).astype(np.float64)
            for model in (base, task)
        )
        dot += float(a @ b)
        ours += float(a @ a)
        theirs += float(b @ b)
    return float(dot / math.sqrt(ours * theirs)) if ours * theirs > 0 else 1.0
