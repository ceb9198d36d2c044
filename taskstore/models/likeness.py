"""How alike the weights of two models are, by a sample: near 1 for a fine-tune and its base.

Between unrelated models the cosine is near 0. It is taken over blocks of matrices. Vectors such as
norms are left out: they are alike in all models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from taskstore.format.dtypes import MASKED
from taskstore.kernels import floats
from taskstore.models.checkpoint import Checkpoint

LEAST = 0.5  # cosine; heavy fine-tunes have 0.99
BLOCK, BLOCKS = 1 << 14, 64


def cosine(
    base: Checkpoint, task: Checkpoint, names: Sequence[tuple[str, str]], blocks: int = BLOCKS
) -> float | None:
    """Return the cosine of the weights under some (base's name, task's name), over a sample.

    Tensors may differ in their first dimension: what both have is compared. None where no matrix
    of floats is among them.
    """
    matrices = [
        (b, t)
        for b, t in names
        if len(base.tensors[b].shape) >= 2
        and base.tensors[b].dtype in MASKED
        and task.tensors[t].dtype in MASKED
        and base.tensors[b].numel
        and task.tensors[t].numel
    ]
    gram = np.zeros((2, 2))
    for b, t in matrices[:: max(1, math.ceil(len(matrices) / blocks))]:
        numel = min(base.tensors[b].numel, task.tensors[t].numel)
        start = max(0, numel - BLOCK) // 2
        stop = min(start + BLOCK, numel)
        pair = [
            floats.to_float32(model.read(name, start, stop), model.tensors[name].dtype)
            for model, name in ((base, b), (task, t))
        ]
        both = np.nan_to_num(np.stack(pair).astype(np.float64), posinf=0, neginf=0)
        gram += both @ both.T
    squares = gram[0, 0] * gram[1, 1]
    return float(gram[0, 1] / math.sqrt(squares)) if squares > 0 else None
