"""`chained`: steps from a parent, in the order of the base's weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstore.errors import FormatError
from taskstore.format.codecs import codec
from taskstore.format.codecs.chained import Order, followed
from taskstore.format.section import encode
from tests.support.coded import back

U16 = np.uint16
W0 = np.array([0x3F80, 0x3C00, 0x3F81, 0x0000, 0x3C01], U16)  # sizes 127, 120, 127, 0, 120
PARENT = np.array([0x3F90, 0x3C00, 0x3F81, 0x0001, 0x3C01], U16)


def test_by_hand() -> None:
    """Classes 0, 7 and 15, by the base; steps from the parent; escapes in the order of streams."""
    chunk = PARENT + np.array([1, 0, 300, 200, 150], U16)
    streams = codec("chained").encode(chunk, np.stack([PARENT, W0]))
    assert [stream.tolist() for stream in streams[:16]] == [
        [2, 255],
        *[[]] * 6,
        [0, 255],
        *[[]] * 7,
        [255],
    ]
    low, high = (stream.astype(int) for stream in streams[16:])
    assert (low + 256 * high).tolist() == [600, 300, 400]


@given(seed=st.integers(0, 2**32), n=st.integers(0, 400))
def test_a_chain_is_followed_as_task_by_task(seed: int, n: int) -> None:
    """One order for all of it, and every task on its own: the same weights."""
    rng = np.random.default_rng(seed)
    w0, *tasks = (rng.integers(0, 1 << 16, n, U16) for _ in range(4))
    order, at = Order(w0), tasks[0]
    running = order.sorted(at)
    for task in tasks[1:]:
        given_N = np.stack([at, w0])
        running = followed(running, codec("chained").encode(task, given_N))
        assert np.array_equal(back("chained", task, given_N, n, 2), task)
        at = task
    assert np.array_equal(order.unsorted(running), tasks[-1])


def test_what_did_not_change_takes_nothing() -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 1 << 16, 1000, U16)
    assert not any(encode("chained", weights, np.stack([weights, weights[::-1]])))


def test_an_escape_that_needs_none_is_refused() -> None:
    streams = codec("chained").encode(PARENT + U16(300), np.stack([PARENT, W0]))
    streams[16], streams[17] = np.full(5, 254, np.uint8), np.zeros(5, np.uint8)
    with pytest.raises(FormatError, match="escaped that fits a byte"):
        codec("chained").decode(streams, 5, 2, np.stack([PARENT, W0]))
