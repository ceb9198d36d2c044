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
from taskstore.merging.methods import Method
from taskstore.models.family import Family
from taskstore.packing.auto.choose import Choice
from taskstore.packing.auto.choose import decided as by_measure
from taskstore.packing.block_coder import Coder
from taskstore.packing.driver import fitted
from taskstore.packing.job import Found, make_job, with_options
from taskstore.packing.options import PackOptions
from taskstore.packing.parts.fitted import put_state, state_of
from taskstore.packing.parts.unit_files import encoded, read
from taskstore.progress import Callback
from taskstore.version import __version__

ASKED, FOUND = "asked", "found"
LOOKS, LOOK = 256, 256  # tensors of a model, about, and elements of each, that tell its weights


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
        named = {task: os.fspath(_named(model)) for task, model in sorted(finetunes.items())}
        models = [_print(model) for model in (family.base, *family.tasks)]
        return cls(__version__, os.fspath(_named(base)), named, models, mine, parts)

    def check(self, family: Family) -> None:
        """Raise InputError where a model is not the one that others read."""
        for model, known in zip((family.base, *family.tasks), self.models, strict=True):
            if _print(model) != known:
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


def _print(model: Any) -> str:
    """Digest what headers say of a model's tensors, its size and commit, and some of its weights.

    One that was trained on in its place has other weights under the same headers.
    """
    every = sorted((name, i.dtype, list(i.shape)) for name, i in model.tensors.items())
    known = [every, model.original_bytes, model.revision]
    state = blake3(msgspec.json.encode(known))
    if os.path.isabs(model.source or ""):  # elsewhere a few bytes may cost a window
        for name, info in list(model.tensors.items())[:: max(1, len(every) // LOOKS)]:
            middle = info.numel // 2
            state.update(model.read(name, middle, min(info.numel, middle + LOOK)).tobytes())
    return state.hexdigest()


def _named(path: PathLike) -> Path:
    """Return a path that means the same in any folder; ids of a hub stay as they are."""
    return Path(os.path.abspath(path)) if os.path.exists(path) else Path(path)
