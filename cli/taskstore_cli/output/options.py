"""Says in a command's options what the library says as Python does.

overwrite=True            --overwrite
tiers="exact"             --tiers exact
journal=FILE              --journal FILE
masks={'legal': FILE}     --masks legal=FILE
`alpha`, max_length       --alpha, --max-length
"""

from __future__ import annotations

import ast
import re
import shlex
from collections import ChainMap

import click

# What the library has, and no command names like it.
OTHERS = {
    "base": "--base-from",
    "evaluator": "--eval",
    "masks": "--masks",
    "parent": "--parent",
    "taskstore.locations.locks.waiting(SECONDS)": "--wait SECONDS",
}
_VALUE = r"""True\b|"[^"]*"|[A-Z]+\b|\{(?:'[^']*'|"[^"]*"): [^}]*\}"""
_OUTPUT = "; it wrote: "  # what another program said stays as it is


def flag(option: click.Parameter) -> str:
    """How an option is written in full; where it has two words, the first."""
    return next((word for word in option.opts if word.startswith("--")), option.opts[0])


def in_options(message: str) -> str:
    """Return a message with the options of the running command, or else of another."""
    context = click.get_current_context(silent=True)
    if context is None:  # no command runs
        return message
    said, wrote, output = message.partition(_OUTPUT)
    own, flags = _flags(context.find_root())
    names = "|".join(sorted(map(re.escape, flags), key=len, reverse=True))
    said = re.sub(rf"`({names})`", lambda found: flags[found[1]], said)
    said = re.sub(
        rf"(?<![\w/.'\"-])({names})=({_VALUE})",
        lambda found: f"{flags[found[1]]} {_typed(found[2])}".rstrip(),
        said,
    )
    for name in filter(lambda name: "_" in name, own):
        said = re.sub(rf"(?<![\w/.'\"]){name}(?![\w/.'\"])", own[name], said)
    return said + wrote + output


def _typed(value: str) -> str:
    """A value of Python, as one types it after the option."""
    if not value.startswith(("{", '"', "True")):
        return value
    given = ast.literal_eval(re.sub(r": ([A-Z]+)}$", r": '\1'}", value))
    if isinstance(given, dict):
        return " ".join(f"{shlex.quote(name)}={of}" for name, of in given.items())
    return "" if given is True else str(given)


def _flags(root: click.Context) -> tuple[dict[str, str], dict[str, str]]:
    """The running command's parameters -> its options; and the same of all commands."""
    commands = getattr(root.command, "commands", {})
    running = commands.get(root.invoked_subcommand, root.command)
    own, *others = (
        {
            param.name: flag(param)
            for param in command.params
            if isinstance(param, click.Option) and param.name
        }
        for command in (running, *commands.values())
    )
    return own, dict(ChainMap(OTHERS, own, *others))
