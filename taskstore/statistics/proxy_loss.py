"""The gradient of a model's loss on its examples, for merges that follow it.

The loss is that of measuring: minus log p of the answer's tokens, or of the class; its mean over
the examples. Memory is that of the weights and of one gradient of each, in float32.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from taskstore.statistics import measured_model, records
from taskstore.statistics.examples import Example
from taskstore.statistics.job import prepared
from taskstore.statistics.options import MeasureOptions

F32 = NDArray[np.float32]
OPTIONS = MeasureOptions(statistics=("hessian",))  # which wants a label of each example


def gradient(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    options: MeasureOptions = OPTIONS,
    report: Callable[[], None] = lambda: None,
) -> tuple[Mapping[str, F32], float, bool]:
    """Tensor -> d loss / d theta, float32 of its shape; the loss; whether it is a language model.

    Raises InputError (BadExample names a line), MissingExtra or DeviceError.
    """
    found = records.read(Path(data), options.limit, options.seed)
    with measured_model.load(os.fspath(model), options.device) as subject, torch.enable_grad():
        job = prepared(subject, found, options)
        sums = {p: torch.zeros_like(p, requires_grad=False) for p in subject.parameters}
        total = 0.0
        for example in job.examples:
            moved = {name: value.to(subject.device) for name, value in example.inputs.items()}
            here = Example(moved, example.answers, example.labels_A)
            logp_AV = job.encoder.logits(subject.module, here).float().log_softmax(-1)
            assert example.labels_A is not None
            loss = -logp_AV.gather(1, example.labels_A.to(subject.device)[:, None]).sum()
            torch.autograd.backward(loss)
            total += float(loss.detach())
            for parameter in subject.parameters:
                if parameter.grad is not None:
                    sums[parameter] += parameter.grad
                    parameter.grad = None
            report()
        count = len(job.examples)
        named = {n: (g / count).cpu().numpy() for n, g in subject.by_name(sums).items()}
        return named, total / count, subject.kind == "causal"
