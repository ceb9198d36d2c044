"""From models on disk to figures: pack them, and let a worker measure the store."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.common import facts
from benchmarks.common.cache import Cache
from benchmarks.common.experiment import Experiment, make_family, task_names
from benchmarks.common.family import Family, open_family
from benchmarks.common.measure import Side
from benchmarks.common.sides import HERE, LIBRARY, Sides, remove
from benchmarks.swapping.lines import Figures

BIG = 9e8  # parameters from which there are 3 runs, unless the user says otherwise
SMALL = 2e6  # parameters of the family that workers warm up with
CROWDED = 0.1  # cores that others may take
LIBRARIES = ("torch", "safetensors")

Found = Mapping[str, Any]


@dataclass(frozen=True)
class Synthetic:
    """Families written below `work`; with `keep` they stay there for the next run."""

    work: Path
    tasks: int
    dtype: str
    jobs: int
    keep: bool
    report: Callable[[str], None]

    def families(self, sizes: Sequence[float]) -> Generator[Family]:
        """One at a time; each is there until the next is asked for."""
        for params in sizes:
            root = self.work / f"family-{params:.0f}x{self.tasks}-{self.dtype}"
            self.report(f"writing {root.name}")
            try:
                make_family(root, params, self.tasks, self.dtype, self.jobs)
                yield open_family(root, "base", task_names(root))
            finally:
                if not self.keep:
                    remove(root)


@dataclass(frozen=True)
class Runs:
    """`scratch` takes the stores, one size at a time; `masks` is host or device."""

    scratch: Path
    dtype: str
    device: str
    masks: str
    jobs: int
    repeat: int | None
    report: Callable[[str], None]

    @property
    def kind(self) -> str:
        """cpu or cuda"""
        return self.device.partition(":")[0]

    @property
    def _small(self) -> Path:
        return self.scratch / "small"

    def prepare(self) -> None:
        """Pack a small family, which workers warm up with."""
        self.report("warming up")
        root = self._small
        make_family(root, SMALL, 2, self.dtype, self.jobs)
        self._sides(root, open_family(root, "base", task_names(root))).pack().run()

    def kernels(self) -> Figures:
        self.report("the kernels alone")
        found = self._worker("kernels", {"repeat": self.repeat or 5}, threads=1)
        return Figures(found, self.kind)

    def family(self, family: Family) -> tuple[Figures, dict[str, Any]]:
        """What was found, and the facts of it; raises SideFailed."""
        root = self.scratch / "packed"
        root.mkdir()
        sides = self._sides(root, family)
        repeat = self.repeat or (3 if family.parameters >= BIG else 5)
        size = f"{family.parameters / 1e6:,.0f}M parameters"
        self.report(f"packing {size}")
        sides.pack().run()
        experiment = Experiment(sides, (), repeat, self.report)  # for the facts; it does not run
        self.report(f"measuring {size}")
        small = open_family(self._small, "base", task_names(self._small))
        given = {
            "family": _where(sides),
            "small": _where(self._sides(self._small, small)),
            "device": self.device,
            "masks": self.masks,
            "repeat": repeat,
            "threads": self.jobs,
        }
        figures = Figures(self._worker("family", given, self.jobs), self.kind)
        remove(root)
        about = facts.of(experiment)
        about["versions"] |= {name: version(name) for name in LIBRARIES}
        about |= {key: figures.found[key] for key in ("device", "ignored", "others")}
        return figures, about | {"masks": self.masks}

    def _sides(self, root: Path, family: Family) -> Sides:
        return Sides(family, root, self.jobs, Cache.fitting(family.nbytes))

    def _worker(self, action: str, given: Found, threads: int) -> Found:
        command = [sys.executable, str(HERE / "swapping" / "worker.py"), action, json.dumps(given)]
        env = LIBRARY | {"OMP_NUM_THREADS": str(threads)}
        return Side(f"swap, {action}", command, lambda: None, env).run().says


def _where(sides: Sides) -> dict[str, Any]:
    tasks = {name: str(path) for name, path in sides.family.tasks.items()}
    return {"store": str(sides.store), "base": str(sides.family.base), "tasks": tasks}


def caption(about: Found) -> str:
    """Under a table."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    memory = f"{about['memory_bytes'] / facts.GIB:.0f} GiB"
    lines = [
        f"{about['processor']}, {about['cores']} cores, {memory}, {about['jobs']} threads, load "
        f"before {about['load_before']:.1f}; Python {about['python']}, {versions}.",
        f"Medians of {about['repeat']}, the sides in turn. Page cache warm. Bytes per second are "
        "the model's. Peak: above what was resident before.",
    ]
    if about["others"] > CROWDED:
        lines.append(
            f"Others had {about['others']:.1f} of the cores meanwhile: times of two threads are "
            "worth little, torch's least."
        )
    if about["device"] != "cpu":
        lines.append(f"On {about['device']}, masks on the {about['masks']}.")
    if about["ignored"]:
        lines.append(f"Left alone, as the base has none: {', '.join(about['ignored'])}.")
    return "\n".join(lines)
