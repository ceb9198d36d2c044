"""One suite over every codec: exact for every bit pattern, of the declared size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from taskstore.errors import FormatError, UnknownCodec
from taskstore.format import dtypes, validate
from taskstore.format.codecs import CODECS, codec, stream

CASES = [
    ("planes", 1), ("planes", 2), ("planes", 4), ("planes", 8),
    ("rotated", 2), ("rotated", 4), ("ulp", 2), ("ulp", 4), ("steps", 2), ("strides", 2),
    ("strides", 4),
]  # fmt: skip
SIZES = [0, 1, 7, 8, 9, 255, 1024, 1025, 5000]


def pair(n: int, itemsize: int, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Two chunks of random bit patterns: NaNs, infinities and subnormals among them."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (2, n * itemsize), np.uint8)
    return raw[0].view(f"<u{itemsize}"), raw[1].view(f"<u{itemsize}")


@pytest.mark.parametrize(("name", "itemsize"), CASES)
@pytest.mark.parametrize("n", SIZES)
def test_round_trip_of_any_bits(name: str, itemsize: int, n: int) -> None:
    chunk, given_chunk = pair(n, itemsize, n)
    streams = codec(name).encode(chunk, given_chunk)
    size = codec(name).sizer(n, itemsize, given_chunk)
    assert [s.size for s in streams] == [size(streams[:i]) for i in range(len(streams))]
    bounds = codec(name).sizes(n, itemsize)
    assert all(s.size <= bound for s, bound in zip(streams, bounds, strict=True))
    decoded = codec(name).decode(streams, n, itemsize, given_chunk)
    assert decoded.dtype == chunk.dtype
    assert (decoded == chunk).all()


@pytest.mark.parametrize("name", ["ulp", "steps", "strides"])
@given(pairs=st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535)), max_size=40))
def test_differences_are_exact_for_every_pair(name: str, pairs: list[tuple[int, int]]) -> None:
    w0 = np.array([a for a, _ in pairs], np.uint16)
    w1 = np.array([b for _, b in pairs], np.uint16)
    coded = codec(name)
    assert (coded.decode(coded.encode(w1, w0), len(pairs), 2, w0) == w1).all()


def test_steps_by_hand() -> None:
    """1.0 + 1 ulp, 2.0 - 1 ulp, and 0.0 -> 1.0, far: classes by size, the largest is class 0."""
    w0 = np.array([0x3F80, 0x4000, 0x0000], np.uint16)  # s = 127, 128, 0
    w1 = np.array([0x3F81, 0x3FFF, 0x3F80], np.uint16)
    streams = codec("steps").encode(w1, w0)
    assert streams[0].tolist() == [1]  # 2.0: zigzag(-1)
    assert streams[1].tolist() == [2]  # 1.0: zigzag(+1)
    assert streams[15].tolist() == [255]
    assert streams[16].tolist() + streams[17].tolist() == [0x00, 0x7F]  # zigzag(0x3F80) = 0x7F00
    assert not any(stream.size for stream in streams[2:15])


def test_a_step_that_needs_no_escape_is_refused() -> None:
    w0 = np.array([0x3F80], np.uint16)
    streams = codec("steps").encode(np.array([0x4F80], np.uint16), w0)
    streams[16][:], streams[17][:] = 254, 0
    with pytest.raises(FormatError, match="escaped that fits a byte"):
        codec("steps").decode(streams, 1, 2, w0)


def test_ulp_counts_floats() -> None:
    values = np.array([1.0, 1.0, -1.0, 0.0], np.float32).view(np.uint32)
    neighbours = np.array(
        [np.nextafter(np.float32(1), np.float32(2)), 1.0,
         np.nextafter(np.float32(-1), np.float32(0)), np.float32(1e-45)], np.float32,
    ).view(np.uint32)  # fmt: skip
    low, *high = codec("ulp").encode(neighbours, values)
    assert low.tolist() == [2, 0, 2, 2]  # zigzag of +1, 0, +1, +1
    assert not any(plane.any() for plane in high)


def test_rounded_defines_w1() -> None:
    w0 = np.array([1.0, 3e38, -2.0, 0.0], np.float32)
    vector = np.array([0x3B80, 0x7F7F, 0x0000, 0x8000], np.uint16)  # 2^-8, 3.39e38, 0, -0
    rounded = codec("rounded")
    w1 = rounded.decode(rounded.encode(vector, None), 4, 4, w0.view(np.uint32))
    assert w1.view(np.float32).tolist() == [1.00390625, np.float32(3e38), -2.0, 0.0]
    assert rounded.sizes(9, 4) == (9, 9)


def test_bits_refuses_ones_in_padding() -> None:
    mask = np.array([0x0B, 0x01], np.uint8)
    assert codec("bits").decode([mask], 10, 1, None) is mask
    with pytest.raises(FormatError, match="padding"):
        codec("bits").decode([np.array([0x0B, 0x05], np.uint8)], 10, 1, None)


def test_names_of_the_format_are_registered() -> None:
    others = {
        "bits",
        "chained",
        "deltas",
        "factored",
        "guided",
        "levels",
        "low_rank",
        "sparse",
        "steps",
        "strides",
    }
    assert {*validate.MULTITASK_CODECS, *validate.PLAIN_CODECS} | others == {*CODECS}
    assert {dtypes.plain_codec(d) for d in dtypes.ITEMSIZE} == set(validate.PLAIN_CODECS)
    with pytest.raises(
        UnknownCodec, match="this build knows bits, chained, deltas, factored, guided, levels"
    ):
        codec("lzma")


@given(st.binary(max_size=3000), st.integers(0, 400))
def test_streams_round_trip(data: bytes, zeros: int) -> None:
    raw = np.frombuffer(data + bytes(zeros), np.uint8)
    stored = stream.store(raw)
    assert len(stored) <= raw.size
    assert (stream.load(memoryview(stored), raw.size) == raw).all()


@given(st.lists(st.tuples(st.binary(max_size=300), st.integers(0, 40)), max_size=5))
def test_streams_stored_together_are_those_stored_one_by_one(
    parts: list[tuple[bytes, int]],
) -> None:
    streams = [np.frombuffer(data * times, np.uint8) for data, times in parts]
    assert stream.store_all(streams) == [stream.store(one) for one in streams]


def test_zero_streams_take_nothing() -> None:
    assert stream.store(np.zeros(100_000, np.uint8)) == b""
    assert not stream.load(memoryview(b""), 7).any()


def test_the_entropy_of_an_exponent_plane_is_reached() -> None:
    weights = (np.random.default_rng(0).standard_normal(1 << 18) * 0.02).astype(np.float32)
    _, plane = codec("rotated").encode((weights.view(np.uint32) >> 16).astype(np.uint16), None)
    counts = np.bincount(plane, minlength=256)
    share = counts[counts > 0] / plane.size
    entropy = -(share * np.log2(share)).sum()
    coded = 8 * len(stream.store(plane)) / plane.size
    assert entropy < coded < entropy * 1.03  # Huffman codes take whole bits
