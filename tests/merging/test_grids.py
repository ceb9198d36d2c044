"""Grids as they are written on a command line."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstore.errors import InputError
from taskstore.merging.search.grids import Grids, parse, published


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.5", (0.5,)),
        ("0:1:0.25", (0, 0.25, 0.5, 0.75, 1)),
        ("0:1:0.4", (0, 0.4, 0.8)),
        ("-0.2:0.2:0.2", (-0.2, 0, 0.2)),
        ("1:4:1", (1, 2, 3, 4)),
        ("0.3, 0.1,0.3", (0.1, 0.3)),
        ("2,0:1:1", (0, 1, 2)),
        ("1e-3,1e-2", (0.001, 0.01)),
        ("auto", (7.0, 8.0)),
    ],
)
def test_grids_as_they_are_written(text: str, values: tuple[float, ...]) -> None:
    assert parse(text, "--alpha", (7.0, 8.0)) == values


@given(st.integers(-100, 100), st.integers(0, 300), st.integers(1, 50))
def test_ranges_are_exact_and_end_where_they_say(low: int, span: int, step: int) -> None:
    """In hundredths, where adding floats up would miss the end."""
    found = parse(f"{low / 100:.2f}:{(low + span) / 100:.2f}:{step / 100:.2f}", "--alpha")
    exact = [Fraction(low + i * step, 100) for i in range(span // step + 1)]
    assert list(found) == [float(value) for value in exact]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1:2",
        "1:2:3:4",
        "0:1:0",
        "0:1:-0.1",
        "1:0:0.1",
        "nan",
        "0:inf:1",
        "0.1,,0.2",
        "0,x",
    ],
)
def test_what_is_no_grid(text: str) -> None:
    with pytest.raises(InputError, match="--alpha .* is not a number, a list"):
        parse(text, "--alpha", (1.0,))


def test_grids_that_are_too_long_or_not_published() -> None:
    with pytest.raises(InputError, match="more than 10,000 values"):
        parse("0:1:1e-9", "--alpha")
    with pytest.raises(InputError, match="--option seed has no published grid; write the values"):
        parse("auto", "--option seed", published("seed", 3))
    assert parse("auto", "", published("k", 3)) == (1, 2, 3)
    assert parse("auto", "", published("lam", 3)) == (0.2, 0.3, 0.4, 0.5, 0.6)


def test_an_option_may_be_called_alpha() -> None:
    assert list(Grids((1.0,), {"alpha": (1.0, 2.0)}).axes) == ["alpha", "option alpha"]
