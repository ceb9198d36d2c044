import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstore.kernels import bits

masks = st.lists(st.booleans(), max_size=200).map(lambda m: np.array(m, np.bool_))


def test_the_spec_example() -> None:
    mask = np.zeros(10, np.bool_)
    mask[[0, 1, 3, 8]] = True
    assert bits.pack(mask).tobytes() == b"\x0b\x01"


@given(masks)
def test_round_trip_and_count(mask: np.ndarray) -> None:
    packed = bits.pack(mask)
    assert packed.size == bits.packed_size(mask.size)
    assert (bits.unpack(packed, mask.size) == mask).all()
    assert bits.count(packed) == mask.sum()
    assert bits.padding_is_zero(packed, mask.size)


@given(masks.flatmap(lambda a: st.tuples(st.just(a), st.permutations(list(a)))))
def test_intersections(pair: tuple[np.ndarray, list[bool]]) -> None:
    a, b = pair[0], np.array(pair[1], np.bool_)
    both, ones = int((a & b).sum()), int(a.sum())
    assert bits.intersections([bits.pack(a), bits.pack(b)]).tolist() == [[ones, both], [both, ones]]


def test_a_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot hold exactly 9 bits"):
        bits.unpack(np.zeros(1, np.uint8), 9)


def test_padding_is_seen() -> None:
    assert not bits.padding_is_zero(np.array([0xFF, 0x04], np.uint8), 10)
    assert bits.padding_is_zero(np.array([0xFF, 0x03], np.uint8), 10)
