"""The merge methods by name, `MERGES`: how task vectors become one multi-task vector.

A method may look at all task vectors before it merges any (`fit`, with a `Scan`). Then it merges
blocks of elements, or whole matrices if it wants them, each by itself, so any block size gives the
same result. Names are written into stores: never rename one.

A method that works on another one is asked for as "dare+ties". Procedures are ways to merge that
are no formula: they try models with the user's own evaluator, and `merging.search` carries them
out.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from taskstore.errors import OptionError, UnknownMethod
from taskstore.merging.methods.api import Info, Method, Option
from taskstore.merging.methods.average import Average, Warm
from taskstore.merging.methods.consensus import Consensus
from taskstore.merging.methods.dare import Dare
from taskstore.merging.methods.emr import Emr
from taskstore.merging.methods.fisher import Fisher
from taskstore.merging.methods.gradient import Gradient
from taskstore.merging.methods.lawa import Lawa
from taskstore.merging.methods.linear import Linear
from taskstore.merging.methods.lsq import Lsq
from taskstore.merging.methods.magnitude import Magnitude
from taskstore.merging.methods.model_stock import ModelStock
from taskstore.merging.methods.regmean import RegMean
from taskstore.merging.methods.sum import Sum
from taskstore.merging.methods.swa import Swa
from taskstore.merging.methods.ties import Ties
from taskstore.merging.methods.tsv import Tsv

MERGES: Mapping[str, type[Any]] = {
    "average": Average,
    "swa": Swa,
    "lawa": Lawa,
    "warm": Warm,
    "linear": Linear,
    "sum": Sum,
    "lsq": Lsq,
    "ties": Ties,
    "magnitude": Magnitude,
    "dare": Dare,
    "emr": Emr,
    "consensus": Consensus,
    "model_stock": ModelStock,
    "tsv": Tsv,
    "fisher": Fisher,
    "regmean": RegMean,
    "gradient": Gradient,
}
PROCEDURES: Mapping[str, Info] = {
    "greedy_soup": Info(
        "Greedy soup",
        "the average of the best fine-tune and, best first, each that makes the score better",
        "Wortsman et al., arXiv 2203.05482",
        packs=False,
        weights=False,
    ),
}
ALIASES: Mapping[str, str] = {
    "consensus_sum": "consensus+sum",
    "consensus_ta": "consensus+sum",
    "consensus_ties": "consensus+ties",
    "dare_linear": "dare+sum",
    "dare_ties": "dare+ties",
    "emr_merging": "emr",
    "fisher_merging": "fisher",
    "gradient_matching": "gradient",
    "interpolation": "linear",
    "magnitude_masking": "magnitude",
    "mean": "average",
    "model_soup": "average",
    "soup": "average",
    "task_arithmetic": "sum",
    "ties_merging": "ties",
    "tsv_m": "tsv",
    "tsv_merge": "tsv",
    "tsvm": "tsv",
    "ubgm": "gradient",
    "uniform_soup": "average",
}


def split(name: str) -> tuple[str, str]:
    """A method and the one that it works on, "" if none: "dare+ties" -> ("dare", "ties").

    Raises UnknownMethod with the nearest names, and OptionError for a pair that makes no sense.
    """
    whole = ALIASES.get(_plain(name), name)
    outer, plus, inner = whole.partition("+")
    outer, inner = _known(outer), _known(inner) if plus else ""
    over = MERGES[outer].INFO.over
    if inner and not over:
        raise OptionError(f"method {outer!r} does not work on another; leave out {plus + inner!r}")
    if inner and MERGES[inner].INFO.over:
        raise OptionError(f"method {inner!r} works on another itself; {outer!r} cannot work on it")
    if inner and MERGES[inner].INFO.whole and not MERGES[outer].INFO.whole:
        raise OptionError(f"method {inner!r} merges whole matrices; {outer!r} cannot work on it")
    return outer, inner or over


def procedure(name: str) -> str:
    """The procedure of that name, "" if there is none."""
    plain = _plain(name)
    return plain if plain in PROCEDURES else ""


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_")


def _known(name: str) -> str:
    plain = ALIASES.get(_plain(name), _plain(name))
    if plain in MERGES:
        return plain
    if plain in PROCEDURES:
        raise OptionError(
            f"method {name!r} tries models with an evaluator of yours, so it needs one and makes a "
            f"model, not a store: taskstore merge BASE MODEL... --method {plain} --eval CMD -o DIR"
        )
    there = [*MERGES, *PROCEDURES]
    near = difflib.get_close_matches(plain, [*there, *ALIASES], n=3, cutoff=0.5)
    raise UnknownMethod(name, near, there)


def info_of(name: str) -> Info:
    """What a method says of itself; for "dare+ties", what both say together."""
    outer, inner = split(name)
    own: Info = MERGES[outer].INFO
    if not inner:
        return own
    other: Info = MERGES[inner].INFO
    return replace(
        own,
        title=f"{own.title} over {other.title}",
        options=tuple(options_of(name).values()),
        least=max(own.least, other.least),
        most=min((most for most in (own.most, other.most) if most), default=0),
        statistics=own.statistics + other.statistics,
        packs=own.packs and other.packs,
        weights=own.weights and other.weights,
        whole=own.whole and other.whole,
    )


def options_of(name: str) -> dict[str, Option]:
    """The options of a method, and of the one that it works on."""
    outer, inner = split(name)
    parts = (MERGES[part].INFO.options for part in (inner, outer) if part)
    return {option.name: option for options in parts for option in options}


def make(name: str, options: Mapping[str, float] | None = None, *, merging: bool = False) -> Method:
    """The method with its options, as a store or, if `merging`, as one merged model needs it.

    Raises UnknownMethod, or OptionError for an option that it lacks or a value out of range.
    """
    outer, inner = split(name)
    given, known = dict(options or {}), options_of(name)
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
            raise OptionError(f"method {name!r} has no option {key!r}; {hint}")
        _check(name, known[key], value)
    below = [_made(inner, given, merging and not MERGES[outer].INFO.masks)] if inner else []
    method: Method = _made(outer, given, merging, *below)
    return method


def check(name: str, options: Mapping[str, float], *, packing: bool = False) -> None:
    """Raise what `make` would, or OptionError if `packing` and a store cannot take the method."""
    make(name, options)
    if packing and not info_of(name).packs:
        fitting = ", ".join(n for n, method in MERGES.items() if method.INFO.packs)
        raise OptionError(
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
        raise OptionError(
            f"option {option.name}={value:g} of {method!r} is not {kind} from {option.low:g} to "
            f"{option.high:g}"
        )
