"""An adapter's patterns match what PEFT's do, and none takes the time of a backtracking one."""

from __future__ import annotations

import re
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstore.models.readers.patterns import MAX_PATTERNS, Patterns

NAMES = st.lists(st.sampled_from(["q", "k", "qk", "1", "12", "x_q"]), min_size=1, max_size=4).map(
    ".".join
)
ATOMS = st.sampled_from(["q", "k", "1", r"\.", ".", r"\d", r"\w", "[qk]", "[^q]", "[0-9.]", "_"])
SUBSET = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from("*+?")).map(lambda p: f"(?:{p[0]}){p[1]}"),
    ),
    max_leaves=6,
)


@given(pattern=SUBSET, name=NAMES, start=st.sampled_from(["", "^"]))
def test_as_peft(pattern: str, name: str, start: str) -> None:
    """PEFT's own expression, run by Python's engine, is the oracle."""
    wanted = re.match(rf"(.*\.)?({start}{pattern})$", name) is not None
    assert (Patterns([start + pattern]).first(name) is not None) == wanted


def test_the_first_in_their_order() -> None:
    patterns = Patterns(["v_proj", "q.proj", r"layers\.\d+\..*"])
    assert patterns.first("model.layers.12.q_proj") == "q.proj"
    assert patterns.first("model.layers.12.o_proj") == r"layers\.\d+\..*"
    assert patterns.first("model.head") is None
    assert patterns.first("proj") is None
    assert patterns.first("") is None


@pytest.mark.parametrize(
    "pattern",
    ["(?i)x", "(?=x)x", "(?<=x)x", r"(x)\1", "x{9}", "x*?", "x**", "*", "(x", "x)", "[", "[z-a]",
     "\\", r"\bx", r"\Ax", "(?P<n>x)", "(" * 30 + "x" + ")" * 30, "x" * 2000],
)  # fmt: skip
def test_the_rest_is_refused_by_name(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern") as caught:
        Patterns(["q_proj", pattern])
    assert len(str(caught.value)) < 300


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("pattern", "quick"),
    [("(.*)*x", True), ("(a+)+$", True), ("((a|a)+)+x", True), (".*" * 400, False)],
    ids=["anything", "to the end", "either", "long"],
)
def test_no_pattern_hangs(pattern: str, quick: bool) -> None:
    patterns = Patterns([pattern])
    with nullcontext() if quick else pytest.raises(ValueError, match="too long to match"):
        for i in range(300):
            patterns.first("a" * 500 + f".{i}")


def test_their_number_is_bounded() -> None:
    with pytest.raises(ValueError, match="patterns, more than"):
        Patterns(f"layer{i}" for i in range(MAX_PATTERNS + 1))
