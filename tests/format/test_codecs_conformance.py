"""What every codec must do. A new one is one entry of SAMPLES."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.format.codecs import CODECS, rounded
from taskstore.format.section import Layout, decode, encode
from taskstore.kernels import bits
from taskstore.native import levels
from tests.support.coded import back
from tests.support.native import at_level

Words = NDArray[Any]


def words(n: int, itemsize: int, seed: int) -> Words:
    """Any bit patterns."""
    raw = np.random.default_rng(seed).integers(0, 256, n * itemsize, np.uint8)
    return raw.view(f"<u{itemsize}")


def masks(n: int, itemsize: int, seed: int) -> Words:
    return bits.pack(np.random.default_rng(seed).random(n) < 0.3)


def bf16(n: int, itemsize: int, seed: int) -> Words:
    return words(n, 2, seed)


def finite(n: int, itemsize: int, seed: int) -> Words:
    values_N = np.random.default_rng(seed).standard_normal(n).astype(np.float32)
    return values_N.view(np.uint32)


def the_chunk(chunk_N: Words, given_N: Words | None, found_N: Words) -> bool:
    return np.array_equal(chunk_N, found_N)


def the_sum(chunk_N: Words, given_N: Words | None, found_N: Words) -> bool:
    assert given_N is not None
    return np.array_equal(rounded.values(chunk_N, given_N), found_N)


def near(chunk_N: Words, given_N: Words | None, found_N: Words) -> bool:
    value_N, back_N = chunk_N.view(np.float32), found_N.view(np.float32)
    return chunk_N.size < 64 or bool(
        np.square(value_N - back_N).sum() <= 0.3 * np.square(value_N).sum()
    )


@dataclass(frozen=True)
class Sample:
    """What a codec codes, what it is given, and what must come back, of some item sizes."""

    itemsizes: tuple[int, ...]
    chunk: Callable[[int, int, int], Words] = words
    given: Callable[[int, int, int], Words] | None = None
    right: Callable[[Words, Words | None, Words], bool] = the_chunk

    def make(self, n: int, itemsize: int, seed: int) -> tuple[Words, Words | None]:
        given_N = self.given(n, itemsize, seed + 1) if self.given else None
        return self.chunk(n, itemsize, seed), given_N


SAMPLES: Mapping[str, Sample] = {
    "bits": Sample((1,), masks),
    "planes": Sample((1, 2, 4, 8)),
    "rotated": Sample((2, 4)),
    "ulp": Sample((2, 4), given=words),
    "rounded": Sample((4,), bf16, words, the_sum),
    "steps": Sample((2,), given=words),
    "levels": Sample((4,), finite, right=near),
    "strides": Sample((2, 4), given=words),
    "guided": Sample((1,), masks, lambda n, itemsize, seed: words(n, 4, seed)),
    "chained": Sample((2,), given=lambda n, size, seed: words(2 * n, size, seed).reshape(2, n)),
    "sparse": Sample((2, 4), given=words),
    "deltas": Sample((2, 4), given=words),
    "factored": Sample((4,), finite, right=near),
    "low_rank": Sample((2, 4), given=words),
}
CASES = [(name, size) for name in CODECS for size in SAMPLES[name].itemsizes]
every = pytest.mark.parametrize(("name", "itemsize"), CASES)


@pytest.fixture(autouse=True, scope="module", params=levels.available())
def level(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test runs with the loops of every level that the processor has."""
    with at_level(request.param):
        yield


def test_every_codec_is_here() -> None:
    assert list(SAMPLES) == list(CODECS)


@every
@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 63, 64, 65, 255, 1024, 1025, 5000])
def test_what_is_coded_comes_back(name: str, itemsize: int, n: int) -> None:
    """Through stored streams of the sizes that were announced."""
    sample = SAMPLES[name]
    chunk_N, given_N = sample.make(n, itemsize, n)
    found_N = back(name, chunk_N, given_N, n, itemsize)  # type: ignore[arg-type]
    assert sample.right(chunk_N, given_N, found_N)
    assert found_N.dtype.kind == "u" and found_N.dtype.itemsize == itemsize
    layout = Layout(name, n, itemsize, max(1, n))
    assert len(layout.sizes(0)) == layout.streams


@every
@given(n=st.integers(0, 300), seed=st.integers(0, 2**32))
def test_any_chunk(name: str, itemsize: int, n: int, seed: int) -> None:
    sample = SAMPLES[name]
    chunk_N, given_N = sample.make(n, itemsize, seed)
    found_N = back(name, chunk_N, given_N, n, itemsize)  # type: ignore[arg-type]
    assert sample.right(chunk_N, given_N, found_N)


@every
def test_zeros(name: str, itemsize: int) -> None:
    """Whatever is given; where nothing is and nothing is to be kept, next to nothing is stored."""
    sample, n = SAMPLES[name], 1000
    chunk_N, given_N = sample.make(n, itemsize, 1)
    zeros_N = np.zeros_like(chunk_N)
    found_N = back(name, zeros_N, given_N, n, itemsize)  # type: ignore[arg-type]
    assert sample.right(zeros_N, given_N, found_N)
    nothing_N = None if given_N is None else np.zeros_like(given_N)
    assert sum(map(len, encode(name, zeros_N, nothing_N))) <= 64


@every
def test_what_is_given_stays_and_results_repeat(name: str, itemsize: int) -> None:
    """From several threads too."""
    chunk_N, given_N = SAMPLES[name].make(3000, itemsize, 2)
    before = [words_N.copy() for words_N in (chunk_N, given_N) if words_N is not None]
    first = encode(name, chunk_N, given_N)
    plain_N = decode(name, map(memoryview, first), 3000, itemsize, given_N).copy()

    def again(_: int) -> bool:
        streams = encode(name, chunk_N, given_N)
        found_N = decode(name, map(memoryview, streams), 3000, itemsize, given_N)
        return streams == first and np.array_equal(found_N, plain_N)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(again, range(12)))
    after = [words_N for words_N in (chunk_N, given_N) if words_N is not None]
    assert all(map(np.array_equal, before, after))


@every
@given(n=st.integers(0, 300), seed=st.integers(0, 2**32), data=st.data())
def test_hostile_streams_decode_or_are_refused(
    name: str, itemsize: int, n: int, seed: int, data: st.DataObject
) -> None:
    """Streams of noise, of the sizes that they announce: never over the bounds, nor another error.

    The first is often a real one, so that the others are reached.
    """
    coded, sample = CODECS[name], SAMPLES[name]
    chunk_N, given_N = sample.make(n, itemsize, seed)
    real, bounds = coded.encode(chunk_N, given_N), coded.sizes(n, itemsize)
    size, streams = coded.sizer(n, itemsize, given_N), list[Words]()
    kept = data.draw(st.integers(0, len(bounds)))
    rng = np.random.default_rng(seed)
    try:
        for i, bound in enumerate(bounds):
            length = size(streams)
            assert length <= bound
            noise = rng.integers(0, 256, length, np.uint8)
            streams.append(real[i] if i < kept else noise)
        found_N = coded.decode(streams, n, itemsize, given_N)
    except FormatError:
        return
    assert found_N.size == (bits.packed_size(n) if itemsize == 1 and name != "planes" else n)


@every
@given(seed=st.integers(0, 2**32), data=st.data())
def test_damaged_stored_streams_decode_or_are_refused(
    name: str, itemsize: int, seed: int, data: st.DataObject
) -> None:
    """A byte changed, streams cut short or too long: no other error."""
    chunk_N, given_N = SAMPLES[name].make(200, itemsize, seed)
    streams = encode(name, chunk_N, given_N)
    i = data.draw(st.integers(0, len(streams) - 1))
    kind = data.draw(st.sampled_from(["change", "cut", "extend"]))
    one = bytearray(streams[i])
    if kind == "extend":
        one += data.draw(st.binary(min_size=1, max_size=9))
    elif one:
        at = data.draw(st.integers(0, len(one) - 1))
        if kind == "cut":
            del one[at:]
        else:
            one[at] ^= data.draw(st.integers(1, 255))
    streams[i] = bytes(one)
    try:
        found_N = decode(name, map(memoryview, streams), 200, itemsize, given_N)
    except FormatError:
        return
    assert found_N.size in (200, bits.packed_size(200))
