"""`chained`: steps from a parent, in the order of the base's weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstore.errors import FormatError
from taskstore.format.codecs import codec
from taskstore.format.codecs.chained import Order
from taskstore.format.section import decode, encode
from tests.support.coded import back

U16 = np.uint16
W0 = np.array([0x3F80, 0x3C00, 0x3F81, 0x0000, 0x3C01], U16)  # sizes 127, 120, 127, 0, 120
PARENT = np.array([0x3F90, 0x3C00, 0x3F81, 0x0001, 0x3C01], U16)


CHUNK = PARENT + np.array([1, 0, 300, 200, 150], U16)  # steps of 2, 0, 600, 400, 300


def test_by_hand() -> None:
    """Classes 0, 7 and 15, by the base; steps from the parent; escapes in the order of streams."""
    streams = codec("chained").encode(CHUNK, np.stack([PARENT, W0]))
    assert [stream.tolist() for stream in streams] == [
        [1],
        *([2, 255], *[[]] * 6, [0, 255], *[[]] * 7, [255]),
        [255, 45, 145],
        *([345 & 255], [345 >> 8]),
    ]


def test_small_steps_share_a_byte() -> None:
    base = np.full(11, 0x3F80, U16)
    steps = np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 10], U16)
    streams = codec("chained").encode(base + steps, np.stack([base, base]))
    assert [stream.tolist() for stream in streams[:2]] == [
        [2],
        [0x20, 0x64, 0xA8, 0xEC, 0x00, 0x0F],
    ]
    assert [stream.tolist() for stream in streams[17:]] == [[20 - 15], [], []]


@given(seed=st.integers(0, 2**32), n=st.integers(0, 400))
def test_a_chain_is_followed_as_task_by_task(seed: int, n: int) -> None:
    """One order for all of it, and every task on its own: the same weights."""
    rng = np.random.default_rng(seed)
    w0, *tasks = (rng.integers(0, 1 << 16, n, U16) for _ in range(4))
    order, at = Order(w0), tasks[0]
    running = order.sorted(at)
    for task in tasks[1:]:
        given_N = np.stack([at, w0])
        running = order.followed(running, codec("chained").encode(task, given_N))
        assert np.array_equal(back("chained", task, given_N, n, 2), task)
        at = task
    assert np.array_equal(order.unsorted(running), tasks[-1])


@given(seed=st.integers(0, 2**32), n=st.integers(0, 400), far=st.booleans())
def test_the_first_task_is_decoded_in_that_order(seed: int, n: int, far: bool) -> None:
    """`steps` over the base: the same weights as one by one, its escapes where they belong."""
    rng = np.random.default_rng(seed)
    w0_N = rng.integers(0, 1 << 16, n, U16)
    steps_N = rng.integers(0, (1 << 16) if far else 300, n, U16)
    streams = codec("steps").encode(w0_N + steps_N, w0_N)
    order = Order(w0_N)
    sizes = [order.size_of_steps(streams[:i]) for i in range(len(streams))]
    assert sizes == [stream.size for stream in streams]
    assert np.array_equal(order.unsorted(order.first(streams)), w0_N + steps_N)


def test_what_did_not_change_takes_a_byte() -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 1 << 16, 1000, U16)
    assert sum(map(len, encode("chained", weights, np.stack([weights, weights[::-1]])))) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: [3]}, "3 steps share a byte"),
        ({0: [0]}, "0 steps share a byte"),
        ({18: [254], 19: [0]}, "escaped that fits a byte"),
        ({18: [1], 19: [255]}, "larger than its dtype"),
    ],
)
def test_a_reader_refuses(change: dict[int, list[int]], message: str) -> None:
    given_N = np.stack([PARENT, W0])
    streams = codec("chained").encode(CHUNK, given_N)
    for s, raw in change.items():
        streams[s] = np.array(raw, np.uint8)
    with pytest.raises(FormatError, match=message):
        decode("chained", [memoryview(stream.tobytes()) for stream in streams], 5, 2, given_N)


def test_nothing_stands_after_the_last_element() -> None:
    base = np.full(3, 0x3F80, U16)
    streams = codec("chained").encode(base, np.stack([base, base]))
    streams[1][-1] = 16
    with pytest.raises(FormatError, match="after the last element"):
        codec("chained").decode(streams, 3, 2, np.stack([base, base]))
