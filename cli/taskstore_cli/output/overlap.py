"""Prints tables of how a store's masks overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from taskstore_cli.output.console import paged, plain_table, say, show

if TYPE_CHECKING:
    from rich.table import Table

    from taskstore.analysis.overlap import Angles, Overlap

WORDS = ("layers", "task", "model", "nearest", "farthest")  # columns that hold no numbers
CELL = 7  # columns that a number of a matrix takes
NO_MASKS = "no task of this store has masks, so there is no overlap to count"
NO_VECTORS = (
    "this store does not record the fine-tunes' vectors, and masks cannot tell them: masks of one "
    "multi-task model look alike where the fine-tunes do not; pack the originals again to have them"
)


def print_overlap(overlap: Overlap, *, vectors: bool = False) -> None:
    """Print what was counted; `vectors` were asked for."""
    with paged() as console:
        if overlap.tensors:
            show(console, "live weights by the number of tasks that use them", _usage(overlap))
            say(console, _headline(overlap))
            pairs = _pairs(overlap.tasks, overlap.jaccard, console.width)
            show(console, "Jaccard index of two masks", pairs)
        else:
            show(console, "masks", NO_MASKS)
        if overlap.vectors:
            found = overlap.vectors
            share = "" if found.share == 1 else f", on {found.share:.2%} of the weights"
            show(console, f"task vectors: model minus base{share}", _norms(found))
            pairs = _pairs(list(found.norms), found.cosines, console.width)
            show(console, "cosine of two task vectors", pairs)
        elif vectors:
            console.print()
            say(console, NO_VECTORS)


def _headline(overlap: Overlap) -> str:
    live, usage = max(1, overlap.live), overlap.usage
    shared = sum(usage[2:])
    return (
        f"{overlap.live:,} of {overlap.elements:,} masked weights are live (the multi-task model "
        f"moves them): {shared / live:.1%} are shared by two tasks or more, {overlap.universal:,} "
        f"by all that have them; {usage[1] / live:.1%} are one task's; "
        f"{usage[0] / live:.1%} no task's"
    )


def _usage(overlap: Overlap) -> Table:
    """Rows: kinds of layers; columns: shares of live weights that so many tasks use."""
    from taskstore.analysis.overlap.classes import classes, grouped

    columns = ("layers", "live", *(name for name, _ in classes(len(overlap.tasks))))
    table = _table(*columns)
    for kind, usage in {**overlap.usage_by_kind, "all": overlap.usage}.items():
        total = sum(usage)
        shares = (f"{count / max(1, total):.1%}" for count in grouped(usage))
        table.add_row(kind, f"{total:,}", *shares, style="bold" if kind == "all" else None)
    return table


def _pairs(tasks: Sequence[str], matrix: Sequence[Sequence[float | None]], width: int) -> Table:
    """The matrix, or where it is wider than the terminal each task's nearest and farthest."""
    if 3 + max(map(len, tasks), default=0) + CELL * len(tasks) <= width:
        table = _table("task", *(f"{i + 1}" for i in range(len(tasks))))
        for i, task in enumerate(tasks):
            table.add_row(f"{i + 1} {escape(task)}", *(_number(x) for x in matrix[i]))
        return table
    table = _table("task", "nearest", "", "farthest", "")
    for i, task in enumerate(tasks):
        others = sorted(
            ((x, other) for j, (x, other) in enumerate(zip(matrix[i], tasks, strict=True))
             if j != i and x is not None),
            reverse=True,
        )  # fmt: skip
        ends = [others[0], others[-1]] if others else []
        table.add_row(
            escape(task), *(cell for x, other in ends for cell in (escape(other), _number(x)))
        )
    return table


def _norms(vectors: Angles) -> Table:
    table = _table("task", "model", "length")
    for task, norm in vectors.norms.items():
        of = vectors.of[task]
        model = of if of == "fine-tune" else f"rebuilt, {of}"
        table.add_row(escape(task), model, f"{norm:.4g}")
    return table


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.3f}"


def _table(*columns: str) -> Table:
    return plain_table(*columns, words=WORDS)
