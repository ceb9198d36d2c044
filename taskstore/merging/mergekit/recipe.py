"""Read mergekit's YAML, for the methods that both have: a file -> the arguments of `merge`.

What cannot be done is refused with its name and place. What has no effect becomes a note. Nothing
is skipped without one. `mergekit.methods` and docs/mergekit.md say how the methods compare.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from taskstore.format import names
from taskstore.merging.mergekit.aligned import Aligned
from taskstore.merging.mergekit.fields import Node, load
from taskstore.merging.mergekit.layers import Slice, Source
from taskstore.merging.mergekit.methods import (
    BASELESS,
    GLOBAL,
    PER_MODEL,
    check_name,
    translate,
    unused,
)
from taskstore.merging.mergekit.named_models import model_path, same_model
from taskstore.merging.mergekit.settings import RecipeModel, Settings
from taskstore.merging.mergekit.tokenizer_settings import tokenizer
from taskstore.merging.options import MergeOptions

KEYS = (
    *("merge_method", "base_model", "models", "slices", "modules", "parameters"),
    *("dtype", "out_dtype", "tokenizer_source", "tokenizer", "chat_template"),
)
REFUSED = {
    "chat_template": "is not supported; the merged model has that of its tokenizer's model",
}
MOST_LAYERS = 10_000
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True)
class Recipe:
    """The arguments of `merge`; `notes` are place in the file -> what became of it.

    slices   the layers of the merged model, and what is said of each tensor; empty where models are
             merged whole and by the same numbers, which `options` has all
    view     gives the models the tokenizer and its rows; None: rows are merged by number
    """

    base: str
    models: Mapping[str, str]
    options: MergeOptions
    notes: Mapping[str, str]
    slices: Sequence[Slice] = ()
    view: Aligned | None = None


def read(path: Path) -> Recipe:
    """The recipe of a file; raises InputError with the place of what cannot be read or done."""
    document = load(path)
    fields = document.members(KEYS)
    for key, problem in REFUSED.items():
        if key in fields:
            fields[key].fail(problem)
    if "modules" in fields:
        fields = _one_module(fields)
    if "merge_method" not in fields:
        document.fail("has no merge_method")
    if "slices" in fields and "models" in fields:
        fields["slices"].fail("stands beside models; give one of them")
    if "slices" not in fields and "models" not in fields:
        document.fail("has no models, and no slices")
    check_name(fields["merge_method"])
    slices = _slices(fields)
    base = slices[0].base.path
    found = list(dict.fromkeys(s.path for part in slices for s in part.tasks))
    if fields["merge_method"].value == "passthrough":
        found = [base]
    if not found:
        fields.get("models", fields.get("slices", document)).fail("names no model beside the base")
    models = dict(zip(_names(found), found, strict=True))
    first = slices[0].settings.at("", 0)
    call = translate(first)
    plain = not call.varied and "slices" not in fields and slices[0].settings.single
    plain = plain and fields["merge_method"].value != "passthrough"
    options = MergeOptions(
        method=call.method,
        method_options=call.options,
        alpha=call.alpha if plain else None,
        weights=dict(zip(models, call.weights, strict=True)) if call.weights and plain else {},
        dtype=_dtype(fields),
    )
    wanted = tokenizer(fields, base, models)
    view = None if wanted is None else Aligned(wanted)
    notes: dict[str, str] = {}
    for part in slices:
        notes |= {**unused(part.settings), **translate(part.settings.at("", 0)).notes}
    return Recipe(base, models, options, notes, () if plain else slices, view)


def _one_module(fields: Mapping[str, Node]) -> dict[str, Node]:
    """The recipe without `modules`, of which a model of one part has one, named default."""
    modules = fields["modules"]
    if not isinstance(modules.value, dict) or list(modules.value) != ["default"]:
        modules.fail(
            "is no mapping of one member, default; parts of models of several parts are not merged "
            "apart here: merge whole `models`"
        )
    for other in ("models", "slices"):
        if other in fields:
            fields[other].fail("stands beside modules; give one of them")
    parts = modules.members(("default",))
    inner = parts["default"].members(("models", "slices", "parameters")) if parts else {}
    if "parameters" in inner and "parameters" in fields:  # the module's own go first
        own, every = inner["parameters"], fields["parameters"]
        _parameters(inner), _parameters(fields)
        inner["parameters"] = replace(own, value={**every.value, **own.value})
    return {**{k: v for k, v in fields.items() if k != "modules"}, **inner}


def _slices(fields: Mapping[str, Node]) -> list[Slice]:
    """The slices; whole models are one."""
    method, shared = fields["merge_method"], _parameters(fields)
    named = model_path(fields["base_model"]) if "base_model" in fields else None
    if named is None and method.value not in BASELESS:
        method.fail(f"{method.value} needs a base_model")
    parts = [fields["models"]] if "models" in fields else fields["slices"].items()
    if not parts:
        fields["slices"].fail("names no slice")
    made = []
    for part in parts:
        given: dict[str, Node] = {}
        sources = part
        if "slices" in fields:
            inner = part.members(("sources", "parameters"))
            if "sources" not in inner:
                part.fail("has no sources")
            sources, given = inner["sources"], _parameters(inner)
        made.append(_slice(sources, method, shared, given, named, fields, "slices" in fields))
    if sum(part.length for part in made) > MOST_LAYERS:
        fields["slices"].fail(f"makes a model of more than {MOST_LAYERS} layers")
    return made


def _slice(
    node: Node,
    method: Node,
    shared: Mapping[str, Node],
    given: Mapping[str, Node],
    named: str | None,
    fields: Mapping[str, Node],
    cut: bool,
) -> Slice:
    listed = _listed(node, cut)
    if not listed:
        node.fail("names no model")
    base = named if named is not None else listed[0].path
    inside = any(same_model(source.path, base) for source in listed)
    if named is not None and not inside:
        if method.value == "linear":
            fields["base_model"].fail(
                "is none of the models; linear averages it too, so list it with a weight, or leave "
                "it out"
            )
        if cut:
            node.fail(f"has not the base_model among them, which {method.value} needs there")
    if method.value == "passthrough" and len(listed) > 1:
        node.fail(f"has {len(listed)} models, and passthrough takes one")
    if method.value == "passthrough":
        base = listed[0].path
    lengths = {source.stop - source.start for source in listed}
    if len(lengths) > 1:
        node.fail("takes ranges of unequal length from its models")
    entries = [RecipeModel(s.node, s.parameters, same_model(s.path, base)) for s in listed]
    settings = Settings(method, shared, entries, given, named is not None)
    own = next((s for s in listed if same_model(s.path, base)), Source(node, base, {}))
    return Slice(settings, own, [s for s in listed if s is not own], cut)


def _parameters(fields: Mapping[str, Node]) -> dict[str, Node]:
    """The parameters of a recipe or of one of its models."""
    return fields["parameters"].members(GLOBAL) if "parameters" in fields else {}


def _listed(models: Node, cut: bool) -> list[Source]:
    result: list[Source] = []
    for node in models.items():
        fields = node.members(("model", "parameters", *(["layer_range"] if cut else [])))
        if "model" not in fields:
            node.fail("names no model")
        given = _parameters(fields)
        for name in set(given) & set(GLOBAL) - set(PER_MODEL):
            given[name].fail("is no parameter of one model; it belongs into the recipe's own")
        model = model_path(fields["model"])
        for other in result:
            if same_model(model, other.path):
                node.fail(f"is the same model as {other.node.where}; give it one weight")
        start, stop = _range(node, fields) if cut else (0, 0)
        result.append(Source(node, model, given, start, stop))
    return result


def _range(node: Node, fields: Mapping[str, Node]) -> tuple[int, int]:
    if "layer_range" not in fields:
        node.fail("has no layer_range")
    place = fields["layer_range"]
    numbers = [item.number() for item in place.items()]
    if (
        len(numbers) != 2
        or not 0 <= numbers[0] < numbers[1] <= MOST_LAYERS
        or numbers != [int(n) for n in numbers]
    ):
        place.fail("is no [first, end] of two whole numbers, the first from 0 and below the end")
    return int(numbers[0]), int(numbers[1])


def _names(models: Sequence[str]) -> list[str]:
    """The last part of each path, or the last two if the last one is not unique."""
    parts = [Path(os.path.abspath(model)).parts[-2:] for model in models]
    times = Counter(part[-1].casefold() for part in parts)
    result = [p[-1] if times[p[-1].casefold()] == 1 else "-".join(p) for p in parts]
    for name in result:
        names.check_task_name(name)
    names.check_distinct(result)
    return result


def _dtype(fields: Mapping[str, Node]) -> str | None:
    """The dtype to write: `out_dtype`, or else `dtype`, which mergekit computes in."""
    found = None
    for node in (fields.get("dtype"), fields.get("out_dtype")):
        if node is not None:
            name = node.text().removeprefix("torch.")
            if name not in DTYPES:
                node.fail(f"is {name!r}; it can be {', '.join(DTYPES)}")
            found = DTYPES[name]
    return found
