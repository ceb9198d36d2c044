"""Score a store's rebuilt models by the user's own measure, beside the base and the originals."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from taskstore.cluster import joined
from taskstore.errors import InputError, OptionError
from taskstore.evaluation.command import Command, Evaluator, Measured, checked
from taskstore.evaluation.journal import Journal, Key
from taskstore.format import manifest as manifests
from taskstore.format.digests import model_digest
from taskstore.format.manifest import TIERS
from taskstore.format.names import folder_of
from taskstore.locations.base import PathLike
from taskstore.locations.publish import recover
from taskstore.locations.remote import claims
from taskstore.locations.remote.elsewhere import local
from taskstore.locations.scratch import scratch
from taskstore.progress import Callback, Meter, silent
from taskstore.store import Store
from taskstore.store.catalog import rebuilt_tensors

_log = logging.getLogger(__name__)
Say = Callable[[str], None]
_Asked = tuple[str | None, str, str | None]  # model, the task it is scored on, tier


def unsaid(_: str) -> None:
    """The default of `Say`."""


@dataclass(frozen=True)
class TaskScores:
    """The scores of one task's models; None: not asked for."""

    task: str
    rebuilt: float
    base: float | None = None
    original: float | None = None
    lower: Mapping[str, float] = field(default_factory=dict)  # tiers below the best -> score

    @property
    def n(self) -> int | None:
        """Examples that every one of the scores is over, where the evaluator tells one number."""
        scores = (self.rebuilt, self.base, self.original, *self.lower.values())
        found = {getattr(score, "n", None) for score in scores if score is not None}
        return found.pop() if len(found) == 1 else None

    def to_record(self) -> manifests.Score:
        """The scores as the manifest records them."""
        return manifests.Score(
            rebuilt=float(self.rebuilt),
            base=None if self.base is None else float(self.base),
            original=None if self.original is None else float(self.original),
            lower={tier: float(score) for tier, score in self.lower.items()} or None,
            n=self.n,
        )

    @property
    def kept(self) -> float | None:
        """The rebuilt model's share of the fine-tune's score."""
        kept = self.rebuilt / self.original if self.original else math.inf
        return kept if math.isfinite(kept) else None


@dataclass(frozen=True)
class Evaluation:
    """The scores of all tasks that were evaluated."""

    scores: Sequence[TaskScores]

    @property
    def kept(self) -> list[float]:
        return [score.kept for score in self.scores if score.kept is not None]

    def to_dict(self) -> dict[str, Any]:
        """The scores for JSON, with `mean_kept` and `worst_kept` if originals were evaluated."""
        rows = [{**asdict(score), "kept": score.kept, "n": score.n} for score in self.scores]
        kept = self.kept
        mean = {"mean_kept": sum(kept) / len(kept), "worst_kept": min(kept)} if kept else {}
        return {"scores": rows, **mean}


class Scorer(ABC):
    """Scores models, however they are made; raises EvaluationFailed."""

    @abstractmethod
    def rebuilt(self, store: Store, model: str | None, task: str, tier: str | None) -> float:
        """The score on `task` of a model of the store: a task at a tier, or the base (None)."""

    @abstractmethod
    def original(self, folder: Path, task: str) -> float:
        """The score of a fine-tune in its folder."""


@dataclass(frozen=True)
class InFolders(Scorer):
    """Rebuilds models into scratch folders, one at a time; None: beside the store."""

    evaluator: Evaluator
    scratch: PathLike | None

    def rebuilt(self, store: Store, model: str | None, task: str, tier: str | None) -> float:
        with scratch(store.path, self.scratch) as folder:
            path = store.unpack(model, folder / folder_of(model or "base"), tier=tier)
            return checked(self.evaluator, path, task)

    def original(self, folder: Path, task: str) -> float:
        return checked(self.evaluator, folder, task)


@dataclass(frozen=True)
class Bench:
    """Has models scored, each once.

    `evaluator` scores a model folder on a task, or is a Scorer. `label` names it in the journal:
    scores of another one are not taken. `scratch` is where folders are; None: beside the store.
    """

    evaluator: Evaluator | Scorer
    journal: Journal
    label: str = ""
    scratch: PathLike | None = None
    say: Say = unsaid

    def rebuilt(
        self,
        store: Store,
        model: str | None,
        task: str,
        what: str = "rebuilt",
        tier: str | None = None,
        apart: Iterator[float] | None = None,
    ) -> float:
        """The score on `task` of a model of the store: a task at a tier, or the base (None).

        `apart` gives the next score where other processes score.
        """

        def evaluate() -> float:
            own = next(apart) if apart else self.scorer.rebuilt(store, model, task, tier)
            return self._told(own, task, what)

        return self.journal.score(self.key(store, model, task, tier), evaluate)

    def key(self, store: Store, model: str | None, task: str, tier: str | None) -> Key:
        """By what the journal knows a score."""
        tensors = rebuilt_tensors(store.manifest, model, tier)
        weights = model_digest({name: tensor.blake3 for name, tensor in tensors.items()})
        return self.label, task, weights

    def original(self, path: PathLike, task: str) -> float:
        """The score of a fine-tune in its folder; raises InputError if that is missing."""
        folder = local(path)
        recover(folder)
        if not folder.exists():
            raise InputError(f"the original of task {task!r} is not at {folder}")
        key = (self.label, task, fingerprint(folder))

        def evaluate() -> float:
            return self._told(self.scorer.original(folder, task), task, "original")

        return self.journal.score(key, evaluate)

    @property
    def scorer(self) -> Scorer:
        """What scores models."""
        given = self.evaluator
        return given if isinstance(given, Scorer) else InFolders(given, self.scratch)

    def _told(self, score: float, task: str, what: str) -> float:
        self.say(f"{task}, {what}: {score:g}")
        _log.info("score of %r, %s: %g", task, what, score)
        return score


def as_bench(evaluator: Bench | Evaluator | str) -> Bench:
    """Return a bench for a command or a function; scores are kept in memory only."""
    if isinstance(evaluator, Bench):
        return evaluator
    return Bench(Command(evaluator) if isinstance(evaluator, str) else evaluator, Journal(None))


def evaluate(
    store: Store,
    bench: Bench,
    *,
    tasks: Sequence[str] | None = None,
    originals: Mapping[str, PathLike] | None = None,
    base: bool = False,
    progress: Callback = silent,
) -> Evaluation:
    """Score every task's rebuilt model at each tier, and its original and the base if asked for.

    All models at their best tiers come first, then those at each lower one, the base, the
    originals: so a live model changes little from one to the next. Raises UnknownTask, InputError
    or EvaluationFailed; scores up to then are in the journal.
    """
    chosen, originals = list(store.tasks if tasks is None else tasks), originals or {}
    for task in (*chosen, *originals):
        store.check_task(task)
    lower = [(task, tier) for tier in TIERS for task in chosen if tier in store.tiers(task)[:-1]]
    with_original = [task for task in chosen if task in originals]
    total = len(chosen) * (1 + base) + len(lower) + len(with_original)
    bench.journal.expect(bench.label, total, bench.say)
    meter = Meter(progress, total, unit="models")
    meter.stage("scoring", chosen[0] if chosen else "")

    def counted(score: float, task: str) -> float:
        meter.add(task, 1)
        return score

    best = sorted(chosen, key=lambda task: store.tiers(task)[-1:])
    models: list[_Asked] = [(task, task, None) for task in best]
    models += [(task, task, tier) for task, tier in lower]
    models += [(None, task, None) for task in (chosen if base else ())]
    with _scored_apart(bench, store, models) as apart:
        rebuilt = {
            task: counted(bench.rebuilt(store, task, task, apart=apart), task) for task in best
        }
        below = {
            (task, tier): counted(bench.rebuilt(store, task, task, tier, tier, apart), task)
            for task, tier in lower
        }
        bases = {
            task: counted(bench.rebuilt(store, None, task, "the base", apart=apart), task)
            for task in (chosen if base else ())
        }
        own = {t: counted(bench.original(originals[t], t), t) for t in with_original}
    return Evaluation(
        [
            TaskScores(
                task,
                rebuilt=rebuilt[task],
                lower={tier: below[task, tier] for tier in TIERS if (task, tier) in below},
                base=bases.get(task),
                original=own.get(task),
            )
            for task in chosen
        ]
    )


@contextmanager
def _scored_apart(
    bench: Bench, store: Store, models: Sequence[_Asked]
) -> Iterator[Iterator[float] | None]:
    """Score what the journal does not know in other processes; None: there are none.

    Raises OptionError for what scores models in memory.
    """
    cluster = joined()
    if cluster is None:
        yield None
        return
    if not isinstance(bench.scorer, InFolders):
        raise OptionError("a cluster scores models in folders, by a command; leave one of both out")
    new: dict[Key, _Asked] = {}
    for asked in models:
        if not bench.journal.knows(key := bench.key(store, *asked)):
            new.setdefault(key, asked)
    how = bench.label, str(bench.evaluator)
    with claims.judged(cluster, "eval", store.where, store.version, *how) as made:
        found = made.map(_score, (bench.scorer, store), new.values())
        yield (Measured.over(score, n) for score, n in found)


def _score(shared: tuple[Scorer, Store], asked: _Asked) -> tuple[float, int | None]:
    scorer, store = shared
    score = scorer.rebuilt(store, *asked)
    return float(score), getattr(score, "n", None)


def fingerprint(folder: Path) -> str:
    """A digest of the path and the files' sizes and times, which changes if a model is trained."""
    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else [folder]
    facts = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return blake3(repr((str(folder.resolve()), facts)).encode()).hexdigest()
