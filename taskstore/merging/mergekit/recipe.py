"""Read mergekit's YAML, for the methods that both have: a file -> the arguments of `merge`.

What cannot be done is refused with its name and place. What has no effect becomes a note. Nothing
is skipped without one. `mergekit.methods` and docs/mergekit.md say how the methods compare.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from taskstore.format import names
from taskstore.locations.publish import recover
from taskstore.merging.mergekit.fields import Node, load
from taskstore.merging.mergekit.methods import (
    ELSEWHERE,
    GLOBAL,
    PER_MODEL,
    RecipeModel,
    Settings,
    check_name,
    translate,
    unused,
)
from taskstore.merging.options import MergeOptions

KEYS = (
    *("merge_method", "base_model", "models", "slices", "modules", "parameters"),
    *("dtype", "out_dtype", "tokenizer_source", "tokenizer", "chat_template"),
)
REFUSED = {
    "slices": "puts layers of models together, which is not supported; merge whole `models`",
    "modules": "merges parts of a model apart, which is not supported; merge whole `models`",
    "chat_template": "is not supported; the merged model has that of its tokenizer's model",
}
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True)
class Recipe:
    """The arguments of `merge`; `notes` are place in the file -> what became of it."""

    base: str
    models: Mapping[str, str]
    options: MergeOptions
    notes: Mapping[str, str]


def read(path: Path) -> Recipe:
    """The recipe of a file; raises InputError with the place of what cannot be read or done."""
    document = load(path)
    fields = document.members(KEYS)
    for key, problem in REFUSED.items():
        if key in fields:
            fields[key].fail(problem)
    for key in ("merge_method", "models"):
        if key not in fields:
            document.fail(f"has no {key}")
    check_name(fields["merge_method"])
    listed = _listed(fields["models"])
    base = _base(fields, listed)
    entries = [RecipeModel(node, given, _same(model, base)) for node, model, given in listed]
    settings = Settings(fields["merge_method"], _parameters(fields), entries)
    found = [model for _, model, _ in listed if not _same(model, base)]
    if not found:
        fields["models"].fail("names no model beside the base")
    call = translate(settings)
    models = dict(zip(_names(found), found, strict=True))
    options = MergeOptions(
        method=call.method,
        method_options=call.options,
        alpha=call.alpha,
        weights=dict(zip(models, call.weights, strict=True)) if call.weights else {},
        dtype=_dtype(fields),
        tokenizer_from=_tokenizer(fields, base, models),
    )
    return Recipe(base, models, options, {**unused(settings), **call.notes})


def _parameters(fields: Mapping[str, Node]) -> dict[str, Node]:
    """The parameters of a recipe or of one of its models."""
    known = (*GLOBAL, *ELSEWHERE)
    return fields["parameters"].members(known) if "parameters" in fields else {}


def _listed(models: Node) -> list[tuple[Node, str, dict[str, Node]]]:
    """(its node, its path, its parameters) of each model."""
    result: list[tuple[Node, str, dict[str, Node]]] = []
    for node in models.items():
        fields = node.members(("model", "parameters"))
        if "model" not in fields:
            node.fail("names no model")
        given = _parameters(fields)
        for name in set(given) & set(GLOBAL) - set(PER_MODEL):
            given[name].fail("is no parameter of one model; it belongs into the recipe's own")
        model = _model(fields["model"])
        for other, known, _ in result:
            if _same(model, known):
                node.fail(f"is the same model as {other.where}; give it one weight")
        result.append((node, model, given))
    return result


def _base(fields: Mapping[str, Node], listed: Sequence[tuple[Node, str, dict[str, Node]]]) -> str:
    """The base; `linear` may name none, and takes the first model: an average needs no base."""
    method = fields["merge_method"]
    if "base_model" not in fields:
        if method.value != "linear":
            method.fail(f"{method.value} needs a base_model")
        if not listed:
            fields["models"].fail("names no model")
        return listed[0][1]
    base = _model(fields["base_model"])
    if method.value == "linear" and not any(_same(model, base) for _, model, _ in listed):
        fields["base_model"].fail(
            "is none of the models; linear averages it too, so list it with a weight, or leave it "
            "out"
        )
    return base


def _model(node: Node, depth: int = 2) -> str:
    """A model's path or hub id, which mergekit may write in full as {model: {path: ...}}."""
    if isinstance(node.value, dict) and depth:
        fields = node.members(("model", "lora", "path", "revision", "override_architecture"))
        for key in ("lora", "revision", "override_architecture"):
            if key in fields:
                fields[key].fail("is not supported; name a folder")
        inner = fields.get("model", fields.get("path"))
        if inner is None:
            node.fail("names no model")
        return _model(inner, depth - 1)
    text = node.text()
    if names.has_control(text):
        node.fail(f"is {text[:80]!a}, which is no path")
    places = (Path(os.path.expanduser(text)), node.file.parent / text)  # mergekit's is the first
    for place in places:
        with suppress(OSError):  # a name that no file can have
            recover(place)
        if os.path.exists(place):
            return str(place)
    if "+" in text:
        node.fail(
            f"is {text!r}, an adapter on a model; name the adapter's folder alone, it is then one "
            "of base_model"
        )
    return text


def _same(model: str, other: str) -> bool:
    return model == other or os.path.realpath(model) == os.path.realpath(other)


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


def _tokenizer(fields: Mapping[str, Node], base: str, models: Mapping[str, str]) -> str | None:
    """The name of the model whose tokenizer is taken; None: the base's."""
    source = fields.get("tokenizer_source")
    if "tokenizer" in fields:
        if source is not None:
            source.fail("stands beside tokenizer; give one of them")
        node = fields["tokenizer"]
        members = node.members(("source", "tokens", "pad_to_multiple_of"))
        for key in ("tokens", "pad_to_multiple_of"):
            if key in members:
                members[key].fail("is not supported; the vocabulary stays that of one model")
        source = members.get("source", node.child("source", "union"))
    if source is None or source.value == "base":
        return None
    if source.value == "union":
        source.fail("is 'union', which is not supported; take 'base' or one of the models")
    wanted = _model(source)
    for name, model in models.items():
        if _same(model, wanted):
            return name
    if not _same(wanted, base):
        source.fail(f"is {wanted!r}, which is none of the models")
    return None
