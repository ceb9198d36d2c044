"""Defaults of a family: taskstore.toml, or [tool.taskstore] of pyproject.toml, in this folder.

    base = "llama"                  what `pack` and `tune` take as BASE
    output = "family"               the store that they write, and that other commands read
    tiers = ["mask", "exact"]       any option of `pack` that says how a family is kept or merged

    [tasks]                         the fine-tunes
    billing = "runs/17/final"

    [evaluators]                    commands that score, by name; the first is used
    val = "python eval.py {model} {task} --split val"

    [serve]                         options of one command alone
    port = 8001

What is typed goes before it. Only the folder in which a command runs is looked into, so that no
file of a folder above brings in a command of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from taskstore.errors import FileError, OptionError
from taskstore_cli.output.options import flag

NAMES = ("taskstore.toml", "pyproject.toml")
MAX_BYTES = 1 << 20
MAX_DEFAULTS = 10_000  # tasks, evaluators and options, all together
META = "taskstore_cli.defaults"

FAMILY = ("base", "output", "tasks", "evaluators", "eval")
PACKS = ("pack", "tune")
SCORES = ("tune", "eval")
# Options that may stand at the top: how a family is packed, and how commands run.
PACKING = (
    *("tiers", "lambda", "rest-bits", "masks", "level", "base-mode", "keep-private"),
    *("method", "density", "option", "statistics"),
)
RUNNING = ("jobs", "max-memory", "device", "wait")
NEVER = ("yes", "dry-run")  # a file cannot agree to what a person is asked


@dataclass(frozen=True)
class Defaults:
    """What a file says, by command and parameter, as click takes it."""

    source: str = ""
    by_command: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    evaluators: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read(folder: Path, commands: Mapping[str, click.Command]) -> Defaults:
    """Read the file of a folder, where there is one.

    Raises FileError for one that is no TOML or too large, OptionError for an unknown key or a value
    of the wrong kind.
    """
    for name in NAMES:
        path = folder / name
        if path.is_file() and (said := _document(path)) is not None:
            return _Reader(name, commands).read(said)
    return Defaults()


def of(ctx: click.Context) -> Defaults:
    """The defaults with which a command runs."""
    found: Defaults = ctx.find_root().meta.get(META, Defaults())
    return found


def _document(path: Path) -> dict[str, Any] | None:
    """The family's table of a file; None: a pyproject.toml without one."""
    import tomllib

    from taskstore.locations.files import read_regular

    try:
        raw = read_regular(path, MAX_BYTES)
        if path.name == NAMES[1] and b"taskstore" not in raw:
            return None
        found = tomllib.loads(raw.decode())
    except OSError as error:
        raise FileError(path.name, f"it cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise FileError(path.name, f"it is not TOML: {error}") from None
    if path.name != NAMES[1]:
        return found
    tool = found.get("tool")
    own = tool.get("taskstore") if isinstance(tool, dict) else None
    return own if isinstance(own, dict) else None


class _Reader:
    """Turns a document into defaults."""

    def __init__(self, source: str, commands: Mapping[str, click.Command]) -> None:
        self._source, self._commands = source, commands
        self._found: dict[str, dict[str, Any]] = {name: {} for name in commands}

    def read(self, said: Mapping[str, Any]) -> Defaults:
        if sum(1 for _ in _leaves(said)) > MAX_DEFAULTS:
            raise FileError(self._source, f"it has more than {MAX_DEFAULTS:,} values")
        evaluators = self._evaluators(said.get("evaluators", {}))
        scorer = said.get("eval")
        if not isinstance(scorer, str):
            scorer = next(iter(evaluators), None)
        for command in SCORES if scorer else ():
            self._found[command]["template"] = scorer
        for key, value in said.items():
            if isinstance(value, dict) and key in self._commands:
                continue
            if key in ("base", "output"):
                self._family(key, self._text(key, value))
            elif key == "tasks":
                for command in PACKS:
                    self._found[command]["finetunes"] = self._words(key, value)
            elif key in (*PACKING, *RUNNING):
                self._everywhere(key, value)
            elif key not in FAMILY:
                known = sorted({*FAMILY, *PACKING, *RUNNING})
                raise self._wrong(
                    f"has no key {key!r}; it knows {', '.join(known)}, and a table of options for "
                    f"each of {', '.join(self._commands)}"
                )
        for command in self._commands:
            if isinstance(table := said.get(command), dict):
                self._command(command, table)
        return Defaults(
            self._source, {c: found for c, found in self._found.items() if found}, evaluators
        )

    def _family(self, key: str, value: str) -> None:
        for command in self._commands.values():
            names = {param.name for param in command.params}
            packs = command.name in PACKS
            name = "base" if key == "base" else "target" if packs else "store"
            if name in names and (packs or key == "output"):
                self._found[str(command.name)][name] = value

    def _everywhere(self, key: str, value: Any) -> None:
        """An option of all commands that have it, or, of how a family is packed, of those two."""
        for name, command in self._commands.items():
            option = _option(command, key)
            packing = key in PACKING
            if option is None or (packing and name not in PACKS):
                continue
            if name == "tune" and key == "lambda":  # what tune is to find
                continue
            self._found[name][str(option.name)] = self._value(key, value, option)

    def _command(self, name: str, table: Mapping[str, Any]) -> None:
        command = self._commands[name]
        for key, value in table.items():
            option = _option(command, key)
            if option is None:
                known = sorted(flag(p)[2:] for p in command.params if _may_stand(p))
                raise self._wrong(f"has no option {key!r} in [{name}]; it has {', '.join(known)}")
            self._found[name][str(option.name)] = self._value(f"{name}.{key}", value, option)

    def _value(self, key: str, value: Any, option: click.Option) -> Any:
        if option.is_flag:
            if not isinstance(value, bool):
                raise self._wrong(f"{key} is true or false, not {value!r:.60}")
            return value
        if option.multiple:
            return self._words(key, value)
        words = self._words(key, value)
        if isinstance(value, dict):
            raise self._wrong(f"{key} is one value, not a table")
        return ",".join(words)

    def _words(self, key: str, value: Any) -> tuple[str, ...]:
        """A value, a list of them, or a table of NAME=VALUE, as words of a command line."""
        if isinstance(value, dict):
            return tuple(f"{name}={self._text(key, one)}" for name, one in value.items())
        return tuple(
            self._text(key, one) for one in (value if isinstance(value, list) else [value])
        )

    def _text(self, key: str, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self._wrong(f"{key} is a text or a number, not {value!r:.60}")
        return str(value)

    def _evaluators(self, said: Any) -> dict[str, dict[str, Any]]:
        """Name -> template, key and timeout."""
        if not isinstance(said, dict):
            raise self._wrong("evaluators is a table of names")
        options = {"command": "template", "key": "key", "timeout": "timeout"}
        found: dict[str, dict[str, Any]] = {}
        for name, value in said.items():
            table = value if isinstance(value, dict) else {"command": value}
            if "command" not in table or (unknown := sorted(table.keys() - options.keys())):
                what = f"an unknown key {unknown[0]!r}" if "command" in table else "no command"
                raise self._wrong(f"evaluator {name!r} has {what}; it takes {', '.join(options)}")
            found[name] = {options[key]: self._text(f"evaluators.{name}.{key}", one)
                           for key, one in table.items()}  # fmt: skip
        return found

    def _wrong(self, what: str) -> OptionError:
        return OptionError(f"{self._source}: {what}")


def _may_stand(param: click.Parameter) -> bool:
    named = isinstance(param, click.Option) and param.name is not None
    return named and param.expose_value and flag(param)[2:] not in NEVER


def _option(command: click.Command, key: str) -> click.Option | None:
    for param in command.params:
        if isinstance(param, click.Option) and _may_stand(param) and f"--{key}" in param.opts:
            return param
    return None


def _leaves(value: Any) -> Iterator[Any]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inside:
        yield one
        yield from _leaves(one)
