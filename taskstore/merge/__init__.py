"""MERGES: name -> how task vectors become one multi-task vector.

A method may need to see all task vectors before it merges any (`fit`, with a `Scan`); then it
merges blocks of elements, or matrices where it wants them whole, each on its own, so any block size
gives the same result. Names are written into stores: never rename one.

A method that works on another one is asked for as "dare+ties".
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from taskstore.errors import InputError, UnknownMethod
from taskstore.merge.api import F32, Info, Method, Option, Scan, Vectors, Whole
from taskstore.merge.lsq import Lsq
from taskstore.merge.sum import Sum
from taskstore.merge.ties import Ties

__all__ = ["F32", "MERGES", "Info", "Method", "Option", "Scan", "Vectors", "Whole", "make", "split"]

MERGES: Mapping[str, type[Any]] = {
    "lsq": Lsq,
    "sum": Sum,
    "ties": Ties,
}
ALIASES: Mapping[str, str] = {
    "task_arithmetic": "sum",
}


def split(name: str) -> tuple[str, str]:
    """ "dare+ties" -> ("dare", "ties"), "dare" -> ("dare", "sum"), "sum" -> ("sum", "").

    Raises UnknownMethod with the nearest names, InputError for a pair that makes no sense.
    """
    outer, plus, inner = (_known(part) for part in name.partition("+"))
    over = MERGES[outer].INFO.over
    if inner and not over:
        raise InputError(f"method {outer!r} does not work on another; leave out {plus + inner!r}")
    if inner and MERGES[inner].INFO.over:
        raise InputError(f"method {inner!r} works on another itself; {outer!r} cannot work on it")
    return outer, inner or over


def _known(name: str) -> str:
    plain = name.strip().lower().replace("-", "_")
    plain = ALIASES.get(plain, plain)
    if plain in MERGES or plain in ("", "+"):
        return plain
    names = [*MERGES, *ALIASES]
    raise UnknownMethod(name, difflib.get_close_matches(plain, names, n=3, cutoff=0.4), MERGES)


def options_of(name: str) -> dict[str, Option]:
    """What a method takes, and what the one that it works on does."""
    outer, inner = split(name)
    parts = (MERGES[part].INFO.options for part in (inner, outer) if part)
    return {option.name: option for options in parts for option in options}


def make(name: str, options: Mapping[str, float] | None = None, *, merging: bool = False) -> Method:
    """The method with its options; `merging`: for one model that is made, not for a store.

    Raises UnknownMethod, or InputError for an option that it does not have or a value out of range.
    """
    outer, inner = split(name)
    given, known = dict(options or {}), options_of(name)
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
            raise InputError(f"method {name!r} has no option {key!r}; {hint}")
        _check(name, known[key], value)
    method: Method = _made(
        outer, given, merging, *([_made(inner, given, merging)] if inner else [])
    )
    return method


def check(name: str, options: Mapping[str, float], *, packing: bool = False) -> None:
    """Raise UnknownMethod or InputError where `make` would, or a store cannot take the method."""
    make(name, options)
    outer, _ = split(name)
    if packing and not MERGES[outer].INFO.packs:
        fitting = ", ".join(n for n, method in MERGES.items() if method.INFO.packs)
        raise InputError(
            f"method {name!r} makes no multi-task vector that masks can use; pack by {fitting}"
        )


def _made(name: str, given: Mapping[str, float], merging: bool, *inner: Method) -> Any:
    info: Info = MERGES[name].INFO
    usual = (info.merging or {}) if merging else {}
    own = {o.name: given.get(o.name, usual.get(o.name, o.default)) for o in info.options}
    return MERGES[name](*inner, **own)


def _check(method: str, option: Option, value: float) -> None:
    if not option.low <= value <= option.high or (option.whole and value != int(value)):
        kind = "a whole number" if option.whole else "a number"
        raise InputError(
            f"option {option.name}={value:g} of {method!r} is not {kind} from {option.low:g} to "
            f"{option.high:g}"
        )
