"""The options of `add` and `replace`: one frozen object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from taskstore.errors import OptionError
from taskstore.executors import default_jobs
from taskstore.format.fidelity import GRADES
from taskstore.format.rules import lineage
from taskstore.packing.options import AUTO, REST_BITS, PackOptions, auto_lambda
from taskstore.store import Store


@dataclass(frozen=True)
class AddOptions:
    """How fine-tunes join a store; None: as the tasks that are there.

    tiers         what is kept of each, as of `pack`; None: the tiers of the task that is replaced,
                  else those that most tasks of the store have
    residual      about how many bits per parameter a rest takes; residuals: for single tasks
    lam           threshold of masks
    statistics    gram of `measure`, for rests below two bits: task -> file, "" -> the base's
    parents       task -> the task of the store, or of those that join it, that it is coded against
                  where it is exact
    parent        of the others: "auto" takes the nearest task, of the store or of those that join
                  it, or the base; "none" the base
    max_error     the largest error (format/fidelity.py) of masks alone, or of a rest whose bits are
                  not given. What masks do not keep gets a rest, of the fewest bits, and what no
                  rest keeps is exact. None: any, with the bits that are there
    keep_private  as of `pack`
    repack        merge and mask all tasks anew; the store's tasks must be exact for that
    """

    tiers: str | None = None
    residual: float | None = None
    residuals: Mapping[str, float] = field(default_factory=dict)
    lam: float | None = None
    statistics: Mapping[str, Path] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)
    parent: Literal["auto", "none"] = "auto"
    max_error: float | None = GRADES["A"]
    keep_private: bool | frozenset[str] = False
    repack: bool = False
    jobs: int = field(default_factory=default_jobs)
    max_memory: int = 2 << 30

    @property
    def rest(self) -> str:
        """The tiers of what gets a rest, as `pack` takes them: with bits by measure, or given."""
        if self.residual or self.max_error is None:
            return "rest"
        return f"{AUTO}:{self.max_error!r}"

    def for_tasks(self, store: Store, tasks: Collection[str]) -> PackOptions:
        """Return the options to code new tasks with, or new weights of tasks."""
        known = store.manifest.tasks
        like = [known[name] for name in tasks if name in known] or list(known.values())
        tiers = (
            self.tiers or Counter(",".join(task.all_tiers) for task in like).most_common(1)[0][0]
        )
        tiers = tiers or "exact"  # of tasks that have private tensors alone
        wanted = tiers.split(",")
        if not self.tiers and "rest" in wanted and "mask" not in wanted:
            wanted = [self.rest if tier == "rest" else tier for tier in wanted]
        bits = [task.bits for task in like if task.bits is not None]
        thresholds = [task.lam for task in like if "mask" in task.all_tiers and task.lam]
        usual = thresholds[-1] if thresholds else auto_lambda(store.manifest.merge.method)
        archive = any(task.codecs for task in like) and {"mask", "exact"} & set(wanted)
        masked: dict[str, Any] = {"method": "sum", "lam": usual if self.lam is None else self.lam}
        searched = any(tier.startswith(AUTO) for tier in wanted)
        has_rest = "rest" in wanted or (self.residuals and not searched)
        return PackOptions(
            tiers=",".join(wanted),
            residual=self.residual or ((bits[-1] if bits else REST_BITS) if has_rest else None),
            residuals=self.residuals,
            statistics=self._files(tasks) if "mask" not in wanted else {},
            level="archive" if archive else "speed",
            parents=self.parents,
            parent=self.parent,
            keep_private=self.keep_private,
            base="reference",
            jobs=self.jobs,
            max_memory=self.max_memory,
            chunk=store.manifest.chunk,
            **(masked if "mask" in wanted else {}),
        )

    def _files(self, tasks: Collection[str]) -> Mapping[str, Path]:
        return {n: f for n, f in self.statistics.items() if not tasks or n in ("", *tasks)}

    def check_parents(
        self, store: Store, finetunes: Collection[str], tiers: tuple[str, ...]
    ) -> None:
        """Raise OptionError for parents that fine-tunes which join a store cannot have."""
        tasks = store.manifest.tasks
        for name, parent in self.parents.items():
            said = f"parents={{{name!r}: {parent!r}}}"
            for wrong in {name} - {*finetunes} or {parent} - {*finetunes, *tasks}:
                raise OptionError(f"{said}: {wrong!r} is no such task")
            chain = [name]
            while up := self.parents.get(chain[-1]):
                if up in chain:
                    raise OptionError(f"{said}: the parents of {name!r} come back to {up!r}")
                chain.append(up)
            if parent in finetunes:
                continue
            if tasks[parent].all_tiers != tiers:
                there = ",".join(tasks[parent].all_tiers)
                raise OptionError(
                    f"{said}: {parent!r} has the tiers {there}, and {name!r} would have "
                    f'{",".join(tiers)}; add tiers="{there}"'
                )
            if (depth := lineage.depth(tasks, parent)) >= lineage.USUAL_DEPTH:
                raise OptionError(
                    f"{said}: {parent!r} is {depth} deep, and no task may be deeper than "
                    f"{lineage.USUAL_DEPTH}; name one above it"
                )


def as_it_was(store: Store, task: str, parent: str | None, jobs: int) -> PackOptions:
    """Return the options that a task of a store was coded with, against `parent` (None: the base).

    That has the tiers that it has in the store, and is in the family too.
    """
    tasks = store.manifest.tasks
    asked = AddOptions(lam=tasks[task].lam, max_error=None, keep_private=True, jobs=jobs)
    found = asked.for_tasks(store, [task])
    if "exact" not in found.tier_names:
        return found
    if parent is None:
        return replace(found, parent="none")
    there, own = tasks[parent].all_tiers, dict[str, str]()
    if there != tasks[task].all_tiers:
        own = {parent: ",".join(there)}
    return replace(found, parent="none", parents={task: parent}, own_tiers=own)
