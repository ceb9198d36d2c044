"""From a block of the family to coded streams: what one worker thread does.

Legend: N = elements of a block, S = tasks that mask it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore import bits, codings, floats, rungs
from taskstore.checkpoint import Checkpoint, TensorInfo
from taskstore.errors import NotFinite
from taskstore.format import names
from taskstore.format.dtypes import exact_codec, plain_codec
from taskstore.format.manifest import TIERS
from taskstore.format.section import encode
from taskstore.kernels import cpu, fused
from taskstore.masks.tall import tall
from taskstore.merge import Method
from taskstore.merge.sum import Sum
from taskstore.options import PackOptions
from taskstore.plan import Plan
from taskstore.store_writer import Key, StoreWriter
from taskstore.vectors import Block, Family, Weights, blocks, read, read_base, read_bits

F32 = NDArray[np.float32]


@dataclass
class Part:
    """Streams for one section, and the rebuilt elements of one model's tensor.

    They go into the checksums of `tiers`: their own tier's, or those of all tiers, where they are
    the rows of a grown vocabulary.
    """

    stem: str | None  # None: nothing is stored, only the checksum grows
    streams: list[bytes]
    task: str | None
    rebuilt_N: NDArray[Any]
    tiers: tuple[str, ...] = ("",)
    ones: int = 0
    moved: bool = False
    open_ended: bool = False  # more rows of this tensor follow from another section


@dataclass
class Coded:
    """One block, coded; `write` hands it to the store in order."""

    name: str
    first: bool
    last: bool
    read_bytes: int
    parts: list[Part] = field(default_factory=list)
    multitask: list[bytes] | None = None

    def write(self, writer: StoreWriter) -> None:
        with writer.hashing((k, p.rebuilt_N) for p in self.parts for k in self._keys(p)):
            if self.multitask is not None:
                self._section(writer, names.MULTITASK, self.multitask)
            for part in self.parts:
                if part.stem is not None:
                    self._section(writer, part.stem, part.streams)
        for part in self.parts:
            if part.task is not None:
                writer.count(part.task, self.name, part.ones, moved=part.moved)
            if self.last and not part.open_ended:
                for key in self._keys(part):
                    writer.close_hash(key)

    def _keys(self, part: Part) -> list[Key]:
        return [(part.task, self.name, tier) for tier in part.tiers]

    def _section(self, writer: StoreWriter, stem: str, streams: list[bytes]) -> None:
        if self.first:
            writer.begin(stem, self.name)
        writer.add(stem, streams)
        if self.last:
            writer.end(stem)


class Coder:
    """Knows the family, the plan and the merge; makes the work items of a pack, in order."""

    def __init__(
        self, family: Family, plan: Plan, method: Method, options: PackOptions, in_flight: int
    ) -> None:
        self._family, self._plan, self._method, self._options = family, plan, method, options
        self._carried = options.base == "embed"
        self.codings = codings.choose(family, plan, method, options, in_flight)

    def work(self) -> Iterator[Callable[[], Coded]]:
        """One item per block: the base's tensors by name, then each task's private ones."""
        first = self._options.rungs[0]
        code = self._exact if first == "exact" else self._shared
        for name, info in sorted(self._family.base.tensors.items()):
            if name in self._plan.aliases:
                continue
            for block in self._blocks(name, info, self._plan.tasks_of(name, first)):
                yield lambda block=block: code(block)  # type: ignore[misc]
        for t, planned in enumerate(self._plan.tasks):
            for name, entry in planned.entries.items():
                start = self._private_start(name, entry.info, entry.kind)
                if start is None:
                    continue
                rest = TensorInfo(entry.info.dtype, (entry.info.numel - start,))
                for block in self._blocks(name, rest, (t,)):
                    yield lambda block=block, start=start: self._private(  # type: ignore[misc]
                        block, start
                    )

    def _blocks(self, name: str, info: TensorInfo, tasks: tuple[int, ...]) -> Iterator[Block]:
        """At least one block, so that a tensor without elements has its section too."""
        if not info.numel:
            yield Block(name, info, tasks, 0, 0, 0)
        yield from blocks(name, info, tasks, self._options.chunk)

    def _private_start(self, name: str, info: TensorInfo, kind: str) -> int | None:
        """First element of a task's tensor that is kept privately; None where all is shared."""
        if kind == "private":
            return 0
        if kind in TIERS and info.shape != self._family.base.tensors[name].shape:
            return self._family.base.tensors[name].numel
        return None

    def _coded(self, block: Block, read_bytes: int) -> Coded:
        empty = block.info.numel == 0
        return Coded(
            block.name, block.start == 0, block.stop == block.info.numel or empty, read_bytes
        )

    def _shared(self, block: Block) -> Coded:
        dtype = block.info.dtype
        coded = self._coded(block, self._bytes(block))
        if not block.tasks:
            coded.parts.append(self._base_part(read_base(self._family, block), dtype))
            return coded
        if self._is_common(block):
            self._fused(block, coded)
            return coded
        weights = read(self._family, block)
        coded.parts.append(self._base_part(weights.w0_N, dtype))
        if "mask" in self._options.rungs:
            merged_N = self._method.merge(weights.tau_SN, weights.rows)
            w1_N, coded.multitask = codings.multitask(
                self.codings[block.name], weights, merged_N, dtype
            )
        for s, t in enumerate(block.tasks):
            task, tau_N = self._family.tasks[t], weights.tau_SN[s]
            below_N = cpu.cast(weights.w0_N, dtype, task.tensors[block.name].dtype)
            if "mask" in self._options.rungs:
                coded.parts.append(self._masked(block, task, tau_N, merged_N, weights, w1_N))
                below_N = coded.parts[-1].rebuilt_N
            coded.parts += self._above(block, task, below_N, moved=bool(tau_N.any()))
        if block.info.numel == 0:
            _strip(coded)
        return coded

    def _above(
        self, block: Block, task: Checkpoint, below_N: NDArray[Any], *, moved: bool
    ) -> Iterator[Part]:
        """The tiers above a mask, or above the base's weights, each over the one before."""
        info = task.tensors[block.name]
        above = [tier for tier in self._options.rungs if tier != "mask"]
        theta_N = task.read(block.name, block.start, block.stop) if above else below_N
        for tier in above:
            if tier == "rest":
                codec = rungs.levels_for(
                    block.info.shape, block.start, self._options.bits_of(task.name)
                )
                label = (task.name, block.name)
                streams, below_N = rungs.rest(codec, theta_N, below_N, info.dtype, label)
                stem = names.rest_of(task.name)
            else:
                streams, below_N = encode(exact_codec(info.dtype), theta_N, below_N), theta_N
                stem = names.exact_of(task.name)
            grown = info.shape != block.info.shape
            yield Part(stem, streams, task.name, below_N, (tier,), moved=moved, open_ended=grown)

    def _exact(self, block: Block) -> Coded:
        """The base's part, and each fine-tune's bits coded against it."""
        dtype = block.info.dtype
        coded = self._coded(block, self._bytes(block))
        w0_N = read_base(self._family, block)
        coded.parts.append(self._base_part(w0_N, dtype))
        for t in block.tasks:
            task = self._family.tasks[t]
            theta_N = task.read(block.name, block.start, block.stop)
            coded.parts.append(
                Part(
                    names.exact_of(task.name),
                    encode(exact_codec(dtype), theta_N, w0_N),
                    task.name,
                    theta_N,
                    ("exact",),
                    moved=not np.array_equal(theta_N, w0_N),
                    open_ended=task.tensors[block.name].shape != block.info.shape,
                )
            )
        if block.info.numel == 0:
            _strip(coded)
        return coded

    def _is_common(self, block: Block) -> bool:
        """Whether `kernels.fused` does this block: bf16 everywhere, merged by sum."""
        dtypes = {self._family.tasks[t].tensors[block.name].dtype for t in block.tasks}
        bf16 = dtypes == {"BF16"} and block.info.dtype == "BF16" and block.info.numel > 0
        return bf16 and isinstance(self._method, Sum) and self._options.rungs == ("mask",)

    def _fused(self, block: Block, coded: Coded) -> None:
        w0_N, theta_SN = read_bits(self._family, block)
        tasks = [self._family.tasks[t] for t in block.tasks]
        lam_S = np.array([self._options.lam_of(task.name) for task in tasks], np.float32)
        w1_N, bits_SP, chosen_SN, finite = fused.sum_tall_bf16(theta_SN, w0_N, lam_S)
        if not finite:
            for task, theta_N in zip(tasks, theta_SN, strict=True):
                if not floats.all_finite(theta_N, "BF16"):
                    raise NotFinite(task.name, block.name)
        coded.parts.append(self._base_part(w0_N, "BF16"))
        coded.multitask = encode("ulp", w1_N, w0_N)
        for s, task in enumerate(tasks):
            ones = bits.count(bits_SP[s])
            moved = ones > 0 or not np.array_equal(theta_SN[s], w0_N)
            coded.parts.append(self._mask_part(block, task, bits_SP[s], ones, chosen_SN[s], moved))

    def _mask_part(
        self,
        block: Block,
        task: Checkpoint,
        bits_P: NDArray[np.uint8],
        ones: int,
        rebuilt_N: NDArray[Any],
        moved: bool,
    ) -> Part:
        return Part(
            names.masks_of(task.name),
            encode("bits", bits_P),
            task.name,
            rebuilt_N,
            ("mask",),
            ones=ones,
            moved=moved,
            open_ended=task.tensors[block.name].shape != block.info.shape,
        )

    def _bytes(self, block: Block) -> int:
        n = block.stop - block.start
        models = [self._family.base, *(self._family.tasks[t] for t in block.tasks)]
        return sum(
            n * model.tensors[block.name].nbytes // max(1, model.tensors[block.name].numel)
            for model in models
        )

    def _base_part(self, w0_N: NDArray[Any], dtype: str) -> Part:
        streams = encode(plain_codec(dtype), w0_N) if self._carried and w0_N.size else []
        return Part(names.BASE if self._carried else None, streams, None, w0_N)

    def _masked(
        self,
        block: Block,
        task: Checkpoint,
        tau_N: F32,
        merged_N: F32,
        weights: Weights,
        w1_N: NDArray[Any],
    ) -> Part:
        lam, one_sided = self._options.lam_of(task.name), self._method.one_sided
        bits_P, chosen_N = tall(tau_N, merged_N, weights.w0_N, w1_N, lam, one_sided)
        info = task.tensors[block.name]
        rebuilt_N = cpu.cast(chosen_N, block.info.dtype, info.dtype)
        if info.dtype != block.info.dtype and not floats.all_finite(rebuilt_N, info.dtype):
            raise NotFinite(f"{task.name} rebuilt in {info.dtype}", block.name)
        ones = bits.count(bits_P)
        moved = ones > 0 or bool(tau_N.any())
        return self._mask_part(block, task, bits_P, ones, rebuilt_N, moved)

    def _private(self, block: Block, start: int) -> Coded:
        (t,) = block.tasks
        task, dtype = self._family.tasks[t], block.info.dtype
        raw_N = task.read(block.name, start + block.start, start + block.stop)
        if not floats.all_finite(raw_N, dtype):
            raise NotFinite(task.name, block.name)
        coded = self._coded(block, raw_N.nbytes)
        tiers = self._options.rungs if start else ("",)
        stem, streams = names.private_of(task.name), encode(plain_codec(dtype), raw_N)
        coded.parts.append(Part(stem, streams, task.name, raw_N, tiers))
        if block.info.numel == 0:
            _strip(coded)
        return coded


def _strip(coded: Coded) -> None:
    """A tensor without elements has sections without streams."""
    coded.multitask = None if coded.multitask is None else []
    for part in coded.parts:
        part.streams = []
