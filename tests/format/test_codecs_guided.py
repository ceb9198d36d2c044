"""`guided`: any mask comes back, any streams decode or are refused, and SPEC.md is right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.format.codecs import codec
from taskstore.format.section import encode
from taskstore.kernels import bits
from tests.support.coded import SIZES, back, stored


def tau_of(n: int, seed: int) -> NDArray[np.uint32]:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32).view(np.uint32)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("density", [0.0, 0.001, 0.3, 0.97, 1.0])
def test_guided_gives_masks_back(n: int, density: float) -> None:
    mask = bits.pack(np.random.default_rng(n).random(n) < density)
    assert (back("guided", mask, tau_of(n, n), n, 1) == mask).all()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2**32 - 1)), max_size=400))
@example([(True, 0)] * 300)
@example([(False, 0x7FC00001)] * 299 + [(True, 0xFF800000)])
def test_guided_gives_any_mask_back(pairs: list[tuple[bool, int]]) -> None:
    """Whatever stands beside it: zeros, NaNs, infinities."""
    mask = bits.pack(np.array([bit for bit, _ in pairs], np.bool_))
    tau = np.array([t for _, t in pairs], np.uint32)
    assert (back("guided", mask, tau, len(pairs), 1) == mask).all()


def by_the_book(streams: list[NDArray[np.uint8]], tau: NDArray[np.uint32]) -> list[int]:
    """SPEC.md, word for word, in plain Python."""
    raw = streams[1].tobytes()
    states = [int.from_bytes(raw[i : i + 4], "little") for i in (0, 4)]
    words = [int.from_bytes(raw[i : i + 2], "little") for i in range(8, len(raw), 2)]
    t = [(int(x) & 0x7FFFFFFF) >> 22 for x in tau]
    p, q, mask = [1 << 15] * 256, [0] * 256, list[int]()
    for i in range(len(t)):
        ones = sum(mask[max(0, i - 32) :])
        context = 8 * min(31, max(t) - t[i]) + min(7, ones // 4)
        f, x = min(max(p[context] >> 4, 1), 4095), states[i % 2]
        m = x & 4095
        bit = int(m < f)
        x = f * (x >> 12) + m if bit else (4096 - f) * (x >> 12) + m - f
        states[i % 2] = (x << 16) + words.pop(0) if x < 1 << 16 else x
        rate = min(8, 1 + int(math.log2(q[context] + 1)))
        p[context] += (65535 * bit - p[context]) >> rate
        q[context] += 1
        mask.append(bit)
    assert states == [1 << 16] * 2 and not words
    return mask


@pytest.mark.parametrize("n", [3001, 4096])
def test_the_specification_says_how_guided_decodes(n: int) -> None:
    tau = tau_of(n, 1)
    large = np.abs(tau.view(np.float32)) > np.random.default_rng(2).random(n)
    mask = bits.pack(large & (np.arange(n) % 1000 < 700))
    streams = codec("guided").encode(mask, tau)
    assert 8 < streams[1].size < mask.size
    assert by_the_book(streams, tau) == bits.unpack(mask, n).astype(int).tolist()


def test_guided_comes_near_the_entropy() -> None:
    n = 1 << 17
    tau, rng = tau_of(n, 0), np.random.default_rng(1)
    share = np.where(np.abs(tau.view(np.float32)) > 1, 0.9, 0.2)
    mask = bits.pack(rng.random(n) < share)
    entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)).sum() / 8
    coded = sum(map(len, encode("guided", mask, tau)))
    assert entropy < coded * 1.01 and coded < 1.04 * entropy
    assert coded < 0.8 * sum(map(len, encode("bits", mask)))


def test_an_empty_mask_takes_nothing() -> None:
    assert encode("guided", np.zeros(1000, np.uint8), tau_of(8000, 0)) == [b"", b""]


def test_a_mask_of_noise_is_stored_as_it_is() -> None:
    mask = np.random.default_rng(0).integers(0, 256, 500, np.uint8)
    length, body = codec("guided").encode(mask, tau_of(4000, 0))
    assert length.tolist() == [500 & 255, 500 >> 8, 0, 0]
    assert body is mask


@pytest.mark.parametrize("length", [1, 2, 6, 7, 9, 499, 501, 502, 2**31, 2**32 - 2])
def test_a_length_that_no_writer_makes_is_refused(length: int) -> None:
    size = codec("guided").sizer(4000, 1, tau_of(4000, 0))
    with pytest.raises(FormatError, match=f"4000 bits is coded in {length} bytes"):
        size([np.frombuffer(length.to_bytes(4, "little"), np.uint8)])


def coded_mask(n: int = 4000) -> tuple[list[NDArray[np.uint8]], NDArray[np.uint32]]:
    tau = tau_of(n, 0)
    mask = bits.pack(np.abs(tau.view(np.float32)) > 1.5)
    streams = codec("guided").encode(mask, tau)
    assert 8 < streams[1].size < mask.size
    return streams, tau


def sized(body: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [np.frombuffer(body.size.to_bytes(4, "little"), np.uint8), body]


def test_words_too_many_or_too_few_are_refused() -> None:
    streams, tau = coded_mask()
    for body in (
        np.concatenate([streams[1], np.zeros(2, np.uint8)]),
        streams[1][:-2],
        streams[1][:8],
    ):
        with pytest.raises(FormatError, match="does not end where its coder does"):
            stored("guided", sized(body), tau, 4000, 1)


@pytest.mark.parametrize("at", [0, 5, 20, -1])
def test_a_changed_byte_is_refused(at: int) -> None:
    streams, tau = coded_mask()
    body = streams[1].copy()
    body[at] ^= 1
    with pytest.raises(FormatError, match="does not end"):
        stored("guided", sized(body), tau, 4000, 1)


def test_guided_refuses_ones_in_padding() -> None:
    body = np.full(2, 0xFF, np.uint8)
    with pytest.raises(FormatError, match="padding"):
        stored("guided", sized(body), tau_of(10, 0), 10, 1)


@settings(max_examples=200)
@given(st.integers(0, 600), st.binary(max_size=75), st.integers(0, 2**32 - 1))
def test_hostile_guided_decodes_or_is_refused(n: int, data: bytes, seed: int) -> None:
    tau = np.random.default_rng(seed).integers(0, 2**32, n, np.uint32)
    body = np.frombuffer(data, np.uint8)
    try:
        mask = stored("guided", sized(body), tau, n, 1)
    except FormatError:
        return
    assert mask.size == bits.packed_size(n) and bits.padding_is_zero(mask, n)
