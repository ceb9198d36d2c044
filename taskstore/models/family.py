"""Open a family: a base and its fine-tunes, by their headers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from taskstore.errors import InputError, OptionError
from taskstore.format import names
from taskstore.locations.base import PathLike
from taskstore.models import Checkpoint, open_checkpoint
from taskstore.models.spelling import aligned


def check_names(finetunes: Mapping[str, PathLike]) -> None:
    """Raise InputError unless they can be the tasks of a family."""
    if not finetunes:
        raise OptionError("no fine-tune is given; a family needs at least one")
    for name in finetunes:
        names.check_task_name(name)
    names.check_distinct(finetunes)


def open_family(base: PathLike, finetunes: Mapping[str, PathLike]) -> Family:
    """Open all models; tasks come in the order of their names.

    Raises InputError for names and models that do not fit.
    """
    check_names(finetunes)
    opened = [open_checkpoint(base)]
    try:
        for name, model in sorted(finetunes.items()):
            if os.path.realpath(model) == os.path.realpath(base):
                raise InputError(f"task {name!r} is the base itself ({model}); leave it out")
            opened.append(open_finetune(opened[0], model, name))
    except BaseException:
        for checkpoint in opened:
            checkpoint.close()
        raise
    return Family(opened[0], tuple(opened[1:]))


def open_finetune(base: Checkpoint, model: PathLike, name: str) -> Checkpoint:
    """Open one fine-tune, its tensors under the base's names; see `spelling.aligned`."""
    own = open_checkpoint(model, name, base)
    try:
        return aligned(base, own)
    except BaseException:
        own.close()
        raise


class Multitask(Protocol):
    """A multi-task model that is there, which tasks join as it is.

    codecs      of its tensors, by name
    one_sided   whether a mask only selects weights that it moves as the task does
    """

    codecs: Mapping[str, str]
    one_sided: bool

    def chunk(self, name: str, k: int, w0_N: NDArray[Any]) -> NDArray[Any]:
        """Return chunk `k` of W1, bits (N,), given the base's."""


@dataclass(frozen=True)
class Family:
    """A base and its fine-tunes, open; tasks in the order of their names.

    aliases, multitask   of the store that the fine-tunes join; None: there is none
    parts                whether a fine-tune may have only some of the base's tensors
    again                a function and its arguments that open the same in another process, and
                         prove each tensor that is read whole; None: by the models' paths
    """

    base: Checkpoint
    tasks: tuple[Checkpoint, ...]
    aliases: Mapping[str, str] | None = None
    multitask: Multitask | None = None
    parts: bool = False
    again: tuple[Callable[..., Family], tuple[Any, ...]] | None = None

    def __reduce__(self) -> Any:
        """Another process opens the models at the same paths."""
        if self.again is not None:
            return self.again
        assert self.multitask is None and self.aliases is None, "a family that joins a store"
        return open_family, (self.base.where, {task.name: task.where for task in self.tasks})

    def prove(self) -> None:
        """Raise ChecksumMismatch where what was read out of a store is not what was packed.

        To be called before anything that was made from the family is kept.
        """
        for model in (self.base, *self.tasks):
            model.prove()

    def close(self) -> None:
        for model in (*self.tasks, self.base):
            model.close()
