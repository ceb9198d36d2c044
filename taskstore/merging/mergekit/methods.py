"""Translate mergekit's merge methods: its parameters -> a method, options, weights, a scale.

With w = a model's weight and lambda = the recipe's scale, and tensor by tensor:

    linear            sum w theta / sum w, with the base only if it is listed
    task_arithmetic   theta_0 + lambda sum w tau                  (normalize: over sum w)
    ties              theta_0 + lambda sum of the w tau of the elected sign, of the largest
                      `density` of each tensor                    (normalize: over their sum w)
    dare_linear, dare_ties   task_arithmetic and ties of vectors of which a random `density` is kept
    model_stock       no parameters

`normalize` is true by default for linear and ties, else false. A model's own parameter counts
before the recipe's. All this was read from the documentation and the behaviour of mergekit 0.1.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from taskstore.merging.mergekit.fields import Node
from taskstore.merging.methods import MERGES

PER_MODEL = ("weight", "density")
GLOBAL = (*PER_MODEL, "normalize", "lambda", "rescale", "int8_mask", "filter_wise")
ELSEWHERE = ("t", "gamma", "epsilon", "scale", "select_topk")  # of methods that are refused
SCALED = ("weight", "density", "normalize", "lambda", "rescale")
INSTEAD: Mapping[str, str] = {  # mergekit's other methods -> the nearest one that a recipe may name
    "arcee_fusion": "ties",
    "breadcrumbs": "ties or task_arithmetic",
    "breadcrumbs_ties": "ties",
    "della": "dare_ties",
    "della_linear": "dare_linear",
    "karcher": "linear",
    "multislerp": "linear",
    "nearswap": "linear",
    "nuslerp": "linear",
    "passthrough": "",
    "ram": "ties",
    "ramplus_tl": "ties",
    "sce": "ties",
    "slerp": "linear",
}


@dataclass(frozen=True)
class RecipeModel:
    """One of a recipe's `models`; the base, if it is listed, is no fine-tune of itself."""

    node: Node
    parameters: Mapping[str, Node]
    is_base: bool


@dataclass(frozen=True)
class Settings:
    """The parameters of a recipe; `shared` are those of models that give none of their own."""

    method: Node
    shared: Mapping[str, Node]
    models: Sequence[RecipeModel]

    @property
    def tasks(self) -> list[RecipeModel]:
        return [entry for entry in self.models if not entry.is_base]

    def node(self, name: str, entry: RecipeModel) -> Node | None:
        return entry.parameters.get(name, self.shared.get(name))

    def weights(self) -> list[float]:
        return [self.weight(entry) for entry in self.tasks]

    def weight(self, entry: RecipeModel) -> float:
        node = self.node("weight", entry)
        if node is None:
            entry.node.fail(f"has no parameters.weight, and {self.method.value} needs it")
        return node.number()

    def density(self) -> float:
        """The density that all models share; 1 if none is given."""
        first: tuple[str, float] | None = None
        for entry in self.tasks:
            node = self.node("density", entry)
            value = node.number() if node else 1.0
            if node and not 0 < value <= 1:
                node.fail(f"is {value:g}; a density is above 0 and at most 1")
            where, known = first = first or ((node or entry.node).where, value)
            if value != known:
                both = f"has density {value:g} and {where} has {known:g}"
                entry.node.fail(f"{both}; all models need the same here")
        return first[1] if first else 1.0

    def flag(self, name: str, default: bool = False) -> bool:
        return self.shared[name].flag() if name in self.shared else default

    def scale(self) -> float:
        return self.shared["lambda"].number() if "lambda" in self.shared else 1.0


@dataclass(frozen=True)
class Call:
    """What a recipe asks for. `weights` are of `Settings.tasks`; `notes` name places in it."""

    method: str
    weights: Sequence[float] | None = None
    options: Mapping[str, float] = field(default_factory=dict)
    alpha: float = 1.0
    notes: Mapping[str, str] = field(default_factory=dict)


def translate(settings: Settings) -> Call:
    """The call of a recipe; raises InputError for what has no counterpart. `check_name` first."""
    if "int8_mask" in settings.shared:
        settings.shared["int8_mask"].flag()
    make, _ = _METHODS[settings.method.value]
    return make(settings)


def check_name(method: Node) -> None:
    """Raise InputError unless this is a method that can be read from a recipe."""
    name = method.text()
    if name in _METHODS:
        return
    if name in INSTEAD:
        nearest = f"; the nearest is {INSTEAD[name]}" if INSTEAD[name] else ""
        ours = f', and method="{name}" is there without a recipe' if name in MERGES else ""
        method.fail(f"is {name!r}, which is not read from recipes{nearest}{ours}")
    near = difflib.get_close_matches(name, [*_METHODS, *INSTEAD], n=1, cutoff=0.5)
    method.fail(
        f"is {name!r}, which mergekit does not have; "
        + (f"did you mean {near[0]!r}?" if near else f"read are {', '.join(_METHODS)}")
    )


def unused(settings: Settings) -> dict[str, str]:
    """Place -> why the parameter there has no effect, here or in mergekit."""
    name = settings.method.value
    (_, used), notes = _METHODS[name], {}
    for entry in settings.models:
        for node in entry.parameters.values() if entry.is_base and name != "linear" else ():
            notes[node.where] = "ignored: it is the base's, which has no task vector"
    for parameters in (settings.shared, *(entry.parameters for entry in settings.models)):
        for key, node in parameters.items():
            if key == "int8_mask":
                notes[node.where] = "ignored: it changes only how much memory mergekit takes"
            elif key not in used:
                notes.setdefault(node.where, f"ignored: {name} has no {key}")
    return notes


def _linear(settings: Settings) -> Call:
    """The base's weight, if it has one, counts in the sum that all weights are divided by."""
    weights = [settings.weight(entry) for entry in settings.models]
    total, notes = sum(weights), {}
    if not settings.flag("normalize", True):
        if abs(total - 1) > 1e-6:
            settings.shared["normalize"].fail(
                f"is false and the weights add up to {total:g}, so the result is no average; "
                "let it be true, or give weights that add up to 1"
            )
        total = 1.0
    if abs(total) < 1e-8:
        settings.method.fail("linear needs weights whose sum is not 0")
    for entry, weight in zip(settings.models, weights, strict=True):
        if entry.is_base:
            share = f"its share of the average is {weight / total:g}"
            notes[entry.node.where] = f"is the base here; {share}"
    tasks = [w for e, w in zip(settings.models, weights, strict=True) if not e.is_base]
    return Call("sum", [weight / total for weight in tasks], notes=notes)


def _task_arithmetic(settings: Settings) -> Call:
    return Call("sum", _weights(settings), alpha=settings.scale())


def _ties(settings: Settings) -> Call:
    if settings.flag("rescale"):
        settings.shared["rescale"].fail("is true, which is not supported for ties; leave it out")
    density = settings.density()
    options = {"density": density, "per_tensor": 1.0, "mean": _mean(settings, default=True)}
    return Call("ties", settings.weights(), options, settings.scale())


def _dare_linear(settings: Settings) -> Call:
    return _dared(Call("dare", _weights(settings)), settings)


def _dare_ties(settings: Settings) -> Call:
    options = {"density": 1.0, "mean": _mean(settings, default=False)}
    return _dared(Call("dare+ties", settings.weights(), options), settings)


def _dared(call: Call, settings: Settings) -> Call:
    density = settings.density()
    # DARE divides what it keeps by the density; all methods under it are linear in their scale
    alpha = settings.scale() * (1 if settings.flag("rescale", True) else density)
    note = (
        "the random choice is another than mergekit's, and what is kept is divided by the density "
        "where mergekit scales each tensor to the L1 norm that it had"
    )
    options = {**call.options, "p": round(1 - density, 12)}
    return replace(call, options=options, alpha=alpha, notes={settings.method.where: note})


def _model_stock(settings: Settings) -> Call:
    if settings.flag("filter_wise"):
        settings.shared["filter_wise"].fail("is true; only whole tensors are supported here")
    return Call("model_stock")


def _weights(settings: Settings) -> list[float]:
    """The tasks' weights, divided by their sum if `normalize` is true."""
    weights = settings.weights()
    total = sum(weights) if settings.flag("normalize") else 1.0
    return [weight / total for weight in weights] if abs(total) >= 1e-8 else weights


def _mean(settings: Settings, default: bool) -> float:
    """Whether ties takes the mean: 1 if `normalize` is true, else 0."""
    mean = settings.flag("normalize", default)
    for entry in settings.tasks if mean else ():
        if settings.weight(entry) < 0:
            entry.node.fail(
                "has a weight below 0, which mergekit's normalized mean subtracts from its "
                "divisor and ours does not; set parameters.normalize to false"
            )
    return float(mean)


# mergekit's method -> what it is here, and the parameters that it uses
_METHODS: Mapping[str, tuple[Callable[[Settings], Call], tuple[str, ...]]] = {
    "linear": (_linear, ("weight", "normalize")),
    "task_arithmetic": (_task_arithmetic, ("weight", "normalize", "lambda")),
    "ties": (_ties, SCALED),
    "dare_linear": (_dare_linear, SCALED),
    "dare_ties": (_dare_ties, SCALED),
    "model_stock": (_model_stock, ("filter_wise",)),
}
