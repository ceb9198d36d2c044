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
from taskstore.merging.methods.actmat import ActMat
from taskstore.merging.methods.api import Info, Method, Option
from taskstore.merging.methods.arcee_fusion import ArceeFusion
from taskstore.merging.methods.average import Average, Warm
from taskstore.merging.methods.breadcrumbs import Breadcrumbs
from taskstore.merging.methods.composition import Composition, composed
from taskstore.merging.methods.consensus import Consensus
from taskstore.merging.methods.dare import Dare
from taskstore.merging.methods.della import Della
from taskstore.merging.methods.emr import Emr
from taskstore.merging.methods.fisher import Fisher
from taskstore.merging.methods.gradient import Gradient
from taskstore.merging.methods.iso_c import IsoC
from taskstore.merging.methods.iso_cts import IsoCts
from taskstore.merging.methods.karcher import Karcher
from taskstore.merging.methods.lawa import Lawa
from taskstore.merging.methods.linear import Linear
from taskstore.merging.methods.lines import Lines
from taskstore.merging.methods.localize_and_stitch import LocalizeAndStitch
from taskstore.merging.methods.lors import Lors
from taskstore.merging.methods.lsq import Lsq
from taskstore.merging.methods.magnitude import Magnitude
from taskstore.merging.methods.model_stock import ModelStock
from taskstore.merging.methods.multislerp import MultiSlerp
from taskstore.merging.methods.nearswap import NearSwap
from taskstore.merging.methods.nuslerp import NuSlerp
from taskstore.merging.methods.obim import Obim
from taskstore.merging.methods.passthrough import Passthrough
from taskstore.merging.methods.regmean import RegMean
from taskstore.merging.methods.sce import Sce
from taskstore.merging.methods.slerp import Slerp
from taskstore.merging.methods.sum import Sum
from taskstore.merging.methods.svc import Svc
from taskstore.merging.methods.swa import Swa
from taskstore.merging.methods.ties import Ties
from taskstore.merging.methods.trust_region import TrustRegion
from taskstore.merging.methods.tsv import Tsv
from taskstore.merging.methods.tvq import Tvq
from taskstore.merging.methods.wudi import Wudi

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
    "iso_c": IsoC,
    "iso_cts": IsoCts,
    "wudi": Wudi,
    "actmat": ActMat,
    "localize_and_stitch": LocalizeAndStitch,
    "lors": Lors,
    "fisher": Fisher,
    "regmean": RegMean,
    "gradient": Gradient,
    "obim": Obim,
    "slerp": Slerp,
    "nuslerp": NuSlerp,
    "multislerp": MultiSlerp,
    "karcher": Karcher,
    "sce": Sce,
    "nearswap": NearSwap,
    "arcee_fusion": ArceeFusion,
    "passthrough": Passthrough,
    "breadcrumbs": Breadcrumbs,
    "della": Della,
    "trust_region": TrustRegion,
    "tvq": Tvq,
    "lines": Lines,
    "svc": Svc,
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
    "breadcrumbs_ties": "breadcrumbs+ties",
    "dare_linear": "dare+sum",
    "dare_ties": "dare+ties",
    "della_linear": "della+sum",
    "della_ties": "della+ties",
    "emr_merging": "emr",
    "fisher_merging": "fisher",
    "gradient_matching": "gradient",
    "interpolation": "linear",
    "iso": "iso_c",
    "localize": "localize_and_stitch",
    "tatr": "trust_region",
    "wudi_merging": "wudi",
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


def split(name: str) -> Composition:
    """What a name stands for: "dare+ties" -> dare, before ties.

    Raises UnknownMethod with the nearest names, and OptionError for what cannot be combined.
    """
    parts = [_known(part) for word in _whole(name).split("+") for part in _known_parts(word)]
    return composed(parts, {part: method.INFO for part, method in MERGES.items()}, name)


def procedure(name: str) -> str:
    """The procedure of that name, "" if there is none."""
    plain = _plain(name)
    return plain if plain in PROCEDURES else ""


def _whole(name: str) -> str:
    """An alias of a whole name, like dare_ties, or the name."""
    return ALIASES.get(_plain(name), name)


def _known_parts(word: str) -> list[str]:
    """A word of a name, or the parts that an alias stands for."""
    return _whole(word).split("+")


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_")


def _known(name: str) -> str:
    plain = ALIASES.get(_plain(name), _plain(name))
    if plain in MERGES:
        return plain
    if plain in PROCEDURES:
        raise OptionError(
            f"method {name!r} tries models with an evaluator of yours, so it needs one and makes "
            f"a model, not a store: `taskstore merge BASE MODEL... --method {plain} --eval CMD "
            "-o DIR`"
        )
    there = [*MERGES, *PROCEDURES]
    near = difflib.get_close_matches(plain, [*there, *ALIASES], n=3, cutoff=0.5)
    raise UnknownMethod(name, near, there)


def info_of(name: str) -> Info:
    """What a method says of itself; for "dare+ties", what all say together."""
    made = split(name)
    infos: list[Info] = [MERGES[part].INFO for part in made.names]
    if len(infos) == 1:
        return infos[0]
    whole = [info.memory for info in infos if info.whole]
    return replace(
        infos[0],
        title=" over ".join(info.title for info in infos),
        formula="; ".join(info.formula for info in reversed(infos)),
        options=tuple(options_of(name).values()),
        alpha=infos[-1].alpha,
        grid=infos[-1].grid,
        least=max(info.least for info in infos),
        most=min((info.most for info in infos if info.most), default=0),
        statistics=tuple(dict.fromkeys(kind for info in infos for kind in info.statistics)),
        stage="merge",
        packs=all(info.packs for info in infos),
        weights=all(info.weights for info in infos),
        whole=bool(whole),
        memory="; ".join(dict.fromkeys(whole)) or infos[0].memory,
    )


def options_of(name: str) -> dict[str, Option]:
    """The options of a method, and of all that stands with it."""
    parts = (MERGES[part].INFO.options for part in reversed(split(name).names))
    return {option.name: option for options in parts for option in options}


def make(name: str, options: Mapping[str, float] | None = None, *, merging: bool = False) -> Method:
    """The method with its options, as a store or, if `merging`, as one merged model needs it.

    Raises UnknownMethod, or OptionError for an option that it lacks or a value out of range.
    """
    outer_to_inner = split(name).names
    given, known = dict(options or {}), options_of(name)
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
            raise OptionError(f"method {name!r} has no option {key!r}; {hint}")
        _check(name, known[key], value)
    method: Method | None = None
    masks = [MERGES[part].INFO.masks for part in outer_to_inner]
    for i, part in reversed(list(enumerate(outer_to_inner))):
        below = [] if method is None else [method]
        method = _made(part, given, merging and not any(masks[:i]), *below)
    assert method is not None
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
