"""Match names that differ in what stands before or between their parts.

A name is a list of words between dots. Training wrappers put words of their own anywhere in it;
a model inside another one (a head, a vision tower) has other words at its start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

WRAPPERS = frozenset(
    {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
    | {"_module", "module", "pretrained_model", "base_layer", "original_module"}
)
PEFT = ("base_model", "model")  # what PEFT puts before a model's names
NEAR = 16  # names with the same end that are looked at
Fits = Callable[[str, str], bool]  # (base's name, own name): the shapes agree


def unwrapped(name: str) -> tuple[str, frozenset[str]]:
    """Return a name without the words of wrappers, and those words."""
    words = name.split(".")
    left = [word for word in words if word not in WRAPPERS]
    gone = frozenset(words) & WRAPPERS
    if tuple(left[:2]) == PEFT:
        left, gone = left[2:], gone | {".".join(PEFT)}
    return (".".join(left), gone) if left else (name, frozenset())


def by_wrappers(
    base: Iterable[str], own: Iterable[str], fits: Fits
) -> tuple[dict[str, str], list[str]]:
    """Match names that are equal without their wrappers: base's -> own; and what was done."""
    theirs = _unique((unwrapped(name)[0], name) for name in base)
    ours = _unique((unwrapped(name)[0], name) for name in own)
    found, words = dict[str, str](), set[str]()
    for plain, name in ours.items():
        other = theirs.get(plain)
        if other is not None and fits(other, name):
            found[other] = name
            there, here = unwrapped(other)[1], unwrapped(name)[1]
            words |= {f"`{w}.` left out" for w in here - there}
            words |= {f"`{w}.` added" for w in there - here}
    return found, sorted(words)


def by_start(base: Iterable[str], own: Iterable[str], fits: Fits) -> tuple[dict[str, str], str]:
    """Match names by the one change of their start that most of them agree on.

    Returns base's name -> own, and the change in words; wrappers are left out of both first.
    """
    theirs = _unique((unwrapped(name)[0], name) for name in base)
    ours = _unique((unwrapped(name)[0], name) for name in own)
    votes = _votes(theirs, ours, fits)
    if not votes:
        return {}, ""
    (old, new), _ = max(votes.items(), key=lambda item: (item[1], item[0]))
    found = {}
    for plain, name in ours.items():
        other = theirs.get(new + plain[len(old) :]) if plain.startswith(old) else None
        if other is not None and fits(other, name):
            found[other] = name
    if not old or not new:
        return found, f"`{old or new}` {'left out' if old else 'added'}"
    return found, f"`{old}` read as `{new}`"


def _votes(
    theirs: Mapping[str, str], ours: Mapping[str, str], fits: Fits
) -> Counter[tuple[str, str]]:
    """Count the changes of starts, (own, base's), by the names that the longest common end fits.

    An end has two words or more: one alone, `weight`, is no sign.
    """
    ends: dict[tuple[str, ...], list[str]] = {}
    for plain in theirs:
        words = plain.split(".")
        for at in range(max(1, len(words) - 1)):
            ends.setdefault(tuple(words[at:]), []).append(plain)
    votes: Counter[tuple[str, str]] = Counter()
    for plain, name in ours.items():
        words = plain.split(".")
        for at in range(max(1, len(words) - 1)):
            end = ".".join(words[at:])
            near = [o for o in ends.get(tuple(words[at:]), ())[:NEAR] if fits(theirs[o], name)]
            if near:
                start = plain[: len(plain) - len(end)]
                votes.update((start, other[: len(other) - len(end)]) for other in near)
                break
    return votes


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return plain name -> name, without plain names that two names have."""
    found, twice = dict[str, str](), set[str]()
    for plain, name in pairs:
        if plain in found:
            twice.add(plain)
        found[plain] = name
    return {plain: name for plain, name in found.items() if plain not in twice}
