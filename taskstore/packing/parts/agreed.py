"""What all workers of one pack agree on: what was asked for, and what was found before coding.

Both are files in the place of parts, put by the first who comes; others take them as they are. So
workers on machines of different kinds code alike, whatever the last digits of their samples say.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from taskstore.errors import ChangedMeanwhile, InputError, OptionError
from taskstore.locations.base import Location, PathLike
from taskstore.locations.remote.claims import ASKED, encoded, read
from taskstore.merging.methods import Method
from taskstore.merging.methods.fitted import put_state, state_of
from taskstore.models.family import Family
from taskstore.models.weights_digest import sampled
from taskstore.packing.auto.choose import Choice
from taskstore.packing.auto.choose import decided as by_measure
from taskstore.packing.block_coder import Coder
from taskstore.packing.driver import fitted
from taskstore.packing.job import Found, make_job, with_options
from taskstore.packing.options import PackOptions
from taskstore.progress import Callback
from taskstore.version import __version__

FOUND = "found"


class Asked(msgspec.Struct, frozen=True):
    """A pack that is shared: the models as they were named, their tensors, options, and parts."""

    writer: str
    base: str
    finetunes: dict[str, str]
    models: list[str]
    options: PackOptions
    parts: int

    @classmethod
    def of(
        cls, base: PathLike, finetunes: Mapping[str, PathLike], family: Family,
        options: PackOptions, parts: int,
    ) -> Asked:  # fmt: skip
        if options.masks:
            raise OptionError("masks of files are packed by one process; leave `masks` out")
        usual = PackOptions()
        mine = replace(options, jobs=1, max_memory=usual.max_memory, overwrite=False)
        mine = replace(mine, statistics={t: _named(f) for t, f in options.statistics.items()})
        named = by_name(finetunes)
        models = [sampled(model) for model in (family.base, *family.tasks)]
        return cls(__version__, os.fspath(_named(base)), named, models, mine, parts)

    def check(self, family: Family) -> None:
        """Raise InputError where a model is not the one that others read."""
        for model, known in zip((family.base, *family.tasks), self.models, strict=True):
            if sampled(model) != known:
                raise InputError(
                    f"{model.path} has other tensors or weights than when this pack began; every "
                    "machine must read the same models"
                )


class Decided(msgspec.Struct, frozen=True):
    """What samples and passes over the family said; `method`: what it has seen (fitted.py)."""

    options: PackOptions
    parents: dict[str, str]
    codecs: dict[str, dict[str, str]]
    codings: dict[str, str]
    method: bytes
    notes: list[str]
    others: dict[str, float]

    @classmethod
    def of(cls, coder: Coder, choice: Choice) -> Decided:
        job, method = coder.job, coder.source.method
        found = Found.of(job)
        codecs = {task: dict(sorted(own.items())) for task, own in found.codecs.items() if own}
        state = state_of(method) if method.passes else b""
        options = replace(job.options, jobs=1, max_memory=PackOptions().max_memory)
        codings = dict(coder.codings)
        notes, others = choice.notes, dict(choice.others)
        return cls(options, dict(found.parents), codecs, codings, state, notes, others)

    def known(self, method: Method) -> bool:
        """Put into a method what it has seen; False where it has no need to look."""
        if self.method:
            put_state(method, self.method)
        return bool(self.method)


def agree(place: Location, asked: Asked) -> Asked:
    """Put what is asked for, or check that it is what was; raises InputError, with what differs."""
    mine = encoded(asked)
    try:
        place.put_if_unchanged(ASKED, mine, None)
    except ChangedMeanwhile:
        there = asked_of(place)
        if encoded(there) != mine:
            differs = [f for f in Asked.__struct_fields__ if getattr(there, f) != getattr(asked, f)]
            raise InputError(
                f"parts of another pack are there (other {', '.join(differs)}): give the same "
                "models and options, or remove the parts"
            ) from None
    return asked


def asked_of(place: Location) -> Asked:
    """Return what was asked for; raises InputError where nothing was."""
    found = read(place, ASKED, Asked)
    if found is None:
        raise InputError(
            "no part of a pack is there: run `taskstore pack ... --part 1/N --to` first"
        )
    return found


def folder_of(asked: Asked, decided: Decided) -> str:
    """Return the folder of the units of this pack, in the place of parts."""
    return f"units-{blake3(encoded(asked) + encoded(decided)).hexdigest(8)}"


@contextmanager
def coder_of(
    place: Location, family: Family, asked: Asked, options: PackOptions, progress: Callback,
) -> Iterator[tuple[Coder, Decided]]:  # fmt: skip
    """Open what codes the family, as all others do; looks at it where no one has yet.

    `options`: those of `asked`, with this process's threads and memory.
    """
    decided = read(place, FOUND, Decided)
    if decided is None:
        job, choice = by_measure(make_job(family, options, progress))
        with fitted(job) as source:
            coder = Coder.of(job, source)
            mine = Decided.of(coder, choice)
            try:
                place.put_if_unchanged(FOUND, encoded(mine), None)
            except ChangedMeanwhile:
                decided = read(place, FOUND, Decided)
            else:
                yield coder, mine
                return
    assert decided is not None
    found = Found(decided.parents, decided.codecs)
    job = make_job(family, options, progress, found)
    own: dict[str, Any] = {"jobs": options.jobs, "max_memory": options.max_memory}
    job = with_options(job, replace(decided.options, **own), found)
    with fitted(job, decided.known) as source:
        yield Coder.of(job, source, decided.codings), decided


def by_name(models: Mapping[str, PathLike]) -> dict[str, str]:
    """Return models in the order of their names, each by a path that means the same anywhere."""
    return {name: os.fspath(_named(model)) for name, model in sorted(models.items())}


def _named(path: PathLike) -> Path:
    """Return a path that means the same in any folder; ids of a hub stay as they are."""
    return Path(os.path.abspath(path)) if os.path.exists(path) else Path(path)
