"""`deltas`: any weights come back, any streams decode or are refused, and SPEC.md is right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from taskstore.errors import FormatError
from taskstore.format.codecs import codec
from taskstore.format.codecs.deltas import HEAD, Deltas, Head
from taskstore.format.section import encode
from tests.format.test_codecs_strides import any_bits, pair_of_any, tuned
from tests.support.coded import SIZES, Bits, back, stored

ITEMSIZES = pytest.mark.parametrize("itemsize", [2, 4])


@ITEMSIZES
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("step", [0.0, 1e-5, 1e-3, 10.0])
def test_deltas_gives_weights_back(n: int, itemsize: int, step: float) -> None:
    w0, w = tuned(n, itemsize, n, step)
    assert (back("deltas", w, w0, n, itemsize) == w).all()
    assert (back("deltas", w0, w, n, itemsize) == w0).all()


@ITEMSIZES
@given(data=st.data())
def test_deltas_gives_any_bits_back(itemsize: int, data: st.DataObject) -> None:
    w0 = data.draw(any_bits(itemsize))
    w = data.draw(arrays(w0.dtype, w0.shape) | st.permutations(w0.tolist()).map(np.array))
    w = w.astype(w0.dtype)
    for low in (0, 5, 8 * itemsize - 3):  # low bits that no weight uses
        high = w0.dtype.type((1 << 8 * itemsize) - (1 << low))
        assert (back("deltas", w & high, w0 & high, w0.size, itemsize) == w & high).all()


@ITEMSIZES
def test_every_pair_of_sizes_and_signs(itemsize: int) -> None:
    """Random bits of full chunks: all exponents beside all exponents."""
    w0, w = pair_of_any(1 << 18, itemsize)
    assert (back("deltas", w, w0, w.size, itemsize) == w).all()


@ITEMSIZES
@given(data=st.data())
@settings(max_examples=30)
def test_rows_and_columns_may_begin_anywhere(itemsize: int, data: st.DataObject) -> None:
    columns = data.draw(st.integers(20, 90))
    first, n = data.draw(st.integers(0, columns - 1)), data.draw(st.integers(2000, 6000))
    w0, w = tuned(n, itemsize, columns)
    coded = Deltas(columns, first).encode(w, w0)
    head = Head(*HEAD.unpack(coded[0].tobytes()))
    assert (head.columns, head.first) == (columns, first)
    assert coded[1].size == columns + -(-(first + n) // columns)
    assert (stored("deltas", coded, w0, n, itemsize) == w).all()


@ITEMSIZES
@pytest.mark.parametrize("first", [0, 1, 8, 511, 512, 700, 5000])
def test_the_first_elements_are_decoded_alone(itemsize: int, first: int) -> None:
    w0, w = tuned(5000, itemsize, 3)
    coded = Deltas(50, 20).encode(w, w0)
    assert (Deltas().head(coded, 5000, w0[:first]) == w[:first]).all()


def test_few_elements_do_not_pay_for_rows_and_columns() -> None:
    w0, w = tuned(300, 2, 1)
    coded = Deltas(90, 70).encode(w, w0)
    assert coded[1].size == 0 and (stored("deltas", coded, w0, 300, 2) == w).all()


def as_specified(streams: list[Bits], w0_N: Bits, b: int) -> list[int]:
    """SPEC.md, word for word, in plain Python."""
    m, u, g, f, columns, first, *_ = HEAD.unpack(streams[0].tobytes())
    scales, tables = streams[1].tolist(), streams[2].tolist()
    below, n = (1 << 8 * b - 1) - 1, w0_N.size
    p: int = m - u

    def log2(x: int) -> int:
        return x.bit_length() - 1 if x else -(10**9)

    def units(t: int, v: int) -> int:
        e = max(t >> p, 1)
        a = t - ((e - 1) << p)
        return a << e - v if e >= v else a >> v - e

    count, edges = tables[0], tables[1 : 1 + tables[0]]
    at, symbols = 1 + count, []
    for _ in range(count):
        x, y = tables[at : at + 2]
        codes = [0] * 256
        for s in range(x, y + 1):
            codes[s] = (tables[at + 2 + s - x] + (codes[s - 2] if s - 2 >= x else 0)) % 256
        at += 3 + y - x
        weights = [(2 + (c - 1) % 2) << (c - 1) // 2 if c else 0 for c in codes]
        whole, total = 2048 - sum(w > 0 for w in weights), sum(weights)
        before, begin, of_x = 0, 0, []
        for s, w in enumerate(weights):
            share = 1 + (before + w) * whole // total - before * whole // total if w else 0
            of_x += [(s, share, begin)] * share
            before, begin = before + w, begin + share
        assert begin == len(of_x) == 2048
        symbols.append(of_x)
    assert at == len(tables)
    states = [(x + (1 << 16)) % (1 << 32) for x in streams[3][:32].copy().view("<u4").tolist()]
    words = iter(streams[3][32:].copy().view("<u2").tolist())
    number, bit, found = int.from_bytes(streams[4].tobytes(), "little"), 0, []
    for i, w0 in enumerate(w0_N.tolist()):
        t0, sign = (w0 & below) >> u, w0 & below + 1
        scale = 2 * (max(t0 >> p, g) - g)
        if columns:
            row, column = divmod(first + i, columns)
            scale += scales[row] + scales[-columns:][column]
        context = next(c for c, edge in enumerate(edges) if edge <= min(255, scale))
        x = states[i % 8]
        s, h, begin = symbols[context][x % 2048]
        x = h * (x >> 11) + x % 2048 - begin
        states[i % 8] = x if x >= 1 << 16 else (x << 16) + next(words)
        v = max(max(t0 >> p, g) - 3, 1)
        base = units(t0, v)

        def plain(bits: int) -> int:
            nonlocal bit
            bit += bits
            return number >> bit - bits & (1 << bits) - 1

        if s >= 240:
            turned, t = s % 2 == 1, 0
            if s < 252:
                t = (v - 1 - (s - 240 >> 1) << p) + plain(p)
            whole_w = plain(8 * b) if s >= 254 else None
        else:
            whole_w, q = None, s >> 1
            r = max(q >> f, 1) - 1
            octave = q - (r << f) << r
            low = base + octave if s % 2 == 0 else base - octave - (1 << r)
            high = low + (1 << r) - 1
            if low < 0 <= high:
                place = low + plain(r)
                size, turned = (place, False) if place >= 0 else (-1 - place, True)
            else:
                least, turned = (low, False) if low >= 0 else (-1 - high, True)
                k = min(r, max(0, log2(least) - p))
                size = (-(-least >> k) << k) + (plain(r - k) << k)
            z = log2(size)
            t = size if size < 1 << p else (v + z - p << p) + (size >> z - p) - (1 << p)
        t &= below >> u
        w = whole_w if whole_w is not None else t << u | (sign ^ (below + 1 if turned else 0))
        found.append(w)
    assert states == [1 << 16] * 8 and next(words, None) is None
    assert number >> bit == 0 and streams[4].size == -(-bit // 8) and n == len(found)
    return found


@pytest.mark.parametrize(("itemsize", "low"), [(2, 0), (2, 3), (4, 0), (4, 9)])
@pytest.mark.parametrize("columns", [0, 50])
def test_the_specification_says_how_deltas_decodes(itemsize: int, low: int, columns: int) -> None:
    w0, w = tuned(5000, itemsize, low)
    w0[:200], w[100:300] = (x[:200] for x in pair_of_any(5000, itemsize))
    w[300:320], w0[310:330] = 0, 0
    w0, w = (x >> low << low for x in (w0, w))
    streams = Deltas(columns).encode(w, w0)
    assert streams[0].tolist()[1] == low and bool(streams[1].size) == bool(columns)
    assert streams[2][0] > 1
    assert as_specified(streams, w0, itemsize) == w.tolist()


def test_deltas_by_hand() -> None:
    """1.0 grows by an ulp, 8 units, and shrinks by half of one; 0.0 stays, 1.0 loses four octaves.

    No step is usual, so the unit of 0.0 is an eighth of the ulp of 1/128.
    """
    w0 = np.array([0x3F80, 0x3F80, 0x0000, 0x3F80], np.uint16)
    w = np.array([0x3F81, 0x3F7F, 0x0000, 0x3D83], np.uint16)
    head, scales, tables, coded, plain = Deltas().encode(w, w0)
    g, places = head.tolist()[2], [8, -4, 0]
    assert head.tolist()[:4] == [7, 0, g, 2] and scales.size == 0
    q = [place if place >= 0 else -1 - place for place in places]
    assert q == [8, 3, 0]
    # 8 is 4 << 1: r = 1, q = 4 + (1 << 2); -4 is odd, with q 3; 0x3D is 4 octaves below 0x3F8
    symbols = [2 * 8, 2 * 3 + 1, 2 * 0, 240 + 2 * 0]
    assert as_specified([head, scales, tables, coded, plain], w0, 2) == w.tolist()
    assert set(symbols) <= set(range(256))


def test_the_writer_chooses_what_the_dtype_needs() -> None:
    w0, w = tuned(1 << 16, 4, 0)
    halves = [x.view(np.float32).astype(np.float16).view(np.uint16) for x in (w0, w)]
    whole = [(x & np.uint32(0xFFFF0000)) for x in (w0, w)]
    assert codec("deltas").encode(w, w0)[0].tolist()[:2] == [23, 0]
    assert codec("deltas").encode(halves[1], halves[0])[0].tolist()[:2] == [10, 0]
    assert codec("deltas").encode(whole[1], whole[0])[0].tolist()[:2] == [23, 16]
    wide, narrow = (
        encode("deltas", b, a) for a, b in (whole, [(x >> 16).astype(np.uint16) for x in whole])
    )
    assert abs(sum(map(len, wide)) - sum(map(len, narrow))) < 64


def test_deltas_beats_strides_and_steps() -> None:
    w0, w = tuned(1 << 17, 2, 0)
    sizes = {name: sum(map(len, encode(name, w, w0))) for name in ("deltas", "strides", "steps")}
    assert sizes["deltas"] < sizes["strides"] < sizes["steps"]


def test_codes_of_rows_and_columns_pay() -> None:
    w0, _ = tuned(1 << 16, 4, 0)
    rng = np.random.default_rng(1)
    step = rng.standard_normal((256, 256)) * 2.0 ** rng.uniform(-12, -6, (256, 1))
    w = (w0.view(np.float32) + step.reshape(-1).astype(np.float32)).view(np.uint32)
    with_codes, without = (
        sum(
            map(
                len,
                Deltas(columns).encode((w >> 16).astype(np.uint16), (w0 >> 16).astype(np.uint16)),
            )
        )
        for columns in (256, 0)
    )
    assert with_codes < 0.95 * without


@ITEMSIZES
@pytest.mark.parametrize(
    ("stream", "at", "value", "told"),
    [
        (0, 0, 8, "head"), (0, 1, 24, "head"), (0, 2, 0, "head"), (0, 3, 4, "head"),
        (0, 4, 255, "head"), (0, 8, 1, "head"), (0, 15, 255, "head"), (0, 19, 255, "head"),
        (0, 23, 255, "head"), (2, 0, 0, "tables"), (2, 0, 17, "tables"), (2, 1, 255, "tables"),
        (2, 3, 255, "tables"), (3, 0, 171, "does not end"), (3, 3, 171, "does not end"),
        (4, -1, 255, "plain bits"),
    ],
)  # fmt: skip
def test_no_other_streams_are_taken(
    itemsize: int, stream: int, at: int, value: int, told: str
) -> None:
    w0, w = tuned(101, itemsize, 3)
    streams = [s.copy() for s in codec("deltas").encode(w, w0)]
    streams[stream][at] = value
    with pytest.raises(FormatError, match=told):
        stored("deltas", streams, w0, 101, itemsize)


@pytest.mark.parametrize(("words", "told"), [(-1, "does not end"), (1, "does not end")])
def test_words_are_all_there_and_used(words: int, told: str) -> None:
    w0, w = tuned(500, 2, 3)
    head, scales, tables, coded, plain = codec("deltas").encode(w, w0)
    fields = Head(*HEAD.unpack(head.tobytes()))
    head = np.frombuffer(HEAD.pack(*fields._replace(words=fields.words + words)), np.uint8)
    coded = coded[:-2] if words < 0 else np.append(coded, np.zeros(2, np.uint8))
    with pytest.raises(FormatError, match=told):
        stored("deltas", [head, scales, tables, coded, plain], w0, 500, 2)


def test_no_symbol_between_may_have_a_share() -> None:
    w0, w = tuned(500, 2, 3)
    streams = codec("deltas").encode(w, w0)
    tables = np.array([1, 0, 232, 232, 9], np.uint8)
    fields = Head(*HEAD.unpack(streams[0].tobytes()))._replace(tables=5)
    streams[0], streams[2] = np.frombuffer(HEAD.pack(*fields), np.uint8), tables
    with pytest.raises(FormatError, match="tables"):
        stored("deltas", streams, w0, 500, 2)


@ITEMSIZES
@given(data=st.data())
def test_hostile_deltas_decode_or_are_refused(data: st.DataObject, itemsize: int) -> None:
    """Any bytes in any stream, of the sizes that their head gives."""
    w0, coded = data.draw(any_bits(itemsize)), codec("deltas")
    w = data.draw(any_bits(itemsize, w0.size).map(lambda some: np.resize(some, w0.size)))
    streams = [s.copy() for s in coded.encode(w.astype(w0.dtype), w0)]
    for _ in range(data.draw(st.integers(1, 4))):
        stream = streams[data.draw(st.integers(0, 4))]
        if stream.size:
            stream[data.draw(st.integers(0, stream.size - 1))] = data.draw(st.integers(0, 255))
    size = coded.sizer(w0.size, itemsize, w0)
    try:
        for i in range(len(streams)):
            streams[i] = np.resize(streams[i], size(streams[:i]))
        found = coded.decode(streams, w0.size, itemsize, w0)
    except FormatError:
        return
    assert found.size == w0.size and found.dtype == w0.dtype
    assert as_specified(streams, w0, itemsize) == found.tolist()
