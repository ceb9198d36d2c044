"""Score merged models: each is made, scored and removed again, one at a time.

A score is known by the evaluator, the task and what the model is made of: the files of its inputs
and every option that changes the result. So a search that was interrupted merges nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import cast

from blake3 import blake3

from taskstore.errors import EvaluationFailed
from taskstore.evaluation.bench import Say, fingerprint, unsaid
from taskstore.evaluation.command import Evaluator, checked
from taskstore.evaluation.journal import Journal
from taskstore.locations.scratch import scratch
from taskstore.merging.methods import registry
from taskstore.merging.options import MergeOptions
from taskstore.merging.report import MergeReport
from taskstore.merging.scratch import KeptVector
from taskstore.merging.search.origins import Origin
from taskstore.progress import Callback
from taskstore.store.card import cell, code
from taskstore.version import __version__

Made = Callable[[], AbstractContextManager[Path]]
IDLE = frozenset(  # options that change how a model is made, not its weights
    ("unrelated", "jobs", "max_memory", "shard_bytes", "overwrite", "chunk")
)


@dataclass(frozen=True)
class Scores:
    """Task -> score ("": of an evaluator that knows no tasks); their mean is what counts."""

    tasks: Mapping[str, float]

    @property
    def mean(self) -> float:
        return sum(self.tasks.values()) / len(self.tasks)

    @property
    def named(self) -> dict[str, float]:
        """The scores that belong to a task."""
        return {task: score for task, score in self.tasks.items() if task}

    def __str__(self) -> str:
        each = ", ".join(f"{task} {score:g}" for task, score in self.named.items())
        return f"{self.mean:g}{f' ({each})' if len(self.tasks) > 1 else ''}"


@dataclass(frozen=True)
class Scorer:
    """The user's evaluator and what a search needs to know of it.

    label      names the evaluator in the journal and to people
    name       a word for its score, where there are several evaluators
    tasks      each model is scored once per task; ("",): once, by an evaluator that knows none
    limit      examples of an evaluation, which the evaluator is called with; None: all it has
    minimise   whether scores are losses
    scratch    folder that holds one model at a time (None: the target's)
    kept       what the models before left: their vector, which is not merged again for another
               alpha, and what does not change between them
    scaled     whether models that follow each other may differ in alpha alone
    """

    evaluator: Evaluator
    journal: Journal = field(default_factory=lambda: Journal(None))
    label: str = ""
    name: str = "score"
    tasks: tuple[str, ...] = ("",)
    limit: int | None = None
    minimise: bool = False
    scratch: Path | None = None
    kept: KeptVector | None = None
    scaled: bool = True
    say: Say = unsaid

    def expect(self, models: int) -> None:
        """Say about how long it takes to score so many models, as soon as that is known."""
        self.journal.expect(self._key, models * len(self.tasks), self.say)

    def at(self, limit: int | None) -> Scorer:
        """The same, with so many examples."""
        return replace(self, limit=limit)

    @property
    def _key(self) -> str:
        """What stands for it in a journal."""
        return self.label if self.limit is None else f"{self.label} of {self.limit} examples"

    def merged(
        self,
        what: str,
        origin: Origin,
        options: MergeOptions,
        names: Sequence[str],
        target: Path,
        progress: Callback,
    ) -> Scores:
        """The scores of the merged model of those that are named, on the way to `target`."""
        return self.score(what, *self.candidate(origin, options, names, target, progress))

    def candidate(
        self,
        origin: Origin,
        options: MergeOptions,
        names: Sequence[str],
        target: Path,
        progress: Callback,
    ) -> tuple[str, Made]:
        """The name of a merged model in the journal, and what makes it."""
        merge = partial(self.make, origin, options, names, progress)
        return key(origin, options, names), partial(_made, merge, target, self.scratch)

    def make(
        self,
        origin: Origin,
        options: MergeOptions,
        names: Sequence[str],
        progress: Callback,
        target: Path,
        section: str = "",
    ) -> MergeReport:
        """Write the merged model of those that are named to the folder `target`."""
        if self.kept and self.scaled:
            inside = "alpha" in registry.options_of(options.method)
            self.kept.key = key(origin, options if inside else replace(options, alpha=None), names)
        return origin.merge(target, options, names, progress, section, self.kept)

    @contextmanager
    def keeping(
        self, target: Path, *, scaled: bool = True, shares: bool = False
    ) -> Iterator[Scorer]:
        """The same, with files on disk while the block runs.

        `scaled`: a merged vector, 4 bytes a weight. `shares`: what methods make once for models
        that differ in weights and options (up to 8 bytes a weight and task).
        """
        with scratch(target, self.scratch) as folder:
            kept = KeptVector(folder / "vector", shares=shares)
            with closing(kept):
                yield replace(self, kept=kept, scaled=scaled)

    def score(self, what: str, key: str, made: Made) -> Scores:
        """The scores of a model; `made` makes it if one is not known. Raises EvaluationFailed."""
        with ExitStack() as stack:
            folder = cache(lambda: stack.enter_context(made()))
            found = Scores(
                {
                    task: self.journal.score(
                        (self._key, task, key), partial(self._run, folder, task, what)
                    )
                    for task in self.tasks
                }
            )
        of = "" if self.limit is None else f" ({self.limit} examples)"
        of_several = "" if self.name == "score" else f"{self.name} "
        self.say(f"{what}: {of_several}{found}{of}")
        return found

    def _run(self, folder: Callable[[], Path], task: str, what: str) -> float:
        model, evaluator = folder(), self.evaluator
        if self.limit is not None:
            evaluator = partial(cast(Callable[..., float], evaluator), limit=self.limit)
        try:
            return checked(evaluator, model, task)
        except EvaluationFailed as error:
            raise error.of(what) from None

    def cost(self, scores: Scores) -> float:
        """What a search makes small: the mean, negative unless scores are losses."""
        return scores.mean if self.minimise else -scores.mean

    def section(
        self, title: str, text: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
    ) -> str:
        """A section of a model card: what was scored, how, and a table of it."""
        head = " | ".join(map(cell, columns)).rstrip()
        lines = [f"| {head} |", f"|{'---|' * len(columns)}"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        return f"\n## {title}\n\n{text} with {code(self.label)}:\n\n" + "\n".join(lines) + "\n"


@contextmanager
def _made(merge: Callable[[Path], object], target: Path, place: Path | None) -> Iterator[Path]:
    """The folder of a merged model, which is removed at the end."""
    with scratch(target, place) as folder:
        merge(folder / "model")
        yield folder / "model"


def key(origin: Origin, options: MergeOptions, names: Sequence[str]) -> str:
    """The name of a merged model in the journal."""
    facts = {f.name: getattr(options, f.name) for f in fields(options) if f.name not in IDLE}
    facts |= {
        "method": registry.split(options.method),
        "alpha": options.scale,
        "statistics": {name: fingerprint(path) for name, path in options.statistics.items()},
    }
    plain = {k: sorted(v.items()) if isinstance(v, Mapping) else v for k, v in facts.items()}
    whole = repr((__version__, origin.key(names), sorted(plain.items())))
    return blake3(whole.encode()).hexdigest()
