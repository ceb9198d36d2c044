"""The grammar of merges: what stands before a method, the method, and what comes after it.

    [BEFORE+...]METHOD[+AFTER...]        trust_region+wudi+lines, dare+ties, ties+consensus

A BEFORE changes the task vectors, the first one first; an AFTER changes the merged vector, the
first one first. Without a METHOD it is `sum`. An AFTER may also stand in front, over all that is
behind it: consensus+ties is ties+consensus.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from taskstore.errors import OptionError
from taskstore.merging.methods.api import Info

GRAMMAR = "[BEFORE+...]METHOD[+AFTER...]"
USUAL = "sum"  # the method where none is named


@dataclass(frozen=True)
class Composition:
    """Names, in the order in which they work."""

    before: tuple[str, ...]
    method: str
    after: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """From the outermost to the method: what is over what."""
        return (*reversed(self.after), *self.before, self.method)


def composed(parts: list[str], infos: Mapping[str, Info], name: str) -> Composition:
    """Sort known names by their stage; raises OptionError for what cannot be combined."""
    methods = [part for part in parts if infos[part].stage == "merge"]
    if len(methods) > 1:
        raise OptionError(
            f"method {name!r} names two that merge, {methods[0]!r} and {methods[1]!r}; leave one "
            f"out. What can stand with a method: {_listed(infos)}"
        )
    if twice := sorted({part for part in parts if parts.count(part) > 1}):
        raise OptionError(f"method {name!r} has {twice[0]!r} twice; once is enough")
    where = parts.index(methods[0]) if methods else len(parts)
    late = [part for part in parts[where:] if infos[part].stage == "before"]
    if late:
        raise OptionError(
            f"{late[0]!r} changes the task vectors before {methods[0]!r} merges them; write "
            f"{late[0]}+{methods[0]}"
        )
    front = [part for part in parts[:where] if infos[part].stage == "after"]
    behind = [part for part in parts[where:] if infos[part].stage == "after"]
    before = tuple(part for part in parts[:where] if infos[part].stage == "before")
    method = methods[0] if methods else USUAL
    made = Composition(before, method, (*behind, *reversed(front)))
    _check(made, infos)
    return made


def _check(made: Composition, infos: Mapping[str, Info]) -> None:
    """Refuse what each part could do and both together cannot."""
    info = infos[made.method]
    for part in made.after:
        below = (made.method, *made.after[: made.after.index(part)])
        whole = [other for other in below if infos[other].whole]
        if infos[part].masks and whole:
            raise OptionError(
                f"method {whole[0]!r} merges whole matrices; {part!r} cannot work on it"
            )
    parts = made.names
    least = max(parts, key=lambda part: infos[part].least)
    if 0 < info.most < infos[least].least:
        raise OptionError(
            f"method {made.method!r} takes {info.most} model beside the base and {least!r} at "
            f"least {infos[least].least}; they cannot be combined"
        )
    seen: dict[str, str] = {}
    for part in parts:
        for option in infos[part].options:
            if option.name in seen:
                raise OptionError(
                    f"{seen[option.name]!r} and {part!r} both have an option {option.name!r}; "
                    "they cannot be combined"
                )
            seen[option.name] = part


def _listed(infos: Mapping[str, Info]) -> str:
    stages = {stage: ", ".join(n for n, i in infos.items() if i.stage == stage)
              for stage in ("before", "after")}  # fmt: skip
    return "; ".join(f"{stage} it {names}" for stage, names in stages.items())
