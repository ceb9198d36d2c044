"""Translate mergekit's merge methods: its parameters -> a method, options, weights, a scale.

With w = a model's weight and lambda = the recipe's scale, and tensor by tensor:

    linear            sum w theta / sum w, with the base only if it is listed
    task_arithmetic   theta_0 + lambda sum w tau                  (normalize: over sum w)
    ties              theta_0 + lambda sum of the w tau of the elected sign, of the largest
                      `density` of each tensor                    (normalize: over their sum w)
    dare_linear, dare_ties   task_arithmetic and ties of vectors of which a random `density` is kept
    breadcrumbs, della   the same two of vectors trimmed so (`_linear`, `_ties`)
    model_stock, sce, ram, arcee_fusion, nearswap, slerp, nuslerp, multislerp, karcher, passthrough
                         the methods of these names

`normalize` is true by default for linear, ties and della, else false. A model's own parameter
counts before its slice's, and that before the recipe's. All this was read from the documentation
and the behaviour of mergekit 0.1.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from taskstore.merging.mergekit.fields import Node
from taskstore.merging.mergekit.settings import Call, Settings

PER_MODEL = ("weight", "density", "gamma", "epsilon", "scale")
GLOBAL = (
    *(*PER_MODEL, "normalize", "lambda", "rescale", "int8_mask", "filter_wise", "t"),
    *("select_topk", "nuslerp_flatten", "nuslerp_row_wise", "normalize_weights", "eps"),
    *("max_iter", "tol", "r", "alpha"),
)
SCALED = ("weight", "density", "normalize", "lambda", "rescale")
MEMORY = {"int8_mask": "it changes only how much memory mergekit takes",
          "eps": "nothing here is divided by zero"}  # fmt: skip
BASELESS = ("linear", "nuslerp", "multislerp", "karcher", "passthrough")


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
    near = difflib.get_close_matches(name, _METHODS, n=1, cutoff=0.5)
    method.fail(
        f"is {name!r}, which mergekit does not have; "
        + (f"did you mean {near[0]!r}?" if near else f"read are {', '.join(_METHODS)}")
    )


def unused(settings: Settings) -> dict[str, str]:
    """Place -> why the parameter there has no effect, here or in mergekit."""
    name = settings.method.value
    (_, used), notes = _METHODS[name], {}
    for entry in settings.models:
        base = entry.is_base and settings.has_base and name != "linear"
        for node in entry.parameters.values() if base else ():
            notes[node.where] = "ignored: it is the base's, which has no task vector"
    for parameters in (settings.shared, *(entry.parameters for entry in settings.models)):
        for key, node in parameters.items():
            if key in MEMORY:
                notes[node.where] = f"ignored: {MEMORY[key]}"
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
    options = {"per_tensor": 1.0, "mean": _mean(settings, default=True)}
    options |= {"rescale": 1.0} if settings.flag("rescale") else {}
    call = Call("ties", settings.weights(), options, settings.scale())
    return _with(call, density=settings.values("density", 1))


def _dare_linear(settings: Settings) -> Call:
    return _dared(Call("dare", _weights(settings)), settings)


def _dare_ties(settings: Settings) -> Call:
    return _dared(_elected("dare+ties", settings), settings)


def _elected(method: str, settings: Settings, *, mean: bool = False) -> Call:
    options = {"density": 1.0, "mean": _mean(settings, default=mean)}
    return Call(method, settings.weights(), options)


def _dared(call: Call, settings: Settings) -> Call:
    densities = settings.values("density", 1)
    alpha = settings.scale()
    if not settings.flag("rescale", True):
        # DARE divides what it keeps by the density; all methods under it are linear in their scale
        if len(set(densities)) > 1:
            settings.shared["rescale"].fail("is false, and all models need one density then")
        alpha *= densities[0]
    note = (
        "the random choice is another than mergekit's, and what is kept is divided by the density "
        "where mergekit scales each tensor to the L1 norm that it had"
    )
    call = replace(call, alpha=alpha, notes={settings.method.where: note})
    return _with(call, p=[round(1 - density, 12) for density in densities])


def _breadcrumbs(settings: Settings) -> Call:
    return _crumbs(Call("breadcrumbs", _weights(settings)), settings)


def _breadcrumbs_ties(settings: Settings) -> Call:
    return _crumbs(_elected("breadcrumbs+ties", settings), settings)


def _crumbs(call: Call, settings: Settings) -> Call:
    more = {"restore": 1.0} if settings.flag("rescale") else {}
    call = replace(call, alpha=settings.scale(), options={**call.options, **more})
    return _with(call, keep=settings.values("density", 1), gamma=settings.values("gamma", 0.01))


def _della_linear(settings: Settings) -> Call:
    return _sampled(Call("della", _weights(settings)), settings)


def _della(settings: Settings) -> Call:
    return _sampled(_elected("della+ties", settings, mean=True), settings)


def _sampled(call: Call, settings: Settings) -> Call:
    rescale = settings.flag("rescale", True)
    note = "the random choice is another than mergekit's"
    if rescale:
        note += (
            ", and what is kept is divided by its probability where mergekit scales each tensor to "
            "the L1 norm that it had"
        )
    options = call.options if rescale else {**call.options, "divide": 0.0}
    notes = {settings.method.where: note}
    call = replace(call, alpha=settings.scale(), options=options, notes=notes)
    epsilon = settings.values("epsilon", 0.15)
    return _with(call, keep=settings.values("density", 1), epsilon=epsilon)


def _with(call: Call, **given: Sequence[float]) -> Call:
    """With options that each model has of its own, or all of them have in common."""
    options = {**call.options, **{name: values[0] for name, values in given.items() if values}}
    varied = {name: values for name, values in given.items() if len(set(values)) > 1}
    return replace(call, options=options, varied=varied)


def _sce(settings: Settings) -> Call:
    return Call("sce", options={"topk": settings.number("select_topk", 1)})


def _slerp(settings: Settings) -> Call:
    settings.one()
    return Call("slerp", options={"t": settings.number("t")})


def _nearswap(settings: Settings) -> Call:
    settings.one()
    return Call("nearswap", options={"t": settings.number("t")})


def _arcee_fusion(settings: Settings) -> Call:
    settings.one()
    return Call("arcee_fusion")


def _nuslerp(settings: Settings) -> Call:
    if len(settings.points) != 2:
        settings.method.fail(f"nuslerp takes two models, and {len(settings.points)} are listed")
    rows = settings.flag("nuslerp_row_wise")
    by = 0.0 if settings.flag("nuslerp_flatten", True) else 2.0 if rows else 1.0
    first, second = (settings.weight(entry) for entry in settings.points)
    if settings.has_base:
        return Call("nuslerp", [first, second], {"by": by})
    if abs(first + second) < 1e-12:
        settings.method.fail("nuslerp needs weights whose sum is not 0")
    options = {"t": second / (first + second), "straight": 1 - 1e-8, **({"by": by} if by else {})}
    return Call("slerp", options=options)


def _multislerp(settings: Settings) -> Call:
    options = {"normalize": float(settings.flag("normalize_weights", True))}
    if settings.has_base:
        return Call("multislerp", settings.weights(), options)
    first = settings.points[0]
    options["base_weight"] = settings.weight(first)
    if options["base_weight"] <= 0:
        first.node.fail("is the first model, which needs a weight above 0 without a base_model")
    return Call("multislerp", settings.weights(), options)


def _karcher(settings: Settings) -> Call:
    if settings.has_base:
        settings.method.fail("karcher has no base_model; leave it out and list the model")
    steps, tol = settings.number("max_iter", 10), settings.number("tol", 1e-5)
    return Call("karcher", options={"steps": steps, "tol": tol, "base_weight": 1.0})


def _passthrough(settings: Settings) -> Call:
    (entry,) = settings.models
    node = settings.node("scale", entry)
    return Call("passthrough", options={"scale": node.number() if node else 1.0})


def _model_stock(settings: Settings) -> Call:
    return Call("model_stock", options={"by_row": 1.0} if settings.flag("filter_wise") else {})


def _ram(settings: Settings) -> Call:
    return Call("ram", options={"epsilon": settings.number("epsilon", 1e-5)})


def _ram_plus(settings: Settings) -> Call:
    """Counts are of each tensor, as mergekit's name for it says."""
    more = {"r": settings.number("r", 0.1), "bound": settings.number("alpha", 0.2)}
    return Call("ram", options={**_ram(settings).options, **more, "per_tensor": 1.0})


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
    "breadcrumbs": (_breadcrumbs, (*SCALED, "gamma")),
    "breadcrumbs_ties": (_breadcrumbs_ties, (*SCALED, "gamma")),
    "della": (_della, (*SCALED, "epsilon")),
    "della_linear": (_della_linear, (*SCALED, "epsilon")),
    "model_stock": (_model_stock, ("filter_wise",)),
    "sce": (_sce, ("select_topk",)),
    "ram": (_ram, ("epsilon",)),
    "ramplus_tl": (_ram_plus, ("epsilon", "r", "alpha")),
    "slerp": (_slerp, ("t",)),
    "nuslerp": (_nuslerp, ("weight", "nuslerp_flatten", "nuslerp_row_wise")),
    "multislerp": (_multislerp, ("weight", "normalize_weights")),
    "karcher": (_karcher, ("max_iter", "tol")),
    "nearswap": (_nearswap, ("t",)),
    "arcee_fusion": (_arcee_fusion, ()),
    "passthrough": (_passthrough, ("scale",)),
}
