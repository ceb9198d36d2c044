"""Steps of several tasks: which layers compute them, and which tasks they cannot have.

A layer is known by what it is: linear layers and heads, embeddings, RMSNorm and LayerNorm. A weight
that a swap writes in any other layer, or that lies in memory in another way than by whole rows, is
named, and tasks that change it are served by swaps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)

from taskstore.errors import UnknownTask
from taskstore.kernels.mixed.matrix import BASE, ITEMSIZE, MixedMatrix
from taskstore.swap.binding import Live
from taskstore.swap.states import State
from taskstore_serving.mixing.costs import Costs, measured
from taskstore_serving.mixing.layers import Layer, Lookup, Norm, Product, Step, Vectors
from taskstore_serving.mixing.sources import Source, sources
from taskstore_serving.weights import parameters
from taskstore_serving.weights.beside import Beside
from taskstore_serving.weights.family import LiveFamily

_ABSENT = object()


class Mixing:
    """Layers of a model on the CPU that compute mixed steps. The base must be live in a step."""

    def __init__(
        self, model: nn.Module, lives: list[Live], beside: Beside, reordered: Collection[str]
    ) -> None:
        """`reordered`: live tensors that are in the order of another kernel."""
        self.step, self._beside = Step(), beside
        self._numbers: dict[State, int] = {None: BASE}
        self._matrices: dict[str, tuple[MixedMatrix, Live, list[Source]]] = {}
        self._vectors: list[Vectors] = []
        self._astray: dict[str, tuple[str, list[Source]]] = {}
        self.layers: list[Layer] = []
        self._reordered = reordered
        swapped = {live.tensor.data_ptr(): live for live in lives if beside.swaps(live)}
        for name, module in model.named_modules():
            own = dict(module.named_parameters(recurse=False))
            mine = {n: swapped[p.data_ptr()] for n, p in own.items() if p.data_ptr() in swapped}
            if mine:
                self._cover(f"{name} ({type(module).__name__})", module, mine)

    @property
    def tasks(self) -> list[State]:
        """All that may be asked for, the base among them."""
        return list(self._numbers)  # the base is the first

    def unmixable(self, task: State) -> str:
        """Why a task cannot be in a mixed step; "" where it can."""
        if task is None or task not in self._numbers:
            return ""
        for weight, (why, parts) in self._astray.items():
            if any(part.changes(task) for part in parts):
                return f"weight {weight!r} {why}"
        return ""

    def costs(self) -> Costs:
        """Measure what steps of one task and of several cost."""
        matrices = [
            (matrix, live.tensor)
            for matrix, live, _ in self._matrices.values()
            if live.tensor.dim() == 2
        ]
        return measured(matrices, list(self._numbers.values()))

    def number(self, task: State) -> int:
        """Raises UnknownTask."""
        if task not in self._numbers:
            raise UnknownTask(str(task), [name for name in self.tasks if name])
        return self._numbers[task]

    def learn(self, task: str) -> None:
        """Take up a task that lies beside the live weights."""
        taken = set(self._numbers.values())
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        for matrix, _, parts in self._matrices.values():
            for segment, part in enumerate(parts):
                part.give(matrix, segment, task, number)
        for vectors in self._vectors:
            vectors.learn(number)
        self._numbers[task] = number

    def forget(self, task: str) -> None:
        """Let a task go, also one that is not here."""
        number = self._numbers.pop(task, None)
        if number is not None:
            for matrix, _, _ in self._matrices.values():
                matrix.drop(number)

    def rename(self, task: str, name: str) -> None:
        self._numbers[name] = self._numbers.pop(task)

    @contextmanager
    def active(self) -> Iterator[None]:
        """In the block layers compute what `step` shows."""
        before = [layer.module.__dict__.get(layer.attribute, _ABSENT) for layer in self.layers]
        for layer in self.layers:
            layer.module.__dict__[layer.attribute] = layer.instead
        try:
            yield
        finally:
            for layer, old in zip(self.layers, before, strict=True):
                if old is _ABSENT:
                    del layer.module.__dict__[layer.attribute]
                else:
                    layer.module.__dict__[layer.attribute] = old

    def _cover(self, name: str, module: Any, mine: dict[str, Live]) -> None:
        """Make a module's layers, or say of its weights what is amiss."""
        weight, problem = mine.get("weight"), ""
        if isinstance(module, VocabParallelEmbedding) and module.tp_size > 1:
            problem = "is cut by tensor parallel"
        linear = isinstance(module, LinearBase | VocabParallelEmbedding)
        if linear and hasattr(module, "cpu_linear") and set(mine) <= {"weight", "bias"}:
            self._cover_linear(name, module, mine, problem)
        elif type(module) is nn.Embedding and weight is not None:
            self._cover_embedding(name, module, weight, problem)
        elif _plain_norm(module):
            found = {part: self._vector(name, live) for part, live in mine.items()}
            if all(found.values()):
                vectors = found.get("weight"), found.get("bias")
                self.layers.append(Layer(module, "forward", Norm(self.step, module, *vectors)))
        else:
            for part, live in mine.items():
                self._miss(f"{name} {part}", live, problem or "is in a layer that does not mix")

    def _cover_linear(self, name: str, module: Any, mine: dict[str, Live], problem: str) -> None:
        if module.weight.dim() != 2:
            problem = "is no matrix"
        weight = mine.get("weight")
        matrix = None
        if problem:
            for part, live in mine.items():
                self._miss(f"{name} {part}", live, problem)
            return
        bias = self._vector(name, mine["bias"]) if "bias" in mine else None
        matrix = self._matrix(name, weight, module.weight) if weight else _shared(module.weight)
        if matrix is not None and (bias is not None or "bias" not in mine):
            self.layers.append(Layer(module, "cpu_linear", Product(self.step, matrix, bias)))
        if isinstance(module, VocabParallelEmbedding) and not isinstance(module, ParallelLMHead):
            self._cover_embedding(name, module, weight, "")

    def _cover_embedding(self, name: str, module: Any, weight: Live | None, problem: str) -> None:
        matrix = None if weight is None else self._matrix(name, weight, module.weight)
        if matrix is not None:
            lookup = Lookup(self.step, matrix, module.weight.dtype)
            self.layers.append(Layer(module, "forward", lookup))

    def _matrix(self, name: str, live: Live, weight: Tensor) -> MixedMatrix | None:
        return self._made(name, live, *weight.shape)

    def _vector(self, name: str, live: Live) -> Vectors | None:
        matrix = self._made(name, live, live.tensor.numel(), 1)
        if matrix is None:
            return None
        vectors = Vectors(matrix, live.tensor.dtype)
        self._vectors.append(vectors)
        return vectors

    def _made(self, name: str, live: Live, rows: int, columns: int) -> MixedMatrix | None:
        """One matrix of a live tensor, whatever layers read it."""
        if live.name not in self._matrices:
            parts = sources(live, self._beside)
            problem = ""
            if live.name in self._reordered:
                problem = "is in the order of the processor's own kernel (AMX)"
            elif live.dtype not in ITEMSIZE:
                problem = f"is {live.dtype}"
            elif any(part.n % columns for part in parts):
                problem = "is no selection of whole rows"
            if problem:
                self._astray[name] = (problem, parts)
                return None
            matrix = MixedMatrix(rows, columns, live.dtype)
            for part in parts:
                matrix.segment(part.w0_N, part.d_N)
            self._matrices[live.name] = matrix, live, parts
        return self._matrices[live.name][0]

    def _miss(self, name: str, live: Live, problem: str) -> None:
        self._astray[name] = (problem, sources(live, self._beside))


def prepare(model: nn.Module, family: LiveFamily) -> Mixing:
    """Make a family ready for steps of several tasks, once its weights are in their order."""
    found = Mixing(model, family.lives, family.beside, family.order.shapes)
    for task in family.tasks:
        found.learn(task)
    family.beside.follower = found
    return found


def _plain_norm(module: Any) -> bool:
    if type(module) is RMSNorm:
        return module.variance_size_override is None and module.weight is not None
    return type(module) is nn.LayerNorm


def _shared(weight: Tensor) -> MixedMatrix:
    """A matrix that all tasks have as it is."""
    live = Live(("",), weight.data)
    matrix = MixedMatrix(weight.shape[0], weight.shape[1], live.dtype)
    unsigned = f"u{weight.element_size()}"
    matrix.segment(parameters.integers(weight.data).numpy().view(unsigned))
    return matrix
