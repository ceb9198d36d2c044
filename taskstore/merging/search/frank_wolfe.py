"""Merge by Frank-Wolfe steps towards the fine-tunes (Chen et al., FW-Merging, arXiv 2503.12649).

    theta = the merge of all by `ties` (language models) or `sum` with alpha 0.3 (classifiers)
    ten times, t = 0, 1, ...:
        g = gradient at theta of the mean loss over the tasks' examples
        per tensor: s = the fine-tune whose weights have the smallest cosine with g
        theta += step 2 / (t + 2) (s - theta), for language models where that cosine is negative

A step goes where the loss falls most among the points that fine-tunes are. `step` is 1 for language
models and 0.1 for classifiers, as published. The authors merge each step into theta by the inner
method again; here it is added, so every tensor stays a sum of the first merge and of fine-tunes,
with factors that add up to 1, and nothing but those factors is kept between steps.

Each step writes one model per task, with the task's own head, into a scratch folder, and runs it.

Legend: T = tasks, S = tasks that have a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import OptionError
from taskstore.locations.scratch import scratch
from taskstore.merging.driver import merge_family
from taskstore.merging.job import VectorScan, make_job
from taskstore.merging.methods.api import F32, Info, Method, Rows, Scan, Vectors, Whole
from taskstore.merging.methods.over import Over, merged_below
from taskstore.merging.options import MergeOptions
from taskstore.merging.report import MergeReport
from taskstore.merging.task_vectors import Source
from taskstore.models.compare import compare
from taskstore.models.family import Family
from taskstore.progress import Callback, silent
from taskstore.statistics.proxy_loss import gradient

F64 = NDArray[np.float64]
Kind = tuple[str, float | None, float]  # method, alpha, step
LANGUAGE: Kind = ("ties", None, 1.0)
CLASSIFIER: Kind = ("sum", 0.3, 0.1)


@dataclass(frozen=True)
class Steps:
    """How far it goes; raises OptionError for what makes no sense.

    steps   of Frank-Wolfe
    step    length of a step (None: 1 for language models, 0.1 for classifiers)
    """

    steps: int = 10
    step: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise OptionError(f"{self.steps} steps lead nowhere; give at least 1")
        if self.step is not None and not 0 < self.step <= 1:
            raise OptionError(f"step {self.step:g} is not above 0 and at most 1")


@dataclass(frozen=True)
class Walked:
    """The merged model, and the mean loss over the tasks before each step."""

    losses: list[float]
    report: MergeReport

    def to_dict(self) -> dict[str, Any]:
        return {**self.report.to_dict(), "losses": self.losses}


class Moved(Over):
    """The inner method's vector, moved towards fine-tunes: a tau_0 + sum_t b_t tau_t per tensor."""

    INFO = Info("Frank-Wolfe steps", "a tau_0 + sum_t b_t tau_t", "arXiv 2503.12649")

    def __init__(self, inner: Method, scale: float, factors: Mapping[str, F64]) -> None:
        super().__init__(inner)
        self._scale, self._factors = np.float32(scale), factors

    def fit(self, scan: Scan) -> None:
        self._inner.fit(scan)

    def merge(self, block: Vectors) -> F32:
        merged_N = self._inner.merge(block) * self._scale
        factors = self._factors.get(block.tensor)
        if factors is None:
            return merged_N
        moved_N: F32 = np.float32(factors[0]) * merged_N
        for tau_N, factor in zip(block.tau_SN, factors[1:][block.rows], strict=True):
            if factor:
                moved_N += np.float32(factor) * tau_N
        return moved_N

    def merge_whole(self, matrix: Whole) -> F32:
        merged_OI = merged_below(self._inner, matrix) * self._scale
        factors = self._factors.get(matrix.tensor)
        if factors is None:
            return merged_OI
        moved_OI: F32 = np.float32(factors[0]) * merged_OI
        for s, factor in enumerate(factors[1:][matrix.rows]):
            if factor:
                moved_OI += np.float32(factor) * matrix.read(s)
        return moved_OI


def walk(
    family: Family,
    target: Path,
    options: MergeOptions,
    examples: Mapping[str, Path],
    plan: Steps,
    progress: Callback = silent,
) -> Walked:
    """Write the model after the last step to the folder `target`; the options' method is not used.

    `examples`: task -> a file of them, as `measure` reads them. Raises InputError for models or
    files that cannot be used, and what `merge` does; nothing is at `target` then.
    """
    names = [task.name for task in family.tasks]
    if lacking := [name for name in names if name not in examples]:
        raise OptionError(
            f"method 'fw' follows the loss of every task, and {lacking[0]!r} has no examples; give "
            f"examples={{{lacking[0]!r}: FILE}}"
        )
    if unknown := sorted(set(examples) - set(names)):
        raise OptionError(f"examples are given for {unknown[0]!r}, which is none of the models")
    factors, losses = dict[str, F64](), list[float]()
    kind, length = LANGUAGE, plan.step
    for t in range(plan.steps):
        gradients, loss, language = _gradients(family, target, options, kind, factors, examples)
        if not t and not language:
            kind = CLASSIFIER
            gradients, loss, _ = _gradients(family, target, options, kind, factors, examples)
        losses.append(loss)
        length = kind[2] if plan.step is None else plan.step
        gamma = length * 2 / (t + 2)
        for tensor, s in _chosen(family, options, gradients, only_falling=language).items():
            own = factors.setdefault(tensor, np.eye(1 + len(names))[0])
            own *= 1 - gamma
            own[1 + s] += gamma
    report = _merge(family, target, options, kind, factors, _section(losses, gamma), progress)
    return Walked(losses, report)


def _gradients(
    family: Family,
    target: Path,
    options: MergeOptions,
    kind: Kind,
    factors: Mapping[str, F64],
    examples: Mapping[str, Path],
) -> tuple[dict[str, F32], float, bool]:
    """The mean over the tasks of the gradient at the merged model, of the loss; its kind."""
    total, loss, language = dict[str, F32](), 0.0, True
    base = family.base.tensors
    for task, entries in zip(family.tasks, compare(family).tasks, strict=True):
        own_head = any(entry.kind == "private" for entry in entries.values())
        head = task.name if own_head else None
        with scratch(target) as folder:
            own = replace(options, private_from=head, dtype="F32")
            _merge(family, folder / "model", own, kind, factors)
            found, its_loss, language = gradient(folder / "model", examples[task.name])
        loss += its_loss / len(family.tasks)
        for tensor, gradient_N in found.items():
            if tensor in base and base[tensor].shape == gradient_N.shape:
                total[tensor] = total.get(tensor, 0) + gradient_N
    return total, loss, language


def _merge(
    family: Family,
    target: Path,
    options: MergeOptions,
    kind: Kind,
    factors: Mapping[str, F64],
    section: str = "",
    progress: Callback = silent,
) -> MergeReport:
    method, alpha, _ = kind
    inner = replace(options, method=method, alpha=alpha)
    moved = Moved(inner.made(), inner.scale, factors)
    source = Source(family, moved, options.chunk)
    return merge_family(
        family, target, replace(inner, alpha=1.0), progress, source, section=section
    )


def _chosen(
    family: Family, options: MergeOptions, gradients: Mapping[str, F32], *, only_falling: bool
) -> dict[str, int]:
    """Tensor -> the task with the smallest cosine of its weights and the gradient."""
    plain, found = replace(options, method="sum", alpha=None), dict[str, F64]()
    rows: dict[str, Rows] = {}
    with make_job(family, plain, silent, None, {}) as job:
        base = family.base.tensors
        shared = [(n, base[n], out.tasks) for n, out in job.outputs.merged() if n in gradients]
        scan = VectorScan(job.source, shared, job.executor, job.meter.add)
        products = partial(_products, {n: g.reshape(-1) for n, g in gradients.items()})
        for tensor, (tasks, sums_2S) in scan.blocks(products):
            rows[tensor] = tasks
            found[tensor] = found[tensor] + sums_2S if tensor in found else sums_2S
    chosen = {}
    for tensor, (dots_S, squares_S) in found.items():
        cosines_S = dots_S / np.sqrt(np.maximum(squares_S, 1e-30))
        s = int(np.argmin(cosines_S))
        if cosines_S[s] < 0 or not only_falling:
            chosen[tensor] = int(rows[tensor][s])
    return chosen


def _products(gradients: Mapping[str, F32], block: Vectors) -> tuple[Rows, F64]:
    """<theta_s, g> and |theta_s|^2 of a block, (2, S)."""
    stop = block.start + block.theta0_N.size
    gradient_N = gradients[block.tensor][block.start : stop].astype(np.float64)
    theta_SN = (block.theta0_N + block.tau_SN).astype(np.float64)
    return block.rows, np.stack([theta_SN @ gradient_N, (theta_SN**2).sum(1)])


def _section(losses: list[float], last: float) -> str:
    """What was done, for the model card."""
    shown = ", ".join(f"{loss:.4g}" for loss in losses)
    return (
        f"\n## Frank-Wolfe steps\n\n{len(losses)} steps towards fine-tunes (arXiv 2503.12649), the "
        f"last one of {last:.3g}. Mean loss of the tasks' examples before each: {shown}.\n"
    )
