"""The entropy coder gives bytes back, as plain Python does, near what they are worth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstore.kernels import reference
from taskstore.kernels.entropy import rans
from taskstore.native import rans as loops


def shares_of(counts_CS: Any) -> rans.U16:
    """Shares of 2,048 by counts, at least 1 where there is one."""
    rows = []
    for counts_S in np.maximum(counts_CS, np.eye(1, 256, dtype=np.int64)):
        there = counts_S > 0
        ends = counts_S.cumsum() * (rans.WHOLE - there.sum()) // counts_S.sum()
        rows.append(np.diff(ends, prepend=0) + there)
    return np.array(rows, np.uint16)


def coded(bytes_N: rans.Bytes, scales_N: rans.Bytes, contexts_E: rans.Bytes) -> tuple[Any, ...]:
    counts_CS = rans.count(bytes_N, scales_N, contexts_E, int(contexts_E.max()) + 1)
    assert counts_CS.sum() == bytes_N.size
    shares_CS = shares_of(counts_CS)
    return (*rans.encode(bytes_N, scales_N, contexts_E, shares_CS), shares_CS)


def taken(
    states: rans.U32, words: rans.U16, scales_N: rans.Bytes, contexts_E: rans.Bytes,
    shares_CS: rans.U16,
) -> list[int] | None:  # fmt: skip
    """Inverse of `coded`; None where it does not end empty after the last word."""
    bytes_N = np.empty(scales_N.size, np.uint8)
    ended = loops.take(states, words, scales_N, contexts_E, shares_CS, bytes_N)
    return bytes_N.tolist() if ended else None


@given(
    values=st.lists(st.tuples(st.sampled_from([0, 1, 7, 255]) | st.integers(0, 255),
                              st.integers(0, 255)), max_size=80),
    contexts=st.integers(1, 16),
)  # fmt: skip
def test_bytes_come_back_here_and_in_plain_python(
    values: list[tuple[int, int]], contexts: int
) -> None:
    bytes_N, scales_N = (np.array([v[i] for v in values], np.uint8) for i in (0, 1))
    contexts_E = (np.arange(256) % contexts).astype(np.uint8)
    states, words, shares_CS = coded(bytes_N, scales_N, contexts_E)
    found = taken(states, words, scales_N, contexts_E, shares_CS)
    assert found == bytes_N.tolist()
    given = contexts_E[scales_N].tolist()
    plain = reference.rans(states.tolist(), words.tolist(), given, shares_CS.tolist())
    assert plain == bytes_N.tolist()


@given(data=st.data())
def test_hostile_words_are_refused_where_plain_python_refuses(data: st.DataObject) -> None:
    """Other states, fewer or more words: never read beyond, and the same bytes or none."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    bytes_N = rng.integers(0, 9, data.draw(st.integers(0, 60))).astype(np.uint8)
    scales_N, contexts_E = np.zeros_like(bytes_N), np.zeros(256, np.uint8)
    states, words, shares_CS = coded(bytes_N, scales_N, contexts_E)
    words = np.resize(words, max(0, words.size + data.draw(st.integers(-3, 3))))
    for at in data.draw(st.lists(st.integers(0, rans.LANES - 1), max_size=3)):
        states[at] = data.draw(st.integers(0, 2**32 - 1))
    found = taken(states, words, scales_N, contexts_E, shares_CS)
    given = contexts_E[scales_N].tolist()
    plain = reference.rans(states.tolist(), words.tolist(), given, shares_CS.tolist())
    assert plain == found


@pytest.mark.parametrize("contexts", [1, 5])
def test_it_takes_little_more_than_the_entropy(contexts: int) -> None:
    rng, n = np.random.default_rng(0), 1 << 16
    scales_N = rng.integers(0, contexts, n).astype(np.uint8)
    bytes_N = np.minimum(rng.geometric(0.1 * (1.0 + scales_N)), 255).astype(np.uint8)
    contexts_E = np.minimum(np.arange(256), contexts - 1).astype(np.uint8)
    states, words, _ = coded(bytes_N, scales_N, contexts_E)
    counts_CS = rans.count(bytes_N, scales_N, contexts_E, contexts)
    p = counts_CS / counts_CS.sum(1, keepdims=True)
    entropy = -(counts_CS[p > 0] * np.log2(p[p > 0])).sum() / 8
    assert entropy < states.nbytes + words.nbytes < 1.01 * entropy
