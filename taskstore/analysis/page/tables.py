"""Makes the tables beside the charts: the same figures, for screen readers and to the digit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

Cell = str | float | int | None


class Number(str):
    """The text of a number, aligned right."""


class Bad(str):
    """A text that warns: red."""


class BadNumber(Bad, Number):
    """The text of a number that warns."""


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A table as HTML; the first column names the rows, numbers stand right, None is a dash.

    A column in which every cell is None or empty is left out.
    """
    rows = list(rows)
    kept = [
        i for i in range(len(columns)) if not i or any(row[i] not in (None, "") for row in rows)
    ]
    columns, rows = [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{_text(first)}</th>{"".join(_cell(cell) for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def matrix(
    corner: str,
    columns: Sequence[str],
    rows: Sequence[str],
    values: Sequence[Sequence[Cell]],
) -> str:
    return table([corner, *columns], ([row, *line] for row, line in zip(rows, values, strict=True)))


def size(count: float) -> Number:
    """Bytes as a person writes them, powers of ten."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return Number(f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}")
        count /= 1000
    return Number(f"{count:,.2f} TB")


def some(count: int) -> Number | None:
    """Bytes, None where there are none."""
    return size(count) if count else None


def _cell(cell: Cell) -> str:
    number = not isinstance(cell, str) or isinstance(cell, Number)
    kinds = [*(["bad"] if isinstance(cell, Bad) else []), *(["number"] if number else [])]
    classes = " ".join(kinds)
    marked = f' class="{classes}"' if classes else ""
    return f"<td{marked}>{_text(cell)}</td>"


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4g}" if abs(cell) >= 1 else f"{cell:.3f}"
    return f"{cell:,}" if isinstance(cell, int) else escape(cell)
