"""Every side that is measured, as the command that a process of its own runs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import envs
from benchmarks.common.cache import Cache
from benchmarks.common.family import Family, files_of, weights_of
from benchmarks.common.measure import Side

HERE = Path(__file__).resolve().parent.parent
NORMAL = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONUNBUFFERED": ""}
LIBRARY = {**NORMAL, "PYTHONPATH": str(HERE.parent)}
MERGEKIT_FLAGS = ("--lazy-unpickle", "--no-copy-tokenizer", "--quiet")
ZSTD_LEVEL = 3
ZIPNN_ALL = 8 * 10**9  # families up to this size go through zipnn whole


@dataclass(frozen=True)
class Sides:
    """Makes the sides for one family. `work` is a scratch folder, `cache` the inputs' state."""

    family: Family
    work: Path
    jobs: int
    cache: Cache

    @property
    def store(self) -> Path:
        return self.work / "store"

    @property
    def merged(self) -> Path:
        return self.work / "merged"

    @property
    def unpacked(self) -> Path:
        return self.work / "unpacked"

    @property
    def zipped(self) -> Path:
        return self.work / "family.zipnn"

    @property
    def archive(self) -> Path:
        return self.work / "family.tar.zst"

    def copied(self, *, sync: bool = False) -> Path:
        return self.work / ("copied-sync" if sync else "copied")

    @property
    def task(self) -> str:
        """The task that is unpacked."""
        return next(iter(self.family.tasks))

    def pack(self) -> Side:
        given = {
            "base": str(self.family.base),
            "tasks": {name: str(path) for name, path in self.family.tasks.items()},
            "target": str(self.store),
            "jobs": self.jobs,
        }
        return self._library("taskstore pack", "pack", given, self.family.files, self.store)

    def measuring(self, tiers: str, repeat: int) -> Side:
        """Packs with and without measuring what is kept, in turn, in one process."""
        given = {
            "base": str(self.family.base),
            "tasks": {name: str(path) for name, path in self.family.tasks.items()},
            "target": str(self.work / "measured"),
            "jobs": self.jobs,
            "tiers": tiers,
            "repeat": repeat,
        }
        target = self.work / "measured"
        return self._library(f"pack, {tiers}", "measuring", given, self.family.files, target)

    def read(self) -> Side:
        given = {"files": [str(path) for path in self.family.files]}
        return self._library("reading", "read", given, self.family.files, None)

    def merge(self, method: str, options: Mapping[str, float]) -> Side:
        given = {
            "base": str(self.family.base),
            "models": {name: str(path) for name, path in self.family.tasks.items()},
            "target": str(self.merged),
            "method": method,
            "options": dict(options),
            "jobs": self.jobs,
        }
        return self._library("taskstore merge", "merge", given, self.family.files, self.merged)

    def mergekit(
        self, threads: int, method: str = "task_arithmetic", density: float | None = None
    ) -> Side:
        """The same models, merged as a user would: all weights 1."""
        target, recipe = self.merged, self.work / f"mergekit-{method}.json"
        own = {"weight": 1.0, **({"density": density} if density else {})}
        recipe.write_text(  # JSON is YAML
            json.dumps(
                {
                    "merge_method": method,
                    "base_model": str(self.family.base),
                    "dtype": self.family.torch_dtype,
                    "models": [
                        {"model": str(path), "parameters": own}
                        for path in self.family.tasks.values()
                    ],
                }
            )
        )
        return Side(
            f"mergekit, {threads} thread{'s' if threads > 1 else ''}",
            [
                str(envs.ROOT / "mergekit" / "bin" / "mergekit-yaml"),
                *(str(recipe), str(target)),
                *MERGEKIT_FLAGS,
                f"--num-threads={threads}",
            ],
            lambda: self._prepare(self.cache, self.family.files, target),
            self._foreign(),
        )

    def mergekit_startup(self) -> Side:
        """Imports and nothing else."""
        command = [str(envs.ROOT / "mergekit" / "bin" / "mergekit-yaml"), "--help"]
        return Side("mergekit --help", command, lambda: None, self._foreign())

    def unpack(self, cache: Cache) -> Side:
        target = self.unpacked
        given = {
            "store": str(self.store),
            "task": self.task,
            "target": str(target),
            "jobs": self.jobs,
        }
        return self._library("taskstore unpack", "unpack", given, None, target, cache)

    def load(self) -> Side:
        given = {"store": str(self.store), "task": self.task, "jobs": self.jobs}
        return self._library("taskstore load", "load", given, None, None)

    def load_file(self) -> Side:
        given = {"files": [str(p) for p in weights_of(self.family.tasks[self.task])]}
        return self._library("load_file", "load_file", given, None, None)

    def add(self) -> Side:
        target = self.work / "added"
        model = str(self.family.tasks[self.task])
        given: dict[str, object] = {"store": str(self.store), "target": str(target)}
        given |= {"model": model, "jobs": self.jobs}
        return self._library("taskstore add", "add", given, self.family.files, target)

    def read_for_add(self) -> Side:
        files = [*files_of(self.family.base), *files_of(self.family.tasks[self.task])]
        return self._library("reading", "read", {"files": [str(p) for p in files]}, files, None)

    def copy(self, cache: Cache, *, sync: bool) -> Side:
        target = self.copied(sync=sync)
        given = {
            "source": str(self.family.tasks[self.task]),
            "target": str(target),
            "sync": sync,
        }
        name = "copy, flushed" if sync else "copy, not flushed"
        return self._library(name, "copy", given, None, target, cache)

    def tar(self) -> Side:
        target = self.archive
        given = {
            "folders": [str(path) for path in self.family.folders],
            "target": str(target),
            "level": ZSTD_LEVEL,
            "jobs": self.jobs,
        }
        return self._library("tar + zstd", "tar", given, self.family.files, target)

    def zipnn(self) -> Side:
        """All models, or the base and two tasks of a big family."""
        target = self.zipped
        given = {
            "files": [str(path) for folder in self.zipnn_folders for path in weights_of(folder)],
            "target": str(target),
            "torch_dtype": self.family.torch_dtype,
            "jobs": self.jobs,
        }
        return Side(
            "zipnn",
            [
                str(envs.python_of("zipnn")),
                str(HERE / "common" / "zipnn_worker.py"),
                json.dumps(given),
            ],
            lambda: self._prepare(self.cache, self.family.files, target),
            self._foreign(),
        )

    @property
    def zipnn_folders(self) -> list[Path]:
        folders = self.family.folders
        return folders if self.family.nbytes <= ZIPNN_ALL else folders[:3]

    def _library(
        self,
        name: str,
        action: str,
        given: Mapping[str, object],
        inputs: Sequence[Path] | None,
        target: Path | None,
        cache: Cache | None = None,
    ) -> Side:
        def prepare() -> None:
            # Unpack and copy: what either of them reads.
            files = inputs or [*files_of(self.store), *files_of(self.family.tasks[self.task])]
            self._prepare(cache or self.cache, files, target)

        command = [sys.executable, str(HERE / "common" / "worker.py"), action, json.dumps(given)]
        return Side(name, command, prepare, LIBRARY)

    @staticmethod
    def _foreign() -> dict[str, str]:
        return {**NORMAL, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}

    @staticmethod
    def _prepare(cache: Cache, files: Sequence[Path], target: Path | None) -> None:
        if target is not None:
            remove(target)
        cache.prepare(files)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
