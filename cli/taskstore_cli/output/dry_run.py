"""Prints what a command would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import click

from taskstore_cli.output.console import Output, counted, print_json, size

if TYPE_CHECKING:
    from taskstore.locations.dry import Rehearsal

STANDARD_OUTPUT = "-"


@dataclass(frozen=True)
class Part:
    """A path with what lies there now."""

    path: str
    files: int
    bytes: int

    @property
    def words(self) -> str:
        return f"{counted(self.files, 'file')}, {size(self.bytes)}" if self.files else ""


def print_rehearsal(
    reads: Sequence[Part], writes: Sequence[Part], found: Rehearsal, out: Output
) -> None:
    """What is read, what is written and how large that is, and what else the command says.

    On stderr where standard output ("-") would get what is written.
    """
    if out.as_json:
        now = [
            {
                "path": p.path,
                "bytes": found.bytes if p is writes[0] else None,
                "replaces": p.files > 0,
            }
            for p in writes
        ]
        facts = {"dry_run": True, "reads": [asdict(part) for part in reads], "writes": now}
        print_json({**facts, **{k: v for k, v in found.facts.items() if k != "also"}}, "dry-run")
        return
    if out.quiet:
        return
    say = partial(click.echo, err=any(part.path == STANDARD_OUTPUT for part in writes))
    for part in reads:
        say(f"would read   {part.path}" + (f"  ({part.words})" if part.words else ""))
    for part in writes:
        about = found.bytes if part is writes[0] else None
        known = [f"about {size(about)}"] if about is not None else []
        changed = part in reads  # what the change does not need is not written again
        there = f"{part.words} now" if changed else f"in place of {part.words}"
        known += [there] if part.files else []
        what = "would change" if changed else "would write "
        say(f"{what} {part.path}" + (f"  ({', '.join(known)})" if known else ""))
    for line in found.facts.get("also", ()):
        say(line)
    say("nothing was written" + ("" if writes else ", and nothing would be"))
