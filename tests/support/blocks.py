"""Task vectors as merge methods see them: a matrix, or whole models, in blocks of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.floats import from_float32
from taskstore.merging.methods import Vectors, Whole, make
from taskstore.merging.methods.api import Unkept

F32 = NDArray[np.float32]


class Flat(Unkept):
    """A scan over a (T, d) matrix that every task has whole."""

    def __init__(self, tau_TN: F32, block: int) -> None:
        self.tau_TN, self.block = tau_TN, block
        self.rows = np.arange(tau_TN.shape[0])

    @property
    def names(self) -> list[str]:
        return [f"task{t}" for t in range(len(self.tau_TN))]

    def elements(self) -> list[int]:
        return [self.tau_TN.shape[1]] * len(self.tau_TN)

    def slices(self) -> Iterator[Vectors]:
        for start in range(0, self.tau_TN.shape[1], self.block):
            yield vectors(self.tau_TN[:, start : start + self.block], self.rows, start)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"w": self.tau_TN.shape[1:]}

    def whole(self, tensor: str) -> Whole:
        raise AssertionError(f"{tensor} is no matrix")

    def blocks(self, function: Callable[[Vectors], Any]) -> Iterator[tuple[str, Any]]:
        for block in self.slices():
            yield block.tensor, function(block)


def vectors(tau_SN: F32, rows: NDArray[np.intp], start: int = 0, **changes: Any) -> Vectors:
    """A block of a tensor "w" whose base is zero, in fp32."""
    n = tau_SN.shape[1]
    block = Vectors(
        tensor="w",
        shape=(start + n,),
        dtype="F32",
        start=start,
        w0_N=np.zeros(n, np.uint32),
        theta0_N=np.zeros(n, np.float32),
        tau_SN=np.ascontiguousarray(tau_SN),
        rows=rows,
        weight_S=np.ones(rows.size, np.float32),
        statistics={},
    )
    return replace(block, **changes)


def merge(name: str, tau_TN: F32, block: int = 1000, **options: float) -> F32:
    method = make(name, options)
    scan = Flat(tau_TN, block)
    method.fit(scan)
    return np.concatenate([method.merge(part) for part in scan.slices()])


@dataclass
class Models(Unkept):
    """Fine-tunes as a merge reads them: several tensors, some of which a task may lack.

    tasks       tensor -> task vector, float32 of the tensor's shape, per task
    base        tensor -> theta_0, in values of `dtype`; zeros where nothing is said
    statistics  kind -> tensor -> float32, per task; of the base under KIND_base
    weights     per task
    """

    tasks: Sequence[Mapping[str, F32]]
    base: Mapping[str, F32] = field(default_factory=dict)
    dtype: str = "F32"
    statistics: Mapping[str, Sequence[Mapping[str, F32]]] = field(default_factory=dict)
    weights: Sequence[float] = ()
    names: list[str] = field(default_factory=list)
    block: int = 1000
    weighted: bool = True  # vectors are multiplied by their weights
    whole_rows: bool = False  # blocks hold whole rows

    def __post_init__(self) -> None:
        self.names = self.names or [f"task{t}" for t in range(len(self.tasks))]
        self._weight_T = np.array(self.weights or [1] * len(self.tasks), np.float32)
        self.tensors = sorted({name for task in self.tasks for name in task})

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {tensor: self.shape_of(tensor) for tensor in self.tensors}

    def elements(self) -> list[int]:
        return [sum(tau.size for tau in task.values()) for task in self.tasks]

    def blocks(self, function: Callable[[Vectors], Any]) -> Iterator[tuple[str, Any]]:
        for tensor in self.tensors:
            for block in self.slices(tensor):
                yield tensor, function(block)

    def slices(self, tensor: str) -> Iterator[Vectors]:
        rows = self._rows(tensor)
        tau_SN = np.stack([self._tau(t, tensor).reshape(-1) for t in rows])
        theta0_N = self.base.get(tensor, np.zeros(tau_SN.shape[1], np.float32)).reshape(-1)
        found: dict[str, F32] = {}
        for kind, models in self.statistics.items():
            chosen = models if kind.endswith("_base") else [models[t] for t in rows]
            if all(tensor in model for model in chosen) and kind != "gram":
                found[kind] = np.stack([model[tensor].reshape(-1) for model in chosen])
        width = self.shape_of(tensor)[-1] if self.whole_rows else 1
        size = max(1, self.block // width) * width
        for start in range(0, theta0_N.size, size):
            part = slice(start, start + size)
            yield vectors(
                tau_SN[:, part],
                np.array(rows, np.intp),
                start,
                tensor=tensor,
                shape=self.shape_of(tensor),
                dtype=self.dtype,
                w0_N=from_float32(theta0_N[part], self.dtype),
                theta0_N=theta0_N[part],
                weight_S=self._weight_T[rows],
                statistics={kind: np.ascontiguousarray(a[:, part]) for kind, a in found.items()},
            )

    def whole(self, tensor: str) -> Whole:
        rows = self._rows(tensor)
        return Whole(
            tensor,
            self.shape_of(tensor),
            np.array(rows, np.intp),
            self._weight_T[rows],
            lambda s: self._tau(rows[s], tensor),
            lambda kind, s: self.statistics[kind][rows[s]][tensor],
            lambda function: np.concatenate(
                [function(block) for block in self.slices(tensor)]
            ).reshape(self.shape_of(tensor)),
        )

    def _rows(self, tensor: str) -> list[int]:
        return [t for t, task in enumerate(self.tasks) if tensor in task]

    def _tau(self, t: int, tensor: str) -> F32:
        factor = self._weight_T[t] if self.weighted else np.float32(1)
        return np.asarray(self.tasks[t][tensor] * factor, np.float32)

    def shape_of(self, tensor: str) -> Any:
        return next(task[tensor].shape for task in self.tasks if tensor in task)


def merge_models(
    name: str, models: Models, options: Mapping[str, float] | None = None
) -> dict[str, F32]:
    """Every tensor's merged vector, as a merge of whole models makes them."""
    method = make(name, options, merging=True)
    models = replace(models, weighted=not method.weighs, whole_rows=method.rows)
    grams = models.statistics.get("gram", ({},))
    method.matrices = frozenset(n for n in models.tensors if all(n in model for model in grams))
    method.fit(models)
    merged = {}
    for tensor in models.tensors:
        shape = models.shape_of(tensor)
        if method.wants_whole(tensor, shape):
            merged[tensor] = method.merge_whole(models.whole(tensor))
        else:
            parts = [method.merge(block) for block in models.slices(tensor)]
            merged[tensor] = np.concatenate(parts).reshape(shape)
    return merged


SHAPES: Mapping[str, tuple[int, ...]] = {
    "a.weight": (12, 9),
    "b": (70,),
    "c.weight": (8, 20),
    "d": (3, 4, 5),
    "h.0.b": (7,),
    "h.1.b": (6,),
    "h.2.b": (2, 2, 2),
}


def random_models(tasks: int = 4, seed: int = 0, lacking: bool = True, **changes: Any) -> Models:
    """Random fine-tunes of four tensors; the second lacks "b", all but the first two "d"."""
    rng = np.random.default_rng(seed)
    made = [
        {n: rng.standard_normal(s).astype("f4") for n, s in SHAPES.items()} for _ in range(tasks)
    ]
    if lacking and tasks > 2:
        del made[1]["b"]
        for task in made[2:]:
            del task["d"]
    return Models(made, **{"block": 50, **changes})


def close(found: Mapping[str, F32], wanted: Mapping[str, Any], atol: float = 2e-6) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=atol, err_msg=name)
