"""Check that models were fine-tuned from the base, by the cosine of some of their weights.

Models trained from different starts have nothing in common weight by weight, and merging them makes
noise: WARM (arXiv 2401.12187) and all task vectors need one initialisation. The cosine between the
weights of a fine-tune and those of its base is near 1, even after heavy training. Between unrelated
models it is near 0. It is taken over blocks of matrices, spread over the model. Vectors such as
norms are left out: they are alike in all models.
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
    """Raise NotOneFamily for a model whose cosine with the base is below `LEAST`."""
    for t, task in enumerate(family.tasks):
        found = cosine(family, t)
        if found < LEAST:
            raise NotOneFamily(
                task.name,
                family.base.name,
                [f"the cosine between their weights is {found:.2f}, so they share no start"],
            )


def cosine(family: Family, t: int) -> float:
    """The cosine of a task's weights and the base's, over a sample; 1 if they share no matrix."""
    base, task = family.base, family.tasks[t]
    theirs = {name: info.shape for name, info in task.tensors.items()}
    names = [
        name
        for name, info in sorted(base.tensors.items())
        if info.dtype in MASKED and len(info.shape) >= 2 and theirs.get(name) == info.shape
    ]
    names = names[:: max(1, math.ceil(len(names) / BLOCKS))]
    gram = np.zeros((2, 2))
    for name in names:
        numel = base.tensors[name].numel
        start = max(0, numel - BLOCK) // 2
        stop = min(start + BLOCK, numel)
        pair = [
            floats.to_float32(model.read(name, start, stop), model.tensors[name].dtype)
            for model in (base, task)
        ]
        both = np.stack(pair).astype(np.float64)
        gram += both @ both.T
    squares = gram[0, 0] * gram[1, 1]
    return float(gram[0, 1] / math.sqrt(squares)) if squares > 0 else 1.0
