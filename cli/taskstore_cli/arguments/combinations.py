"""Refuses options that would do nothing beside the others, before a command runs.

What the tiers of a store, or the kinds of statistics, use is known to the library.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource

from taskstore_cli.arguments.command import SOURCE
from taskstore_cli.output.options import flag

EVALUATOR = ("key", "timeout", "journal", "scratch")
EVAL, COUNTED = ("template",), ("overlap", "vectors")
ASKED: Mapping[str, Sequence[str]] = {"yes": ("overwrite",)}
TAKEN_UP = {"resume": ["cluster"]}
LM_EVAL = ("include_path", "limit", "num_fewshot", "batch", "apply_chat_template", "device")
# Command -> option -> the options of which it needs one.
NEEDS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "pack": {
        **dict.fromkeys(EVALUATOR, EVAL),
        "anyway": ["share"],
        **TAKEN_UP,
        **ASKED,
    },
    "tune": ASKED,
    "copy": ASKED,
    "add": TAKEN_UP,
    "replace": TAKEN_UP,
    "merge": {
        **TAKEN_UP,
        **dict.fromkeys((*EVALUATOR, "limit", "minimise", "plot", "search"), EVAL),
    },
    "eval": {
        **TAKEN_UP,
        **dict.fromkeys(("timeout", "scratch"), EVAL),
        **dict.fromkeys(LM_EVAL, ("lm_eval",)),
    },
    "retier": {**TAKEN_UP, "overwrite": ["target"], **ASKED},
    "unpack": {**TAKEN_UP, "cluster": ["every"]},
    "load": {"repeat": ["timed"]},
    "route": {"interval": ["watch"]},
    "info": dict.fromkeys(("jobs", "base_from"), COUNTED),
    "verify": {**TAKEN_UP, "base_from": ["deep"]},
}
# Command -> option -> the options beside which it does nothing.
WITHOUT: Mapping[str, Mapping[str, Sequence[str]]] = {
    "pack": {
        "residuals": ["share"],
        "max_error": ["tiers"],
        "part": ["share", "cluster"],
        "cluster": ["share"],
    },
    "eval": {"cluster": ["lm_eval"]},
    "merge": {"cluster": ["template"]},
    "retier": {"drop_exact": ["target"]},
    "load": {"tier": ["base"]},
    "route": {
        **dict.fromkeys(("tasks_from", "bind", "buffer", "overwrite"), ("watch", "drain", "ready")),
        "watch": ["drain", "ready"],
        "drain": ["ready"],
    },
    "unpack": {"tier": ["base"], "exact": ["base"]},
    "serve": {"as_json": ["print_command"], "log_format": ["print_command"]},
}
# Options as the library calls them.
WORDS = {"lambdas": "lambda", "extra": "option", "density": "option", "mask_files": "masks"}


def checked(command: click.Command) -> click.Command:
    """Make a command refuse what does not go together; its status is 2."""
    inner = command.callback
    assert inner is not None

    @functools.wraps(inner)
    def run(**given: Any) -> Any:
        context = click.get_current_context()
        dropped = _drop_from_file(context)
        check(context)
        return inner(**given | dropped)

    command.callback = run
    return command


def check(context: click.Context) -> None:
    """Raise UsageError or OptionError for an option that was given and does nothing."""
    name, given = context.command.name or "", _given(context)
    flags = {p.name: flag(p) for p in context.command.params if p.name}
    for option, needed in NEEDS.get(name, {}).items():
        if option in given and not given & set(needed):
            words = " or ".join(flags[other] for other in needed)
            raise click.UsageError(
                f"{flags[option]} does nothing without {words}: add it, or leave "
                f"{flags[option]} out"
            )
    for option, others in WITHOUT.get(name, {}).items():
        if option in given and (found := given & set(others)):
            raise click.UsageError(
                f"{flags[option]} does nothing with {flags[found.pop()]}: leave one of them out"
            )
    _check_library(context)


def _drop_from_file(context: click.Context) -> dict[str, Any]:
    """Leave out what a file of defaults says of `pack` and does not go with what is typed."""
    params = context.params
    if context.command.name != "pack":
        return {}
    from taskstore.packing.options import USED_BY

    typed, filed = _given(context), _given(context, ParameterSource.DEFAULT_MAP)
    asked, tiers = {WORDS.get(option, option) for option in typed}, str(params["tiers"] or "")
    dropped: dict[str, Any] = {}
    if "tiers" in filed:
        lacking = [o for o in asked & USED_BY.keys() if not _uses(o, tiers)]
        if lacking or ("share" in typed and "mask" in tiers):
            dropped["tiers"] = params["tiers"] = None
    elif typed & {"tiers", "share", "max_error"}:
        tiers, _ = tiers_of(context)
        for param in context.command.params:
            word = WORDS.get(str(param.name), str(param.name))
            if param.name in filed and word in USED_BY and not _uses(word, tiers):
                default = () if param.multiple else param.default
                dropped[param.name] = params[param.name] = default
    if dropped and not (params.get("quiet") or params.get("as_json")):
        names = [flag(p) for p in context.command.params if p.name in dropped]
        source = context.find_root().meta.get(SOURCE)
        click.echo(f"left out of {source}, beside what is typed: {', '.join(names)}", err=True)
    return dropped


def _uses(option: str, tiers: str) -> bool:
    from taskstore.errors import OptionError
    from taskstore.packing.options import check_used

    try:
        check_used([option], tiers.split(","))
    except OptionError:
        return False
    return True


def _check_library(context: click.Context) -> None:
    """What PackOptions and MeasureOptions refuse, also where a default was typed."""
    params, given = (
        context.params,
        [WORDS.get(option, option) for option in sorted(_given(context))],
    )
    if "tiers" in params and "repack" not in params:  # what joins a store has its tiers
        from taskstore.packing.options import check_used

        if params["tiers"] == "":
            raise click.UsageError("--tiers names no tier; leave it out, or name some")
        tiers, _ = tiers_of(context)
        if params.get("share") is not None and "mask" in (params["tiers"] or ""):
            raise click.UsageError("--target chooses the bits of the tier rest: leave mask out")
        check_used(given, [*tiers.split(","), *(["rest"] if params.get("residuals") else [])])
    elif "statistics" in params and "labels" in params:
        from taskstore.statistics.options import check_used as check_kinds

        check_kinds(given, params["statistics"].split(","))


def tiers_of(context: click.Context) -> tuple[str, list[str]]:
    """Return the tiers that `pack` or `retier` was asked for, and why, where a line says it."""
    from taskstore.packing.options import USED_BY, usual_tiers

    params = context.params
    set_ = _given(context, ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
    if params.get("share") is not None:
        return ("rest,exact" if "exact" in (params["tiers"] or "") else "rest"), []
    if params.get("max_error") is not None:
        return f"auto:{params['max_error']}", []
    names = {WORDS.get(option, option) for option in set_ - {"residuals"}}
    if any("=" not in word for word in params["residuals"]):
        names.add("residual")
    tiers = params["tiers"] or usual_tiers(names)
    if params["tiers"] or tiers != "mask":
        return tiers, []
    ours = [name for name in sorted(names) if USED_BY.get(name) == ("mask",)]
    return tiers, [f"tiers mask, which --{ours[0]} is for; --tiers auto chooses by measure"]


def _given(context: click.Context, *sources: ParameterSource) -> set[str]:
    """Options that were typed, or come from `sources`."""
    wanted = sources or (ParameterSource.COMMANDLINE,)
    names = [p.name for p in context.command.params if p.name]  # also those of no value
    return {name for name in names if context.get_parameter_source(name) in wanted}
