"""Checksums that are joined from pieces, against BLAKE3 of the whole."""

from __future__ import annotations

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from taskstore.packing.parts.subtrees import CHUNK, joined, subtree


def of_pieces(data_N: NDArray[np.uint8], piece: int) -> str:
    starts = range(0, data_N.size, piece)
    return joined([subtree(data_N[at : at + piece], at // CHUNK) for at in starts])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 7), st.integers(1, 200_000), st.integers(0, 2**32))
def test_pieces_give_the_checksum_of_the_whole(power: int, more: int, seed: int) -> None:
    piece = CHUNK << power
    data_N = np.random.default_rng(seed).integers(0, 256, piece + more, np.uint8)
    assert of_pieces(data_N, piece) == blake3(data_N.tobytes()).hexdigest()


@pytest.mark.parametrize("at", [0, 5000, -1])
def test_each_byte_counts(at: int) -> None:
    data_N = np.zeros(10_000, np.uint8)
    before = of_pieces(data_N, 2048)
    data_N[at] = 1
    assert of_pieces(data_N, 2048) != before
