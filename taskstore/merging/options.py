"""What a user chooses about a merge."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taskstore.errors import OptionError
from taskstore.executors import Threads, default_jobs, within
from taskstore.format.dtypes import MASKED
from taskstore.format.weight_files import SHARD_BYTES
from taskstore.merging.methods import Info, Method, registry
from taskstore.public import check_fields


@dataclass(frozen=True)
class MergeOptions:
    """The options of one merge; raises OptionError for a value that makes no sense.

    method          one of methods.MERGES, or several: "dare+ties", "trust_region+wudi+lines"
    method_options  the numbers that the method takes
    alpha           scale of the merged vector, or the method's own alpha if its formula has one
                    (None: the method's usual one, 1 for most)
    weights         task -> weight, may be negative; 1 for tasks that are not named
    layer_weights   the same for each of so many groups of layers, shallow ones first; `weights` are
                    then those of tensors that are of no layer
    dtype           of the merged model's floats (None: each tensor as in the base)
    tokenizer_from  task whose config, tokenizer and extra rows of a vocabulary the model gets
    assets_from     task, or the base, whose config and tokenizer the model gets, as they are
                    (None: the base's, with what all models share in its place)
    private_from    task whose own tensors (heads), which the base lacks, the model gets
    statistics      task -> file of `measure`; "" -> that of the base
    unrelated       also take models that do not look like fine-tunes of the base
    max_memory      bytes above what the imports take; it limits the blocks in flight
    chunk           elements of a block; the result does not depend on it
    """

    method: str
    method_options: Mapping[str, float] = field(default_factory=dict)
    alpha: float | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    layer_weights: Sequence[Mapping[str, float]] = ()
    dtype: str | None = None
    tokenizer_from: str | None = None
    assets_from: str | None = None
    private_from: str | None = None
    statistics: Mapping[str, Path] = field(default_factory=dict)
    unrelated: bool = False
    jobs: int = field(default_factory=default_jobs)
    max_memory: int = 2 << 30
    shard_bytes: int = SHARD_BYTES
    overwrite: bool = False
    chunk: int = 1 << 16

    def __post_init__(self) -> None:
        check_fields(self)
        registry.check(self.method, self.method_options)
        registry.check(self.method, self._numbers)
        if (self.weights or self.layer_weights) and not self.info.weights:
            raise OptionError(
                f"method {self.method!r} takes no weights; leave them out, or merge by average"
            )
        if self.alpha is not None and not math.isfinite(self.alpha):
            raise OptionError(f"alpha {self.alpha} is not a finite number")
        for name, weight in self._all_weights:
            if not math.isfinite(weight):
                raise OptionError(f"weight {weight} of {name!r} is not a finite number")
        if self.dtype is not None and self.dtype not in MASKED:
            raise OptionError(f"dtype {self.dtype!r} is none of {', '.join(sorted(MASKED))}")
        if self.assets_from is not None and self.tokenizer_from is not None:
            raise OptionError("tokenizer_from takes the assets, too; leave assets_from out")
        if self.jobs < 1:
            raise OptionError(f"jobs {self.jobs} is not a positive number")

    @property
    def info(self) -> Info:
        return registry.info_of(self.method)

    @property
    def scale(self) -> float:
        """Factor of the merged vector: alpha, or 1 if the method's formula has alpha inside."""
        own = "alpha" in registry.options_of(self.method)
        return 1.0 if own else self.info.alpha if self.alpha is None else self.alpha

    @property
    def last(self) -> int | None:
        """How many checkpoints of a run count; None: all."""
        lawa = registry.split(self.method).method == "lawa"
        return int(self.made().options["k"]) if lawa else None

    def made(self) -> Method:
        """The method, ready to be fitted."""
        return registry.make(self.method, self._numbers, merging=True)

    @property
    def _numbers(self) -> Mapping[str, float]:
        """The method's options; alpha is among them if the method has it as an option."""
        if self.alpha is None or "alpha" not in registry.options_of(self.method):
            return self.method_options
        return {**self.method_options, "alpha": self.alpha}

    @property
    def _all_weights(self) -> list[tuple[str, float]]:
        return [pair for of in (self.weights, *self.layer_weights) for pair in of.items()]

    def check_tasks(self, tasks: Iterable[str], base: str = "base") -> None:
        """Raise OptionError for a name that is no model's, or a number the method does not take."""
        known = set(tasks)
        named = {
            "a weight": dict(self._all_weights),
            "statistics": [name for name in self.statistics if name],
            "tokenizer_from": filter(None, [self.tokenizer_from]),
            "private_from": filter(None, [self.private_from]),
            "assets_from": {self.assets_from or base} - {base, "base"},
        }
        for what, names in named.items():
            if unknown := sorted(set(names) - known):
                raise OptionError(
                    f"{what} is given for {unknown[0]!r}, which is none of the models "
                    f"({', '.join(sorted(known))})"
                )
        if len(known) < self.info.least or 0 < self.info.most < len(known):
            wanted = f"at least {self.info.least}" if len(known) < self.info.least else "only one"
            raise OptionError(
                f"method {self.method!r} takes {wanted} of the models beside the base, and "
                f"{len(known)} {'is' if len(known) == 1 else 'are'} given"
            )

    def executor(self, tasks: int, matrix: int = 0) -> Threads:
        """Return threads with as many blocks in flight as the memory allows, else OptionError.

        `matrix`: bytes that are taken by matrices, which a method wants whole.
        """
        kinds = 1 + len(self.info.statistics)
        block = self.chunk * (tasks * (4 + 4 * kinds) + 24)
        return within(self.jobs, self.max_memory - matrix, block, f"{tasks} models")
