"""The options of `pack`: one frozen object."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from taskstore.errors import InputError, OptionError
from taskstore.executors import Threads, default_jobs, within
from taskstore.format.fidelity import largest_error
from taskstore.format.manifest import TIERS
from taskstore.format.rules.lineage import MAX_DEPTH, USUAL_DEPTH
from taskstore.merging.methods import registry
from taskstore.public import check_fields

# Thresholds that need no data: the best single value, or next to it, on every family that was
# measured (docs/fidelity.md). With lsq the choice hardly matters between 0.4 and 0.6.
METHOD = "lsq"
REST_BITS = 2.0  # keeps 99 % and more on every family that was measured (docs/fidelity.md)
LEAST, FINEST = 0.1, 8.0  # bits of a rest
LAMBDAS: Mapping[str, float] = {"lsq": 0.45}
OTHERS = 0.5
AUTO = "auto"


def auto_lambda(method: str) -> float:
    """Return the threshold of masks over a method's vector that needs no data."""
    return LAMBDAS.get(method, OTHERS)


# Option -> the tiers that it changes; beside other tiers alone it would do nothing and is refused.
USED_BY: Mapping[str, tuple[str, ...]] = {
    "lambda": ("mask",),
    "method": ("mask",),
    "option": ("mask",),
    "statistics": ("mask", "rest"),
    "masks": ("mask",),
    "level": ("mask", "exact"),
    "parent": ("exact",),
    "depth": ("exact",),
}


def usual_tiers(given: Collection[str]) -> str:
    """Return the tiers where none are asked for, beside options that were given."""
    if any(USED_BY.get(option) == ("mask",) for option in given):
        return "mask"
    return "rest" if "residual" in given else AUTO


def check_used(given: Iterable[str], tiers: Collection[str]) -> None:
    """Raise OptionError for an option of `USED_BY` that was given, and that no tier uses.

    `tiers` are names of tiers; AUTO may stand for a rest or masks, and use a level or statistics.
    """
    searched = [tier for tier in tiers if tier.startswith(AUTO)]
    for option in given:
        users = USED_BY.get(option, tuple(tiers))
        if not set(users) & set(tiers) and not (searched and option in ("level", "statistics")):
            there = ",".join(tiers)
            more = users[0] if searched else f"{users[0]},{there}"
            raise OptionError(
                f"{option} does nothing with tiers {there}, only with {' and '.join(users)}: leave "
                f"it out, or ask for tiers {more}"
            )


@dataclass(frozen=True)
class PackOptions:
    """How a family is packed. Raises OptionError for a value that makes no sense or does nothing.

    method         how task vectors are merged, one of merging.MERGES, what it takes, and files of
    merge_options  `measure` where it needs them: task -> file, "" -> that of the base. A rest below
    statistics     two bits takes the gram of them, the task's or the base's, to choose its factors
    lam, lambdas   mask threshold for all tasks (None: AUTO's of the method), and for single ones
                   by name
    masks          task -> file of its mask, where masks are not to be made but taken from the
                   published code (mask_files/npy.py); the multi-task vector is by sum or ties then
    tiers          what is kept of each task, one or more of "mask" (a TALL-mask over one multi-task
                   model), "rest" (what is still missing, quantised) and "exact" (bit for bit), with
                   commas; each is coded given those before it. "auto" chooses a rest of the fewest
                   bits per task, or masks, whose error without data (docs/fidelity.md) is of grade
                   A; "auto:B" or "auto:0.04" takes a larger error. None: "mask" beside options of
                   masks, "rest" beside a residual for all tasks, else "auto"
    own_tiers      task -> its tiers, where they are others than `tiers`; without masks
    residual, residuals  about how many bits per parameter the rest takes, for all tasks and for
                   single ones by name (None: 2, or what auto finds); it adds the tier. Below 2,
                   that for all is their mean: longer task vectors get more
    level          "speed", or "archive": smaller masks, multi-task model and exact tensors, which
                   take longer to code and to decode
    parent, parents  the task that an exact one is coded against: "auto", the one, or the base, that
                   takes the fewest bytes of a sample (the base where masks are kept); "none",
                   always the base; single ones by name
    depth          tasks in a chain of parents, at most
    keep_private   tasks, or all (True), whose tensors of another shape than the base's, or without
                   elements, are kept as they are; else such a task is refused
    base           "embed": carry the base losslessly coded; "reference": only where it is
    max_memory     bytes above the imports; fewer blocks are in flight when it is small
    chunk          elements that are coded together; part of the format, not of the machine
    shard_bytes    no file of the store is larger, unless one tensor is
    """

    lam: float | None = None
    lambdas: Mapping[str, float] = field(default_factory=dict)
    method: str = METHOD
    merge_options: Mapping[str, float] = field(default_factory=dict)
    statistics: Mapping[str, Path] = field(default_factory=dict)
    masks: Mapping[str, Path] = field(default_factory=dict)
    tiers: str | None = None
    own_tiers: Mapping[str, str] = field(default_factory=dict)
    residual: float | None = None
    residuals: Mapping[str, float] = field(default_factory=dict)
    level: Literal["speed", "archive"] = "speed"
    parent: Literal["auto", "none"] = "auto"
    parents: Mapping[str, str] = field(default_factory=dict)
    depth: int = USUAL_DEPTH
    keep_private: bool | frozenset[str] = False
    base: Literal["embed", "reference"] = "embed"
    jobs: int = field(default_factory=default_jobs)
    max_memory: int = 2 << 30
    overwrite: bool = False
    chunk: int = 1 << 18
    shard_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        check_fields(self)
        registry.check(self.method, self.merge_options, packing=True)
        for name, lam in (("all tasks", self.lam_of("")), *self.lambdas.items()):
            if not (math.isfinite(lam) and 0 <= lam <= 1000):
                raise OptionError(f"lambda {lam} of {name} is not a number from 0 to 1000")
        for asked in (*self._asked, *",".join(self.own_tiers.values()).split(",")):
            if asked and asked not in TIERS and asked.partition(":")[0] != AUTO:
                known = ", ".join((AUTO, *TIERS))
                raise OptionError(f"tiers {self.tiers!r}: {asked!r} is none of {known}")
        if self.largest_error is not None:
            self._check_search()
        for name, bits in (("all tasks", self.bits_of("")), *self.residuals.items()):
            if not (math.isfinite(bits) and LEAST <= bits <= FINEST):
                raise OptionError(f"rest bits {bits} of {name}: not a number from 0.1 to 8")
        if self.masks and self.method not in ("sum", "ties"):
            raise OptionError(
                f"masks of a file select from the vector they were made for, {self.method} makes "
                'another; add method="sum", or ties where the masks are of ties'
            )
        check_used([name for name in self._given if name in USED_BY], self._used)
        self._check_statistics()
        if not 1 <= self.depth <= MAX_DEPTH:
            raise OptionError(f"depth {self.depth} is not a number from 1 to {MAX_DEPTH}")
        if self.jobs < 1:
            raise OptionError(f"jobs {self.jobs} is not a positive number")

    @property
    def _given(self) -> list[str]:
        """The options of single tiers that were given, as `USED_BY` names them."""
        given = {
            "lambda": self.lam is not None or self.lambdas,
            "method": self.method != METHOD,
            "option": self.merge_options,
            "statistics": self.statistics,
            "masks": self.masks,
            "level": self.level != "speed",
            "parent": self.parent != "auto" or self.parents,
            "depth": self.depth != USUAL_DEPTH,
            "residual": self.residual,
        }
        return [name for name, value in given.items() if value]

    @property
    def _asked(self) -> list[str]:
        """The tiers as they were asked for; one may be AUTO, with an error."""
        return (usual_tiers(self._given) if self.tiers is None else self.tiers).split(",")

    @property
    def _used(self) -> list[str]:
        """The tiers, as they were asked for; a rest that bits of single tasks add is one."""
        return [*self._asked, *(["rest"] if self.residuals else [])]

    def _check_statistics(self) -> None:
        """Refuse statistics of rests that have no use of them."""
        if self._method_needs_statistics or "rest" not in self.tier_names:
            return
        for task in self.statistics:
            if "mask" in self.tiers_of(task):
                raise OptionError(
                    f"method {self.method!r} uses no statistics, and no rest over masks does; "
                    "leave `statistics` out"
                )
            known = self.largest_error is None or task in self.residuals
            if task and known and self.bits_of(task) >= REST_BITS:
                raise OptionError(
                    f"statistics of {task!r} do nothing for a rest of {self.bits_of(task):g} bits, "
                    "only below 2, where it has a part of low rank: leave them out, or ask for less"
                )

    @property
    def _method_needs_statistics(self) -> bool:
        return bool(registry.info_of(self.method).statistics)

    def _check_search(self) -> None:
        most = self.largest_error
        if not (most is not None and math.isfinite(most) and most > 0):
            raise OptionError(f"tiers {self.tiers!r}: {most} is not a number above 0")
        if {"mask", "rest"} & set(self._asked) or self.residual:
            raise OptionError(
                f"tiers {self.tiers!r} chooses masks or the bits of a rest; leave out mask, rest "
                "and a residual for all tasks, or auto"
            )

    @property
    def largest_error(self) -> float | None:
        """The largest error of a task (format/fidelity.py) where auto chooses; else None."""
        for asked in self._asked:
            word, _, most = asked.partition(":")
            if word == AUTO:
                try:
                    return largest_error(most or "A")
                except InputError as error:
                    raise OptionError(f"tiers {asked}: {error}") from None
        return None

    @property
    def tier_names(self) -> tuple[str, ...]:
        """All tiers in the order in which they build on each other; a rest where auto chooses."""
        own = {tier for tiers in self.own_tiers.values() for tier in tiers.split(",")}
        return tuple(tier for tier in TIERS if tier in {*self._usual, *own})

    def tiers_of(self, task: str) -> tuple[str, ...]:
        """Return the tiers of a task, in that order."""
        own = self.own_tiers.get(task)
        there = self._usual if own is None else own.split(",")
        return tuple(tier for tier in TIERS if tier in there)

    @property
    def _usual(self) -> set[str]:
        found = {"rest" if asked.startswith(AUTO) else asked for asked in self._asked}
        return found | ({"rest"} if self.residual or self.residuals else set())

    def chosen(self, tiers: str, bits: Mapping[str, float], own: Mapping[str, str]) -> PackOptions:
        """Return the options with what auto chose; what nothing uses is dropped."""
        there = {*tiers.split(","), *own.values()}
        level = self.level if there & set(USED_BY["level"]) else "speed"
        coarse = {n: f for n, f in self.statistics.items() if bits.get(n, 0.0) < REST_BITS}
        files = self.statistics if self._method_needs_statistics else coarse if bits else {}
        return replace(
            self, tiers=tiers, residuals=bits, own_tiers=own, level=level, statistics=files
        )

    def check_tasks(self, tasks: Iterable[str]) -> None:
        """Raise OptionError unless every lambda, residual and mask by name names a task."""
        given_by_name: tuple[tuple[str, Iterable[str]], ...] = (
            ("lambda", self.lambdas),
            ("residual", self.residuals),
            ("masks", self.masks),
        )
        measured = {name: path for name, path in self.statistics.items() if name}
        for what, given in (*given_by_name, ("statistics", measured)):
            if unknown := sorted(set(given) - set(tasks)):
                raise OptionError(
                    f"{what} is given for {unknown[0]!r}, which is no task of this family"
                )

        for name, parent in self.parents.items():
            chain = [name, parent]
            while chain[-1] in self.parents and chain[-1] not in chain[:-1]:
                chain.append(self.parents[chain[-1]])
            if chain[-1] in chain[:-1]:
                raise OptionError(f"the parents of {name!r} come back to {chain[-1]!r}")
            if unknown := sorted({name, parent} - set(tasks)):
                raise OptionError(
                    f"parent is given for {name!r}, and {unknown[0]!r} is no task of this family"
                )
            if len(chain) > self.depth:
                raise OptionError(
                    f"{name!r} would be {len(chain)} deep, below {', '.join(chain[1:])}; the "
                    f"deepest may be {self.depth}: raise depth, or name nearer parents"
                )

    def lam_of(self, task: str) -> float:
        """Return the task's own threshold, or the one for all, or the method's; 0: not known."""
        usual = 0.0 if self.masks else auto_lambda(self.method)
        return self.lambdas.get(task, usual if self.lam is None else self.lam)

    def bits_of(self, task: str) -> float:
        """Return about how many bits per parameter the task's rest takes."""
        return self.residuals.get(task, REST_BITS if self.residual is None else self.residual)

    def executor(self, tasks: int, itemsize: int) -> Threads:
        """Return threads with as many blocks in flight as the memory allows, else OptionError."""
        more = len(self.tier_names) - 1
        block = self.chunk * (tasks * (itemsize + 5 + more * (itemsize + 3)) + 16 + 10 * itemsize)
        block += self.chunk * 24 * ("rest" in self.tier_names)
        return within(self.jobs, self.max_memory, block, f"{tasks} tasks")
