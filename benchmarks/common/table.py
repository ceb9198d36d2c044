"""The lines as one table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from benchmarks.common.lines import Cell, Line, Target


def make(lines: Sequence[Line], title: str, caption: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        show_lines=True,
    )
    for name in ("what", "taskstore", "against", "ratio", "target"):
        table.add_column(name)
    for line in lines:
        ratio = f"{line.ratio:.2f}x\n{line.unit}"
        table.add_row(line.what, _cell(line.ours), _cell(line.other), ratio, _target(line.target))
    return table


def size(nbytes: float) -> str:
    """1234567 -> "1.23 MB"; decimal, as rates and disks are."""
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.2f} GB"


def _cell(cell: Cell) -> str:
    figures = []
    if cell.nbytes is not None:
        figures.append(size(cell.nbytes))
    if cell.seconds is not None:
        figures.append(f"{cell.seconds:.2f} s")
    if cell.rate is not None:
        figures.append(f"{size(cell.rate)}/s")
    peak = "" if cell.peak is None else f"peak {cell.peak / 2**20:,.0f} MiB"
    rows = [cell.name, ", ".join(figures), peak, cell.note]
    return "\n".join(row for row in rows if row)


def _target(target: Target | None) -> str:
    if target is None:
        return ""
    return f"{target.text}\n" + ("[green]PASS[/]" if target.met else "[red]MISSED[/]")
