"""Steps of several tasks: which layers compute them, and which tasks they cannot have.

A layer is known by what it is: linear layers and heads, embeddings, RMSNorm and LayerNorm. A weight
that a swap writes in any other layer, or that lies in memory in another way than by whole rows, is
named, and tasks that change it are served by swaps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

from taskstore.errors import UnknownTask
from taskstore.kernels.mixed.matrix import BASE, ITEMSIZE
from taskstore.swap.binding import Live
from taskstore.swap.states import State
from taskstore_serving.mixing.costs import Costs, Linear, measured
from taskstore_serving.mixing.kernels import Kernels, kernels_of
from taskstore_serving.mixing.layers import Layer, Norm
from taskstore_serving.mixing.sources import Source, sources
from taskstore_serving.weights import kernel_order
from taskstore_serving.weights.beside import Beside
from taskstore_serving.weights.family import LiveFamily

_ABSENT = object()


class Mixing:
    """Layers of a model that compute mixed steps. The base must be live in a step."""

    def __init__(
        self,
        model: nn.Module,
        lives: list[Live],
        beside: Beside,
        reordered: Collection[str],
        most: int,
    ) -> None:
        """`reordered`: live tensors in the order of another kernel; `most` rows of a step."""
        self._kernels = kernels_of(beside.lane.device)
        self.step, self._beside = self._kernels.step(most), beside
        self._numbers: dict[State, int] = {None: BASE}
        self._matrices: dict[str, tuple[Any, Live, list[Source]]] = {}
        self._linears: dict[str, Linear] = {}  # what computes a matrix of one task
        self._vectors: list[Any] = []
        self._refused: dict[State, str] = {}
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
        return self._refused.get(task, "")

    def not_mixed(self) -> dict[str, str]:
        """Weights that no mixed step can have, by their layer, and why."""
        return {weight: why for weight, (why, _) in self._astray.items()}

    def costs(self) -> Costs:
        """Measure what steps of one task and of several cost."""
        matrices = [
            (matrix, live.tensor, self._linears[name])
            for name, (matrix, live, _) in self._matrices.items()
            if name in self._linears
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
        for name, (matrix, _, parts) in self._matrices.items():
            for segment, part in enumerate(parts):
                try:
                    part.give(matrix, segment, task, number)
                except ValueError as error:  # no kernel has it so
                    self._refused[task] = f"weight {name!r}: {error}"
        for vectors in self._vectors:
            vectors.learn(number)
        self._numbers[task] = number

    def forget(self, task: str) -> None:
        """Let a task go, also one that is not here."""
        number = self._numbers.pop(task, None)
        self._refused.pop(task, None)
        if number is not None:
            for matrix, _, _ in self._matrices.values():
                matrix.drop(number)

    def rename(self, task: str, name: str) -> None:
        self._numbers[name] = self._numbers.pop(task)
        if task in self._refused:
            self._refused[name] = self._refused.pop(task)

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
        """Make what a module does in a mixed step, or say why it cannot be in one."""
        why = next(
            filter(None, [_problem(self._kernels, module, mine), *map(self._odd, mine.values())]),
            "",
        )
        if why:
            for part, live in mine.items():
                self._astray[f"{name} {part}"] = why, sources(live, self._beside)
            return
        weight = self._matrix(mine["weight"]) if "weight" in mine else None
        bias = self._vectors_of(mine.get("bias"))
        if _plain_norm(module):
            norm = Norm(self.step, module, self._vectors_of(mine.get("weight")), bias)
            self.layers.append(Layer(module, "forward", norm))
            return
        if weight is not None and hasattr(module, "cpu_linear"):
            self._linears[mine["weight"].name] = module.cpu_linear
        matrix = weight or self._kernels.shared(module.weight)
        for attribute, instead in self._kernels.instead(self.step, module, matrix, bias).items():
            self.layers.append(Layer(module, attribute, instead))

    def _odd(self, live: Live) -> str:
        """Why the kernel cannot have a tensor; "" where it can."""
        if live.name in self._reordered and not kernel_order.in_slabs():
            return "is in an order of the processor's own kernel that is not known"
        if live.dtype not in ITEMSIZE:
            return f"is {live.dtype}"
        columns = live.tensor.shape[-1] if live.tensor.dim() == 2 else 1
        if any(part.n % columns for part in sources(live, self._beside)):
            return "is no selection of whole rows"
        return ""

    def _matrix(self, live: Live) -> Any:
        """One of a live tensor, whatever layers read it; a vector's rows have one element."""
        if live.name not in self._matrices:
            columns = live.tensor.shape[-1] if live.tensor.dim() == 2 else 1
            matrix = self._kernels.matrix(live.tensor.numel() // columns, columns, live.tensor)
            parts = sources(live, self._beside)
            for part in parts:
                more = (True,) if live.name in self._reordered else ()
                matrix.segment(part.w0_N, part.d_N, *more)
            self._matrices[live.name] = matrix, live, parts
        return self._matrices[live.name][0]

    def _vectors_of(self, live: Live | None) -> Any:
        if live is None:
            return None
        vectors = self._kernels.vectors(self._matrix(live), live.tensor.dtype)
        self._vectors.append(vectors)
        return vectors


def _problem(kernels: Kernels, module: Any, mine: dict[str, Live]) -> str:
    """Why a module cannot be in a mixed step; "" where it can."""
    if isinstance(module, VocabParallelEmbedding) and module.tp_size > 1:
        return "is cut by tensor parallel"
    dimensions = {part: live.tensor.dim() for part, live in mine.items()}
    linear = isinstance(module, LinearBase | VocabParallelEmbedding)
    if linear and kernels.computes(module) and module.weight.dim() == 2:
        known = {"weight": 2, "bias": 1}
    elif type(module) is nn.Embedding:
        known = {"weight": 2}
    else:
        known = {"weight": 1, "bias": 1} if _plain_norm(module) else {}
    if any(known.get(part) != dimension for part, dimension in dimensions.items()):
        return "is in a layer that mixed steps do not know"
    return ""


def prepare(model: nn.Module, family: LiveFamily, most: int) -> Mixing:
    """Make a family ready for steps of several tasks, once its weights are in their order.

    `most` rows are in a step.
    """
    found = Mixing(model, family.lives, family.beside, family.order.shapes, most)
    for task in family.tasks:
        found.learn(task)
    family.beside.follower = found
    return found


def _plain_norm(module: Any) -> bool:
    if type(module) is RMSNorm:
        return module.variance_size_override is None and module.weight is not None
    return type(module) is nn.LayerNorm
