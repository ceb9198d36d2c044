"""Weighs the columns of a matrix by the inputs that its layer saw: which part of low rank matters.

An error e of a matrix changes what its layer gives by tr(e G e^T), with G the mean of x x^T over
the layer's inputs x: the `gram` of `taskstore measure`. Its diagonal tells how much each column
matters. So components are those of columns times the roots of that, and come back by dividing. All
of G was better on one family and worse on another (docs/fidelity.md). Only what is chosen changes,
and a reader needs no statistics.

Legend: M = rows, N = columns of the matrix, R = rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import InputError
from taskstore.executors import Executor
from taskstore.models import digest_of
from taskstore.models.family import Family
from taskstore.packing.options import PackOptions
from taskstore.statistics import Statistics

F32 = NDArray[np.float32]
FLOOR = 0.01  # of the mean of a diagonal, that is added to it


@dataclass(frozen=True)
class Importance:
    """The roots of the weights of columns; the weights' mean is 1."""

    roots_N: F32

    def weighed(self, u_MN: F32) -> F32:
        return u_MN * self.roots_N

    def plain(self, right_NR: F32) -> F32:
        """Bring right factors of a weighed matrix back."""
        return right_NR / self.roots_N[:, None]


def file_of(options: PackOptions, task: str) -> Path | None:
    """Return the statistics of a task, else those of the base, where they are given."""
    return options.statistics.get(task, options.statistics.get(""))


def importance(path: Path | None, name: str, columns: int) -> Importance | None:
    """Return the weights of a matrix's columns; None: there are none, all count alike.

    Raises StatisticsError.
    """
    if path is None:
        return None
    with Statistics(path) as statistics:
        there = name in statistics.tensors("gram") and name not in statistics.about.transposed
        if not there or statistics.shape("gram", name)[0] != columns:
            return None
        weights_N = statistics.gram(name).diagonal().astype(np.float64)
    mean = float(weights_N.mean()) if columns else 0.0
    if mean <= 0:
        return None  # a layer that no input reached
    weights_N = weights_N / mean + FLOOR
    return Importance(np.sqrt(weights_N / weights_N.mean()).astype(np.float32))


def check(family: Family, options: PackOptions, executor: Executor) -> None:
    """Raise StatisticsError or InputError unless the files are Gram matrices of these models."""
    if "rest" not in options.tier_names:
        return
    models = {"": family.base, **{task.name: task for task in family.tasks}}
    for task in sorted(options.statistics.keys() & models.keys()):
        path = options.statistics[task]
        with Statistics(path) as statistics:
            if "gram" not in statistics.kinds:
                raise InputError(
                    f"{path} has {' and '.join(statistics.kinds) or 'nothing'} of "
                    f"{statistics.about.name} and not the gram that weighs rests; measure it with "
                    "`taskstore measure --kinds gram`"
                )
            model = models[task]
            statistics.check_model(model.name, model.tensors, digest_of(model, executor))
