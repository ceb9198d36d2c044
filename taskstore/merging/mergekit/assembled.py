"""Carry out a recipe whose slices, gradients or filters need each tensor's own numbers."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from taskstore.errors import InputError
from taskstore.merging.driver import check_target, merge_family
from taskstore.merging.mergekit.by_tensor import ByTensor
from taskstore.merging.mergekit.layers import PartsReader, Place, places
from taskstore.merging.mergekit.methods import translate
from taskstore.merging.mergekit.recipe import Recipe
from taskstore.merging.options import MergeOptions
from taskstore.merging.report import MergeReport
from taskstore.merging.scratch import KeptVector
from taskstore.merging.search.origins import Origin
from taskstore.merging.task_vectors import Source
from taskstore.models.checkpoint import Checkpoint
from taskstore.models.config import CONFIG, read_config, write_settings
from taskstore.models.family import Family, open_finetune
from taskstore.models.open import open_checkpoint
from taskstore.progress import Callback, silent

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


class Assembled(Origin):
    """The models of a recipe, tensor by tensor."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.names, self.inputs = sorted(recipe.models), [recipe.base, *recipe.models.values()]

    def _merger(self, names: Sequence[str]) -> Callable[..., MergeReport]:
        return partial(merge_recipe, self._recipe)

    @contextmanager
    def opened(self, target: Path, options: MergeOptions) -> Iterator[Family]:
        with _opened(self._recipe) as (own, _), (self._recipe.view or nullcontext)(own) as family:
            yield family

    def key(self, names: Sequence[str]) -> str:
        raise InputError(
            "a recipe with slices, gradients or filters is merged once, not searched; leave the "
            "evaluator out"
        )


@dataclass(frozen=True)
class _Options(MergeOptions):
    """Each slice was checked by itself: two slices may take one model each."""

    def check_tasks(self, tasks: Any, base: str = "base") -> None:
        pass


def merge_recipe(
    recipe: Recipe,
    target: Path,
    options: MergeOptions,
    progress: Callback = silent,
    section: str = "",
    kept: KeptVector | None = None,
) -> MergeReport:
    """Write the model of a recipe to `target`, as `merge` does."""
    check_target(target, options, [recipe.base, *recipe.models.values()])
    chosen = _Options(**{name: getattr(options, name) for name in options.__dataclass_fields__})
    with _opened(recipe) as (own, found), (recipe.view or nullcontext)(own) as family:
        rows = {task.name: t for t, task in enumerate(family.tasks)}
        names = {path: name for name, path in recipe.models.items()}
        calls, owners = {}, {}
        for name, place in found.items():
            listed = [rows[names[source.path]] for source in place.part.tasks]
            owners[name] = listed or ([0] if recipe.options.method == "passthrough" else [])
            if owners[name]:
                calls[name] = translate(place.part.settings.at(name, place.depth))
        method = ByTensor(calls, owners, len(family.tasks))
        source = Source(family, method, chosen.chunk)
        notes = dict(recipe.notes)
        if not method.options and recipe.options.method_options:
            notes["parameters"] = "differ by tensor, as the recipe says"
        return merge_family(
            family, target, chosen, progress, source, notes=notes, section=section, kept=kept
        )


@contextmanager
def _opened(
    recipe: Recipe, where: Mapping[str, str] | None = None
) -> Iterator[tuple[Family, Mapping[str, Place]]]:
    """The result's base and tasks, whose tensors are the models' under the result's names.

    `where`: what another process opens the models of the recipe by; None: their paths.
    """
    where = where or {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="taskstore-")))
        base = open_checkpoint(where.get(recipe.base, recipe.base))
        stack.callback(base.close)
        opened = {recipe.base: base}
        paths = {s.path for p in recipe.slices for s in (p.base, *p.tasks)}
        for path in sorted(paths - {recipe.base}):
            opened[path] = open_finetune(base, where.get(path, path), Path(path).name)
            stack.callback(opened[path].close)
        found = places(base, recipe.slices)
        of_base = {n: (opened[p.part.base.path], p.names[p.part.base.path])
                   for n, p in found.items()}  # fmt: skip
        own = _view(base, of_base, found, scratch / "config.json", recipe)
        tasks: list[Checkpoint] = []
        for name, path in sorted(recipe.models.items()):
            parts = {
                n: (opened[path], p.names[path])
                for n, p in found.items()
                if any(source.path == path for source in p.part.tasks)
            }
            if recipe.options.method == "passthrough":
                parts = of_base
            model = replace(opened[path], name=name)
            tasks.append(_view(model, parts, found, scratch / f"{len(tasks)}.json", recipe))
        cut = recipe.slices[0].cut
        # a layer that stands twice is not tied: each has numbers of its own
        known = {path: model.where for path, model in opened.items()}
        again = _again, (recipe, known)
        yield Family(own, tuple(tasks), {} if cut else None, parts=cut, again=again), found


def _again(recipe: Recipe, where: Mapping[str, str]) -> Family:
    """The same in another process, which keeps it open while it has it."""
    stack = ExitStack()
    family, _ = stack.enter_context(_opened(recipe, where))
    weakref.finalize(family, stack.close)
    return family


def _view(
    model: Checkpoint,
    parts: Mapping[str, tuple[Checkpoint, str]],
    found: Mapping[str, Place],
    config: Path,
    recipe: Recipe,
) -> Checkpoint:
    """A model of these tensors, whose config has the result's number of layers."""
    for name, (owner, own) in parts.items():
        if own not in owner.tensors:
            place = found[name].part
            source = next(
                s for s in (place.base, *place.tasks) if own in found[name].names.values()
            )
            source.node.fail(f"takes {own!r}, which {owner.name} has not")
    assets = dict(model.assets)
    if recipe.slices[0].cut and CONFIG in assets:
        write_settings(config, _with_layers(read_config(model), recipe))
        assets[CONFIG] = config
    return replace(model, reader=PartsReader(parts), assets=assets, originals=None, names={})


def _with_layers(settings: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Of as many layers as the slices have; lists of one entry per layer go with them."""
    text = settings.get("text_config")
    if isinstance(text, dict):
        return {**settings, "text_config": _with_layers(text, recipe)}
    taken = [i for part in recipe.slices for i in range(part.base.start, part.base.stop)]
    changed: dict[str, Any] = json.loads(json.dumps(settings))
    for key in LAYERS:
        if isinstance(settings.get(key), int):
            before, changed[key] = settings[key], len(taken)
            for name, value in settings.items():
                if "layer" in name and isinstance(value, list) and len(value) == before:
                    changed[name] = [value[i] for i in taken if i < before]
    return changed
