"""The merge methods by name, `MERGES`: how task vectors become one multi-task vector.

A method may look at all task vectors before it merges any (`fit`, with a `Scan`). Then it merges
blocks of elements, or whole matrices if it wants them, each by itself, so any block size gives the
same result. Names are written into stores: never rename one. A method's module is imported when
it is asked for, so that a command which merges nothing does not wait for any.

A method that works on another one is asked for as "dare+ties". Procedures are ways to merge that
are no formula: they try models with the user's own evaluator, and `merging.search` carries them
out.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any, TypeVar

from taskstore.errors import OptionError, UnknownMethod
from taskstore.merging.methods.api import Info, Method, Option
from taskstore.merging.methods.composition import Composition, composed

T = TypeVar("T")

_CLASSES: Mapping[str, str] = {  # name -> module.class
    "average": "average.Average",
    "swa": "swa.Swa",
    "lawa": "lawa.Lawa",
    "warm": "average.Warm",
    "linear": "linear.Linear",
    "sum": "sum.Sum",
    "lsq": "lsq.Lsq",
    "ties": "ties.Ties",
    "magnitude": "magnitude.Magnitude",
    "dare": "dare.Dare",
    "emr": "emr.Emr",
    "consensus": "consensus.Consensus",
    "model_stock": "model_stock.ModelStock",
    "tsv": "tsv.Tsv",
    "iso_c": "iso_c.IsoC",
    "iso_cts": "iso_cts.IsoCts",
    "wudi": "wudi.Wudi",
    "actmat": "actmat.ActMat",
    "kron": "kron.Kron",
    "localize_and_stitch": "localize_and_stitch.LocalizeAndStitch",
    "lors": "lors.Lors",
    "task_vector_bases": "task_vector_bases.TaskVectorBases",
    "fisher": "fisher.Fisher",
    "regmean": "regmean.RegMean",
    "gradient": "gradient.Gradient",
    "obim": "obim.Obim",
    "slerp": "slerp.Slerp",
    "nuslerp": "nuslerp.NuSlerp",
    "multislerp": "multislerp.MultiSlerp",
    "karcher": "karcher.Karcher",
    "sce": "sce.Sce",
    "ram": "ram.Ram",
    "nearswap": "nearswap.NearSwap",
    "arcee_fusion": "arcee_fusion.ArceeFusion",
    "passthrough": "passthrough.Passthrough",
    "breadcrumbs": "breadcrumbs.Breadcrumbs",
    "della": "della.Della",
    "trust_region": "trust_region.TrustRegion",
    "tvq": "tvq.Tvq",
    "lines": "lines.Lines",
    "svc": "svc.Svc",
}


class _Each(Mapping[str, T]):
    """Something of every method, by its name, made when it is asked for."""

    def __init__(self, make_one: Callable[[str], T]) -> None:
        self._make_one = make_one

    def __getitem__(self, name: str) -> T:
        return self._make_one(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


def _class_of(name: str) -> type[Any]:
    module, _, own = _CLASSES[name].partition(".")
    found: type[Any] = getattr(import_module(f"taskstore.merging.methods.{module}"), own)
    return found


def _own_info(name: str) -> Info:
    found: Info = MERGES[name].INFO
    return found


MERGES: Mapping[str, type[Any]] = _Each(_class_of)
_INFOS = _Each(_own_info)
PROCEDURES: Mapping[str, Info] = {
    "auto": Info(
        "The best of a short list",
        "methods that make sense for these models are scored, and the best is searched (CMA-ES)",
        "ours, the rule: docs/methods.md",
        packs=False,
        weights=False,
    ),
    "fw": Info(
        "Frank-Wolfe steps",
        "theta += step 2 / (t + 2) (theta_s - theta), s by the gradient of a loss, per tensor",
        "Chen et al., arXiv 2503.12649",
        (
            Option("steps", 10, 1, 10_000, "gradients that are taken", whole=True),
            Option("step", 0, 0, 1, "length of a step; 0: 1 (language models), 0.1 (classifiers)"),
        ),
        packs=False,
        weights=False,
        memory="the model and its gradient in float32, for the gradients",
        whole=True,
    ),
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
    return composed(parts, _INFOS, name)


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
