"""Scores of merged models that are made for it, one at a time, and removed again.

A score is known by the evaluator, the task and what the model is made of: the files of its inputs
and every option that changes the result. So an interrupted search merges nothing twice.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from functools import cache, partial
from pathlib import Path

from blake3 import blake3

from taskstore.errors import EvaluationFailed
from taskstore.evaluation.bench import Say, fingerprint
from taskstore.evaluation.command import Evaluator, checked
from taskstore.evaluation.journal import Journal
from taskstore.merging.methods import registry
from taskstore.merging.options import MergeOptions
from taskstore.merging.search.origins import Origin
from taskstore.progress import Callback
from taskstore.version import __version__

Made = Callable[[], AbstractContextManager[Path]]
IDLE = frozenset(  # options that change how a model is made, not its weights
    ("unrelated", "jobs", "max_memory", "shard_bytes", "overwrite", "chunk")
)


@dataclass(frozen=True)
class Scores:
    """Task -> score ("" where the evaluator knows no tasks), and their mean, which counts."""

    tasks: Mapping[str, float]

    @property
    def mean(self) -> float:
        return sum(self.tasks.values()) / len(self.tasks)

    @property
    def named(self) -> dict[str, float]:
        """Those that belong to a task."""
        return {task: score for task, score in self.tasks.items() if task}

    def __str__(self) -> str:
        each = ", ".join(f"{task} {score:g}" for task, score in self.named.items())
        return f"{self.mean:g}{f' ({each})' if len(self.tasks) > 1 else ''}"


def _nothing(_: str) -> None:
    """The default report."""


@dataclass(frozen=True)
class Scorer:
    """The user's evaluator and what a search needs to know of it.

    label      names the evaluator in the journal and to people
    tasks      each model is scored once per task; ("",): once, by an evaluator that knows none
    minimise   scores are losses
    scratch    folder for one model at a time (None: the system's)
    """

    evaluator: Evaluator
    journal: Journal = field(default_factory=lambda: Journal(None))
    label: str = ""
    tasks: tuple[str, ...] = ("",)
    minimise: bool = False
    scratch: Path | None = None
    say: Say = _nothing

    def merged(
        self,
        what: str,
        origin: Origin,
        options: MergeOptions,
        names: Sequence[str],
        progress: Callback,
    ) -> Scores:
        """Of a merged model of those that are named."""
        made = partial(merged, origin, options, names, self.scratch, progress)
        return self.score(what, key(origin, options, names), made)

    def score(self, what: str, key: str, made: Made) -> Scores:
        """Of the model that `made` makes if a score is not known yet; raises EvaluationFailed."""
        with ExitStack() as stack:
            folder = cache(lambda: stack.enter_context(made()))
            found = Scores(
                {
                    task: self.journal.score(
                        (self.label, task, key), partial(self._run, folder, task, what)
                    )
                    for task in self.tasks
                }
            )
        self.say(f"{what}: {found}")
        return found

    def _run(self, folder: Callable[[], Path], task: str, what: str) -> float:
        model = folder()
        try:
            return checked(self.evaluator, model, task)
        except EvaluationFailed as error:
            raise error.of(what) from None

    def better(self, one: float, other: float) -> bool:
        return one < other if self.minimise else one > other


@contextmanager
def merged(
    origin: Origin,
    options: MergeOptions,
    names: Sequence[str],
    scratch: Path | None,
    progress: Callback,
) -> Iterator[Path]:
    """A merged model, for as long as it is looked at."""
    with tempfile.TemporaryDirectory(prefix="taskstore-merge-", dir=scratch) as folder:
        origin.merge(Path(folder) / "model", options, names, progress)
        yield Path(folder) / "model"


def key(origin: Origin, options: MergeOptions, names: Sequence[str]) -> str:
    """Names a merged model in the journal."""
    facts = {f.name: getattr(options, f.name) for f in fields(options) if f.name not in IDLE}
    facts |= {
        "method": registry.split(options.method),
        "alpha": options.scale,
        "statistics": {name: fingerprint(path) for name, path in options.statistics.items()},
    }
    plain = {k: sorted(v.items()) if isinstance(v, Mapping) else v for k, v in facts.items()}
    whole = repr((__version__, origin.key(names), sorted(plain.items())))
    return blake3(whole.encode()).hexdigest()
