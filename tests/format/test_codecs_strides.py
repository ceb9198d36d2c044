"""`strides`: any weights come back, any streams decode or are refused, and SPEC.md is right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.format.codecs import codec
from taskstore.format.section import encode
from tests.support.coded import SIZES, Bits, back, stored


def tuned(n: int, itemsize: int, seed: int, step: float = 1e-3) -> tuple[Bits, Bits]:
    """Weights of a base and of a fine-tune, as bits."""
    rng = np.random.default_rng(seed)
    w0 = (rng.standard_normal(n) * 0.02).astype(np.float32)
    w = (w0 + rng.standard_normal(n) * step).astype(np.float32)
    both = [x.view(np.uint32) for x in (w0, w)]
    if itemsize == 4:
        return both[0], both[1]
    return (both[0] >> 16).astype(np.uint16), (both[1] >> 16).astype(np.uint16)


def pair_of_any(n: int, itemsize: int) -> tuple[Bits, Bits]:
    raw = np.random.default_rng(n).integers(0, 256, (2, n * itemsize), np.uint8)
    return raw[0].view(f"<u{itemsize}"), raw[1].view(f"<u{itemsize}")


def any_bits(itemsize: int, n: int = 64) -> st.SearchStrategy[Bits]:
    """Elements of which many are alike: zeros, NaNs with payloads, neighbours."""
    top = 256**itemsize - 1
    odd = [0, 1, top >> 1, top, (top >> 1) + 1, 0x7F80, 0x7FC1, 0x7C00, 0x3C00]
    elements = st.integers(0, top) | st.sampled_from([x & top for x in odd])
    return st.lists(elements, max_size=n).map(lambda some: np.array(some, f"<u{itemsize}"))


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("step", [0.0, 1e-5, 1e-3, 10.0])
def test_strides_gives_weights_back(n: int, itemsize: int, step: float) -> None:
    w0, w = tuned(n, itemsize, n, step)
    assert (back("strides", w, w0, n, itemsize) == w).all()
    assert (back("strides", w0, w, n, itemsize) == w0).all()


@pytest.mark.parametrize("itemsize", [2, 4])
@given(data=st.data())
def test_strides_gives_any_bits_back(itemsize: int, data: st.DataObject) -> None:
    w0 = data.draw(any_bits(itemsize))
    w = data.draw(arrays(w0.dtype, w0.shape) | st.permutations(w0.tolist()).map(np.array))
    w = w.astype(w0.dtype)
    for low in (0, 5, 8 * itemsize - 3):  # low bits that no weight uses
        high = w0.dtype.type((1 << 8 * itemsize) - (1 << low))
        assert (back("strides", w & high, w0 & high, w0.size, itemsize) == w & high).all()


def test_every_pair_of_sizes_and_signs() -> None:
    """Random bits of full chunks: all exponents beside all exponents."""
    for itemsize in (2, 4):
        w0, w = pair_of_any(1 << 18, itemsize)
        assert (back("strides", w, w0, w.size, itemsize) == w).all()


def test_strides_by_hand() -> None:
    """1.0 grows by 1, -1.0 by 2, 2.0 shrinks by 1, and 0.0 becomes -1.0: through zero."""
    w0 = np.array([0x3F80, 0xBF80, 0x4000, 0x0000], np.uint16)
    w = np.array([0x3F81, 0xBF82, 0x3FFF, 0xBF80], np.uint16)
    head, *classes, plain = codec("strides").encode(w, w0)
    assert head.tolist() == [7, 0]
    assert [c.tolist() for c in classes[1:]] == [[]] * 9  # fewer than 1024: all in class 0
    # h = 0x3F80 for d = -0x3F81: floor(log2 h) = 13, r = 10, v = 8 * 10 + 15
    assert classes[0].tolist() == [2 * 1, 2 * 2, 2 * 0 + 1, 2 * 95 + 1]
    assert plain.tolist() == [0x80, 0x03]  # 0x3F80 & 0x3FF


@pytest.mark.parametrize(("itemsize", "low"), [(2, 0), (2, 3), (4, 0), (4, 9)])
def test_the_specification_says_how_strides_decodes(itemsize: int, low: int) -> None:
    """SPEC.md, word for word, in plain Python; steps from none to the largest."""
    n, b, f = 5000, itemsize, {2: 3, 4: 2}[itemsize]
    w0, w = tuned(n, b, low)
    w0[:200], w[100:300] = (x[:200] for x in pair_of_any(n, b))
    w0, w = (x >> low << low for x in (w0, w))
    (k, u), *classes, plain = (s.tolist() for s in codec("strides").encode(w, w0))
    assert u == low
    below, sizes = (1 << 8 * b - 1) - 1, [0] * 256
    for x in w0.tolist():
        sizes[(x & below) >> k] += 1
    of, c, held = [0] * 256, 0, 0
    for s in reversed(range(256)):
        if held >= max(1024, -(-n // 64)) and c < 9:
            c, held = c + 1, 0
        of[s], held = c, held + sizes[s]
    assert c > 1
    stock, bit = [iter(one) for one in classes], 0
    number = sum(byte << 8 * i for i, byte in enumerate(plain))
    for x, expected in zip(w0.tolist(), w.tolist(), strict=True):
        byte = next(stock[of[(x & below) >> k]])
        v = byte >> 1
        r = max((v >> f) - 1, 0)
        h = (v - (r << f) << r) + (number >> bit & (1 << r) - 1)
        bit += r
        d = -h - 1 if byte & 1 else h
        size, sign = d + ((x & below) >> u) & 2 * below + 1, x & below + 1
        if size > below:  # negative in 8b bits: W is on the other side of zero
            size, sign = 2 * below + 1 - size, sign ^ below + 1
        assert expected == (size << u) | sign
    assert number >> bit == 0 and not any(list(one) for one in stock)


def test_the_writer_chooses_what_the_dtype_needs() -> None:
    w0, w = tuned(1 << 16, 4, 0)
    halves = [x.view(np.float32).astype(np.float16).view(np.uint16) for x in (w0, w)]
    whole = [(x & np.uint32(0xFFFF0000)) for x in (w0, w)]
    assert codec("strides").encode(w, w0)[0].tolist() == [23, 0]
    assert codec("strides").encode(halves[1], halves[0])[0].tolist() == [10, 0]
    assert codec("strides").encode(whole[1], whole[0])[0].tolist() == [23, 16]
    assert codec("strides").encode(np.zeros_like(w), np.zeros_like(w))[0].tolist() == [23, 0]
    wide, narrow = (encode("strides", b, a) for a, b in (whole, [x >> 16 for x in whole]))
    assert sum(map(len, wide)) < 1.05 * sum(len(s) for s in narrow)


def test_strides_beats_steps_and_ulp() -> None:
    w0, w = tuned(1 << 16, 2, 1)
    sizes = {name: sum(map(len, encode(name, w, w0))) for name in ("strides", "steps", "ulp")}
    assert sizes["strides"] < sizes["steps"] < sizes["ulp"]


@pytest.mark.parametrize("head", [(6, 0), (15, 0), (23, 0), (255, 0), (7, 8), (10, 255)])
def test_a_head_that_means_nothing_is_refused(head: tuple[int, int]) -> None:
    w0, w = tuned(100, 2, 0)
    streams = [np.array(head, np.uint8), *codec("strides").encode(w, w0)[1:]]
    with pytest.raises(FormatError, match="shifted by|are unused"):
        stored("strides", streams, w0, 100, 2)


@pytest.mark.parametrize(("itemsize", "last"), [(2, 103), (4, 119)])
def test_a_step_too_large_is_refused(itemsize: int, last: int) -> None:
    w0, w = tuned(100, itemsize, 0)
    streams = [s.copy() for s in codec("strides").encode(w, w0)]
    streams[1][7] = 2 * last + 2
    with pytest.raises(FormatError, match="larger than its dtype allows"):
        stored("strides", streams, w0, 100, itemsize)


def test_ones_in_the_padding_of_plain_bits_are_refused() -> None:
    w0 = np.array([0x3F80], np.uint16)
    streams = [s.copy() for s in codec("strides").encode(w0 + np.uint16(17), w0)]
    assert streams[-1].size == 1
    streams[-1][0] |= 0x80
    with pytest.raises(FormatError, match="padding"):
        stored("strides", streams, w0, 1, 2)


@settings(max_examples=200)
@given(data=st.data(), itemsize=st.sampled_from([2, 4]))
def test_hostile_strides_decode_or_are_refused(data: st.DataObject, itemsize: int) -> None:
    """Any bytes of the sizes that the reader asks for."""
    w0, coded = data.draw(any_bits(itemsize)), codec("strides")
    size, streams = coded.sizer(w0.size, itemsize, w0), list[NDArray[np.uint8]]()
    bounds = coded.sizes(w0.size, itemsize)
    try:
        for bound in bounds:
            n = size(streams)
            assert 0 <= n <= bound
            likely = st.integers(0, 2 * 103 + 1) if streams else st.integers(7, 31)
            streams.append(data.draw(arrays(np.uint8, n, elements=likely | st.integers(0, 255))))
        assert coded.decode(streams, w0.size, itemsize, w0).shape == w0.shape
    except FormatError:
        pass
