"""What an exact task is coded against: `--parent` and `--depth`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from taskstore.errors import OptionError


def parent_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add both options to a command."""
    depth = click.option(
        "--depth",
        type=int,
        default=8,
        show_default=True,
        metavar="N",
        help="Tasks in a chain of parents, at most. Longer chains take fewer bytes, and longer to "
        "load.",
    )
    parent = click.option(
        "--parent",
        "parents",
        multiple=True,
        metavar="NAME=OTHER|auto|none",
        help="Code the exact tier of a task against another task, not the base; repeatable. auto: "
        "against what takes the fewest bytes, the base included. none: all against the base.  "
        "[default: auto]",
    )
    return parent(depth(command))


def parents_of(words: tuple[str, ...]) -> tuple[Any, dict[str, str]]:
    """NAME=OTHER, auto or none -> the word, and task -> its parent; raises OptionError."""
    every, parents = list[str](), dict[str, str]()
    for word in words:
        name, equals, parent = word.partition("=")
        if not equals:
            every.append(word)
        elif name in parents or not (name and parent):
            raise OptionError(f"--parent {word!r} is given twice, or names no task and its parent")
        else:
            parents[name] = parent
    if len(every) > 1 or not {*every} <= {"auto", "none"}:
        raise OptionError(f"--parent {every[-1]!r} is neither NAME=OTHER, nor auto, nor none")
    return (every or ["auto"])[0], parents
