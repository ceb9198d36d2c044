"""Results of one family as a table."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from benchmarks.rates.results import Result


def make(family: str, results: Iterable[Result]) -> Table:
    table = Table(title=f"{family}: share of the fine-tunes' test score", title_justify="left")
    for column in ("method", "setting"):
        table.add_column(column)
    for column in ("bits/weight and task", "mean kept", "worst", "items"):
        table.add_column(column, justify="right")
    for one in results:
        table.add_row(
            one.method,
            one.setting,
            f"{one.bits:.2f}",
            f"{one.mean:.1%}",
            f"{one.kept[one.worst]:.1%} {one.worst}",
            str(one.limit or "all"),
        )
    return table
