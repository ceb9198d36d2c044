"""Reads a family, and how it is packed, from a command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskstore.errors import OptionError
from taskstore.executors import default_jobs
from taskstore.locations.hub import name_of
from taskstore_cli.arguments.command import Option
from taskstore_cli.arguments.method import parse_options, parse_statistics
from taskstore_cli.arguments.sizes import parse_bytes

if TYPE_CHECKING:
    from taskstore.packing.options import PackOptions


def rest_bits_option(help: str) -> Callable[..., Any]:
    return click.option(
        "--rest-bits",
        "residuals",
        cls=Option,
        also=["--residual"],
        multiple=True,
        metavar="[NAME=]BITS",
        help=help,
    )


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


def named(finetunes: tuple[str, ...]) -> dict[str, str]:
    """NAME=MODEL or MODEL -> name -> model; raises OptionError where two have one name."""
    tasks: dict[str, str] = {}
    for word in finetunes:
        name, equals, model = word.partition("=")
        is_path = "/" in name or os.path.exists(word)
        is_named = equals and (os.path.exists(model) or not is_path)
        if not is_named or name.startswith(("./", "../", "/", "~")):
            name, model = name_of(word), word
        if not model:
            raise OptionError(f"{word!r} names no model; give NAME=MODEL")
        if name in tasks:
            raise OptionError(f"task name {name!r} is given twice; name one as NAME=MODEL")
        tasks[name] = model
    return tasks


def masks_of(words: tuple[str, ...], tasks: Mapping[str, str]) -> dict[str, Path]:
    """[NAME=]FILE -> task -> file; raises OptionError where two are given for one task."""
    files: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        whole = not equals or "/" in name or (Path(word).exists() and not Path(path).exists())
        for task in tasks if whole else (name,):
            if task in files:
                raise OptionError(f"task name {task!r} has two --masks; give one for each")
            files[task] = Path(word if whole else path)
    return files


def make_options(
    tasks: Mapping[str, str] | None = None,
    *,
    lambdas: tuple[str, ...] = (),
    residuals: tuple[str, ...] = (),
    mask_files: tuple[str, ...] = (),
    extra: tuple[str, ...] = (),
    parents: tuple[str, ...] = (),
    statistics: tuple[str, ...] = (),
    base_mode: str = "embed",
    jobs: int | None = None,
    max_memory: str = "2GiB",
    **others: Any,
) -> PackOptions:
    """Read the options of `pack` as the command declares them.

    Raises OptionError for values that make no sense.
    """
    from taskstore.packing.options import PackOptions, auto_lambda

    by_name, bits = (
        by_task("--lambda", lambdas, auto_lambda(others["method"])),
        by_task("--rest-bits", residuals),
    )
    word, parent_of = parents_of(parents)
    return PackOptions(
        parent=word,
        parents=parent_of,
        lam=by_name.pop("", None),
        lambdas=by_name,
        residual=bits.pop("", None),
        residuals=bits,
        masks=masks_of(mask_files, tasks or {}),
        merge_options=parse_options(extra),
        statistics=parse_statistics(statistics),
        base=base_mode,  # type: ignore[arg-type]
        jobs=jobs or default_jobs(),
        max_memory=parse_bytes(max_memory),
        **others,
    )


def by_task(option: str, words: tuple[str, ...], auto: float | None = None) -> dict[str, float]:
    """[NAME=]NUMBER -> name, "" for all tasks -> number; raises OptionError."""

    values: dict[str, float] = {}
    for word in words:
        name, _, number = word.rpartition("=")
        if name in values:
            raise OptionError(f"{option} of {name or 'all tasks'} is given twice")
        try:
            values[name] = auto if number == "auto" and auto is not None else float(number)
        except ValueError:
            kinds = "a number" if auto is None else "a number, auto"
            raise OptionError(f"{option} {word!r} is not {kinds} or NAME=either") from None
    return values
