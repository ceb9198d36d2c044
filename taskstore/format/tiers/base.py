"""What every tier offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from numpy.typing import NDArray

from taskstore.format import names
from taskstore.format.manifest import Manifest, Task, Tensor
from taskstore.format.section import Layout, SectionReader
from taskstore.kernels.factored.low_rank import LowRank
from taskstore.kernels.factored.update import Update

Bits = NDArray[Any]  # weights as unsigned integers (N,), N = elements of a chunk
Step = Callable[[int, Bits, str], Bits]  # chunk number, what is below and its dtype -> the task's


@dataclass(frozen=True)
class Spot:
    """One tensor of a task, by its folder; sections are open. `dtype`: the task's own."""

    folder: str
    tensor: str
    dtype: str
    section: Callable[[str], SectionReader]  # by the stem of its files


@dataclass(frozen=True)
class BlockSpec:
    """One block as a tier above the mask is to code it.

    shape    of the base's tensor, in which the block begins at element `start`
    dtype    of the task's weights          step   of a rest, in units of a row's root mean square
    codec    of the block, where the tensor has one of its own in this tier
    low_rank  the part under a rest of codec `factored`
    update   what is under exact weights of codec `low_rank`
    archive  slower and smaller             label  task and tensor, for errors
    lineage  of a task with a parent: the parent's weights and the base's, both of `dtype`
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    step: float
    archive: bool
    label: tuple[str, str]
    lineage: tuple[Bits, Bits] | None = None
    codec: str | None = None
    low_rank: LowRank | None = None
    update: Update | None = None


class Tier(Protocol):
    """One kind of file that a task may have."""

    def stem(self, folder: str) -> str:
        """Return the stem of its files, by the task's folder, or the name of a task that is new."""

    def layouts(self, manifest: Manifest, task: Task) -> dict[str, Layout]:
        """List the sections of its files, by tensor."""

    def files(self, manifest: Manifest, task: str) -> dict[str, Mapping[str, Layout]]:
        """Return stem -> sections of all files that its step reads."""

    def step(self, spot: Spot) -> Step:
        """Return what rebuilds a chunk from what the tiers below rebuild; thread-safe."""


class Above(Tier, Protocol):
    """A tier that codes what is missing below, whatever that is."""

    def encode(self, theta_N: Bits, below_N: Bits, spec: BlockSpec) -> tuple[list[bytes], Bits]:
        """Return stored streams, and the weights that they rebuild; raises NotFinite."""


class TierFile:
    """What tiers have in common: one file of a task's own."""

    name: ClassVar[str]

    def stem(self, folder: str) -> str:
        return names.stem_of(self.name, folder)

    def layouts(self, manifest: Manifest, task: Task) -> dict[str, Layout]:
        raise NotImplementedError

    def files(self, manifest: Manifest, task: str) -> dict[str, Mapping[str, Layout]]:
        stem = self.stem(manifest.folder(task))
        return {stem: self.layouts(manifest, manifest.tasks[task])}


def tensors_with(manifest: Manifest, task: Task, tier: str) -> dict[str, Tensor]:
    """Return the base's tensors that a task has in a tier."""
    return {name: manifest.tensors[name] for name in task.tensors if tier in task.tiers_of(name)}
