"""Prints what a process did of a pack that several share."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from taskstore_cli.output.console import Output, counted, print_json, say, stdout

if TYPE_CHECKING:
    from taskstore.packing.parts.driver import PartReport


def print_part(done: PartReport, part: str, target: Path, out: Output) -> None:
    """The units of a part, and what is next."""
    if out.as_json:
        about = {"part": part, "parts": done.path, "units": done.units}
        print_json({**about, "coded": done.coded, "missing": done.missing}, "pack")
        return
    if out.quiet:
        return
    missing = f"{counted(done.missing, 'unit')} of other parts are not done yet"
    ready = f"all parts are done: taskstore seal {shlex.quote(str(target))}"
    say(stdout(), escape(f"part {part}: {counted(done.units, 'unit')}, {done.coded} coded now"))
    say(stdout(), escape(missing if done.missing else ready))
