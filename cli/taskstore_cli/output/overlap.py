"""Prints tables of how a store's masks overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from taskstore_cli.output.console import plain_table, stdout

if TYPE_CHECKING:
    from rich.table import Table

    from taskstore.analysis.overlap import Angles, Overlap

WORDS = ("layers", "task", "model", "nearest", "farthest")  # columns that hold no numbers
WIDE = 10  # tasks up to which a matrix fits into a terminal
NO_MASKS = "no task of this store has masks, so there is no overlap to count"
NO_VECTORS = (
    "this store does not record the fine-tunes' vectors, and masks cannot tell them: masks of one "
    "multi-task model look alike where the fine-tunes do not; pack the originals again to have them"
)


def print_overlap(overlap: Overlap, *, vectors: bool = False) -> None:
    """Print what was counted; `vectors` were asked for."""
    console = stdout()
    if overlap.tensors:
        console.print(_headline(overlap), soft_wrap=True)
        console.print(_usage(overlap))
        console.print(_pairs(overlap.tasks, overlap.jaccard, "Jaccard index of two masks"))
    else:
        console.print(NO_MASKS)
    if overlap.vectors:
        console.print(_norms(overlap.vectors))
        tasks = list(overlap.vectors.norms)
        console.print(_pairs(tasks, overlap.vectors.cosines, "cosine of two task vectors"))
    elif vectors:
        console.print(NO_VECTORS, soft_wrap=True)


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
    table = _table("live weights by the number of tasks that use them", *columns)
    for kind, usage in {**overlap.usage_by_kind, "all": overlap.usage}.items():
        total = sum(usage)
        shares = (f"{count / max(1, total):.1%}" for count in grouped(usage))
        table.add_row(kind, f"{total:,}", *shares, style="bold" if kind == "all" else None)
    return table


def _pairs(tasks: Sequence[str], matrix: Sequence[Sequence[float | None]], title: str) -> Table:
    """The matrix, or for many tasks each one's nearest and farthest."""
    if len(tasks) <= WIDE:
        table = _table(title, "task", *(f"{i + 1}" for i in range(len(tasks))))
        for i, task in enumerate(tasks):
            table.add_row(f"{i + 1} {escape(task)}", *(_number(x) for x in matrix[i]))
        return table
    table = _table(title, "task", "nearest", "", "farthest", "")
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
    share = "" if vectors.share == 1 else f", on {vectors.share:.2%} of the weights"
    table = _table(f"task vectors: model minus base{share}", "task", "model", "length")
    for task, norm in vectors.norms.items():
        of = vectors.of[task]
        model = of if of == "fine-tune" else f"rebuilt, {of}"
        table.add_row(escape(task), model, f"{norm:.4g}")
    return table


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.3f}"


def _table(title: str, *columns: str) -> Table:
    look = {"title": title, "title_justify": "left", "title_style": "italic"}
    return plain_table(*columns, words=WORDS, **look)
