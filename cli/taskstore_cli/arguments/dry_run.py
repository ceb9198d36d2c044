"""--dry-run: a command makes all its checks, says what it would read and write, and ends there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from taskstore.locations.files import below
from taskstore_cli.output.console import Output
from taskstore_cli.output.dry_run import Part, print_rehearsal

F = TypeVar("F", bound=Callable[..., Any])

# Arguments and options that name what is read, in the order in which they are told.
READ: tuple[str, ...] = (
    *("store", "base", "base_from", "finetunes", "models", "model", "data", "config"),
    *("originals", "mask_files", "statistics"),
)


def dry_run_option(command: F) -> F:
    """Add --dry-run; stands below `says_options`, whose `out` it uses."""

    @click.option(
        "--dry-run",
        is_flag=True,
        help="Check all, say what would be read and written, and write nothing.",
    )
    @functools.wraps(command)
    def run(*, dry_run: bool, **given: Any) -> Any:
        if not dry_run:
            return command(**given)
        from taskstore.locations import dry

        out: Output = given["out"]
        reads = [_part(path) for path in dict.fromkeys(_paths(given))]
        with dry.run() as found:
            command(**given | {"out": Output(as_json=False, quiet=True)})
        if _scores_alone(given):
            found.bytes = None  # of the folder for one model at a time
        writes = [_part(path) for path in _written(given)] if found.stopped else []
        print_rehearsal(reads, writes, found, out)
        return None

    return run  # type: ignore[return-value]


def _scores_alone(given: Mapping[str, Any]) -> bool:
    return "record" in given


def _written(given: Mapping[str, Any]) -> list[Path | str]:
    """The target; the repository, unless it is read; the store, where a command changes it; and
    the journal that is kept."""
    target = given.get("target") or given.get("repository") or given.get("store")
    kept = [] if _scores_alone(given) and given["record"] is None else [target]
    journal = getattr(given.get("evaluator"), "journal", None)
    return [*kept, *([journal] if journal else [])]


def _paths(given: Mapping[str, Any]) -> Iterable[Path | str]:
    """The files and folders that a command names as its input; hub ids are no paths."""
    from taskstore.locations.remote.mirror import address_of

    for name in READ:
        value = given.get(name)
        for word in value if isinstance(value, tuple) else (value,):
            if isinstance(word, (str, Path)) and (address := address_of(word)):
                yield str(address)
            elif isinstance(word, (str, Path)) and str(word):
                path = Path(word)
                after = Path(str(word).partition("=")[2])
                yield path if path.exists() or not str(after) or not after.exists() else after


def _part(path: Path | str) -> Part:
    """A file or folder as it is now; of a folder the files in it, of a store all of them; of what
    is elsewhere, a str, its address alone."""
    if isinstance(path, str):
        return Part(path, 0, 0)
    if path.is_file():
        return Part(str(path), 1, path.stat().st_size)
    inside = below(path) if (path / "taskstore.json").exists() else path.glob("*")
    sizes = list[int]()
    for file in inside:
        with suppress(FileNotFoundError):
            if file.is_file():
                sizes.append(file.stat().st_size)
    return Part(str(path), len(sizes), sum(sizes))
