"""The options of `add` and `replace`: one frozen object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from taskstore.executors import default_jobs
from taskstore.format.fidelity import GRADES
from taskstore.packing.options import REST_BITS, PackOptions, auto_lambda
from taskstore.store import Store


@dataclass(frozen=True)
class AddOptions:
    """How fine-tunes join a store; None: as the tasks that are there.

    tiers         what is kept of each, as of `pack`; None: the tiers of the task that is replaced,
                  else those that most tasks of the store have
    residual      about how many bits per parameter a rest takes
    lam           threshold of masks
    max_error     the largest error (format/fidelity.py) of masks alone; what is farther from its
                  fine-tune gets a rest instead. None: any
    keep_private  as of `pack`
    repack        merge and mask all tasks anew; the store's tasks must be exact for that
    """

    tiers: str | None = None
    residual: float | None = None
    residuals: Mapping[str, float] = field(default_factory=dict)
    lam: float | None = None
    max_error: float | None = GRADES["A"]
    keep_private: bool | frozenset[str] = False
    repack: bool = False
    jobs: int = field(default_factory=default_jobs)
    max_memory: int = 2 << 30

    def for_tasks(self, store: Store, tasks: Collection[str]) -> PackOptions:
        """Return the options to code new tasks with, or new weights of tasks."""
        known = store.manifest.tasks
        like = [known[name] for name in tasks if name in known] or list(known.values())
        tiers = (
            self.tiers or Counter(",".join(task.all_tiers) for task in like).most_common(1)[0][0]
        )
        tiers = tiers or "exact"  # of tasks that have private tensors alone
        wanted = tiers.split(",")
        bits = [task.bits for task in like if task.bits is not None]
        thresholds = [task.lam for task in like if "mask" in task.all_tiers and task.lam]
        usual = thresholds[-1] if thresholds else auto_lambda(store.manifest.merge.method)
        archive = any(task.codecs for task in like) and {"mask", "exact"} & set(wanted)
        masked: dict[str, Any] = {"method": "sum", "lam": usual if self.lam is None else self.lam}
        has_rest = "rest" in wanted or self.residual or self.residuals
        return PackOptions(
            tiers=tiers,
            residual=self.residual or ((bits[-1] if bits else REST_BITS) if has_rest else None),
            residuals=self.residuals,
            level="archive" if archive else "speed",
            keep_private=self.keep_private,
            base="reference",
            jobs=self.jobs,
            max_memory=self.max_memory,
            chunk=store.manifest.chunk,
            **(masked if "mask" in wanted else {}),
        )
