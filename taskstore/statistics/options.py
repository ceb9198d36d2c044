"""What a user chooses when measuring."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from taskstore.errors import OptionError
from taskstore.statistics.statistics_file import KINDS

LABELS = ("auto", "exact", "sampled", "data")


# Option -> the kinds of statistics that it changes; beside others alone it would do nothing.
USED_BY = {"labels": ("fisher",), "samples": ("fisher",), "batch": ("gram",)}


def check_used(given: Iterable[str], statistics: Collection[str]) -> None:
    """Raise OptionError for an option of `USED_BY` that was given, and that no kind uses."""
    for option in given:
        users = USED_BY.get(option, KINDS)
        if not set(users) & set(statistics):
            raise OptionError(
                f"{option} does nothing with statistics {','.join(statistics)}, only with "
                f"{' and '.join(users)}: leave it out"
            )


@dataclass(frozen=True)
class MeasureOptions:
    """Raises OptionError where a value makes no sense.

    statistics   kinds to measure, of "fisher", "gram" and "hessian"
    limit        examples that are used; of more, that many are drawn
    seed         where drawing begins, of examples and of labels
    labels       y of the Fisher: "exact" (the sum over all classes), "sampled" from the model,
                 "data" (the data's own: the empirical Fisher); "auto": exact for classifiers,
                 sampled for language models
    samples      draws per example where y is sampled
    max_length   tokens that an example may have, longer ones are cut; None: 1024, or what the model
                 can take if that is less
    batch        examples of equal length that run together for Gram matrices
    device       where the model runs
    max_memory   bytes for weights, sums and Gram matrices; more passes are made over the data where
                 the Gram matrices do not fit at once. None: three quarters of what is free
    """

    statistics: tuple[str, ...] = KINDS
    limit: int = 256
    seed: int = 0
    labels: str = "auto"
    samples: int = 1
    max_length: int | None = None
    batch: int = 8
    device: str = "cpu"
    max_memory: int | None = None

    def __post_init__(self) -> None:
        if not self.statistics or len(set(self.statistics)) != len(self.statistics):
            raise OptionError(f"statistics {','.join(self.statistics)!r} name none, or one twice")
        for kind in self.statistics:
            if kind not in KINDS:
                raise OptionError(f"statistics: {kind!r} is none of {', '.join(sorted(KINDS))}")
        if self.labels not in LABELS:
            raise OptionError(f"labels {self.labels!r} is none of {', '.join(LABELS)}")
        for name in ("limit", "samples", "batch"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} {getattr(self, name)} is not a positive number")
        given = {"labels": self.labels != "auto", "samples": self.samples != 1}
        check_used([name for name, value in given.items() if value], self.statistics)
        if self.samples != 1 and self.labels in ("exact", "data"):
            raise OptionError(
                f"samples does nothing with labels {self.labels}: nothing is drawn; leave it out"
            )
        if self.max_length is not None and self.max_length < 2:
            raise OptionError(f"max-length {self.max_length} is less than 2 tokens")
        if not 0 <= self.seed < 1 << 63:
            raise OptionError(f"seed {self.seed} is not a number from 0 to 2^63 - 1")

    @property
    def diagonals(self) -> tuple[str, ...]:
        """The kinds that are made of squared gradients."""
        return tuple(kind for kind in self.statistics if kind != "gram")

    @property
    def needs_labels(self) -> bool:
        """Whether the data must say what each example's label is."""
        return "hessian" in self.statistics or (
            "fisher" in self.statistics and self.labels == "data"
        )
