"""Mask files as numpy saves them: what is in them, and what is refused unread."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from taskstore.errors import InputError
from taskstore.kernels import bits
from taskstore.packing.mask_files import npy, safe_pickle

MASKS = {
    "Cars": np.array([0x80, 0x01, 0xFF], np.uint8),
    "DTD": np.arange(300, dtype=np.uint16).astype(np.uint8),
    "MNIST": np.zeros(70_000, np.uint8),
}


def content(path: Path) -> dict[str, NDArray[np.uint8]]:
    return {name: np.array(mask.map()) for name, mask in npy.read(path).items()}


def equal(found: dict[str, NDArray[np.uint8]], expected: dict[str, NDArray[np.uint8]]) -> bool:
    return list(found) == list(expected) and all(
        np.array_equal(found[name], expected[name]) for name in expected
    )


def object_file(path: Path, pickle_: bytes) -> Path:
    """A .npy file of one object, with a pickle of one's own."""
    head = io.BytesIO()
    description = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(head, description)
    path.write_bytes(head.getvalue() + pickle_)
    return path


def wrapped(value: object) -> Any:
    """A 0-d array of one object, as numpy.save makes of anything that is no array."""
    array = np.empty((), object)
    array[()] = value
    return array


@given(st.data())
def test_ranges_of_bits(data: st.DataObject) -> None:
    packed_P = np.frombuffer(data.draw(st.binary(min_size=1, max_size=40)), np.uint8)
    start = data.draw(st.integers(0, 8 * packed_P.size))
    stop = data.draw(st.integers(start, 8 * packed_P.size))
    expected_N = np.unpackbits(packed_P)[start:stop].astype(bool)
    found_N = npy.bits(packed_P, start, stop)
    assert np.array_equal(found_N, expected_N)
    assert np.array_equal(bits.pack(found_N), np.packbits(expected_N, bitorder="little"))


def test_bits_by_hand() -> None:
    """0x4B, 0x80 is 01001011 10000000, the highest bit first."""
    packed_P = np.array([0x4B, 0x80], np.uint8)
    assert npy.bits(packed_P, 1, 9).tolist() == [bool(int(c)) for c in "10010111"]
    assert bits.pack(npy.bits(packed_P, 1, 9)).tolist() == [0b11101001]


def test_a_saved_dict(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.array(MASKS))
    assert equal(content(tmp_path / "m.npy"), MASKS)


@pytest.mark.parametrize("old", [False, True], ids=["new names", "old names"])
@pytest.mark.parametrize("protocol", [3, 4])
def test_pickles_of_other_numpys(tmp_path: Path, protocol: int, old: bool) -> None:
    """numpy 1 calls its module `core`, and saved with protocol 3."""
    text = pickle.dumps(wrapped(MASKS), protocol)
    if old and protocol == 3:
        assert b"cnumpy._core.multiarray\n" in text
        text = text.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")
    elif old:
        text = text.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
        assert b"_core" not in text
    assert equal(content(object_file(tmp_path / "m.npy", text)), MASKS)


def test_a_plain_array(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", MASKS["DTD"])
    assert equal(content(tmp_path / "m.npy"), {"": MASKS["DTD"]})


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), st.binary(), max_size=5))
def test_round_trip(tmp_path: Path, masks: dict[str, bytes]) -> None:
    arrays = {name: np.frombuffer(data, np.uint8) for name, data in masks.items()}
    np.save(tmp_path / "m.npy", np.array(arrays))
    found = npy.read(tmp_path / "m.npy")
    assert list(found) == list(arrays)
    raw = (tmp_path / "m.npy").read_bytes()
    assert [raw[m.start : m.start + m.size] for m in found.values()] == list(masks.values())


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("inside", [True, False])
def test_a_pickle_that_runs_a_command(tmp_path: Path, protocol: int, inside: bool) -> None:
    trace = tmp_path / "trace"
    value = wrapped({"Cars": MASKS["Cars"], "evil": Evil(trace)}) if inside else Evil(trace)
    text = pickle.dumps(value, protocol)
    path = object_file(tmp_path / "m.npy", text)
    with pytest.raises(InputError, match="nothing of it was run") as caught:
        npy.read(path)
    if protocol in (3, 4):  # of the others, numpy's own arrays are refused before it
        assert "system" in str(caught.value)
    assert not trace.exists()
    pickle.loads(text)
    assert trace.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (wrapped({"a": np.zeros(4, bool)}), "mask of 'a' is b1 of shape .4., where bits packed"),
        (wrapped({"a": np.zeros((2, 2), np.uint8)}), r"u1 of shape \[2, 2\]"),
        (wrapped({"a": [1, 2]}), "is no dict of arrays"),
        (wrapped({"a": b"1234"}), "is no dict of arrays"),
        (wrapped([np.zeros(4, np.uint8)]), "is no dict of arrays"),
        (wrapped({1: np.zeros(4, np.uint8)}), "has a name that is not text"),
        (np.array([{}, {}]), "is no dict of arrays"),
        ({"a": np.zeros(4, np.uint8)}, "is no dict of arrays"),
        (wrapped({"a": np.float64(3)}), "numpy._core.multiarray.scalar"),
        (wrapped({"a": {1, 2}}), "step"),
        (wrapped({"x" * 5000: np.zeros(4, np.uint8)}), "a name of 5000 bytes"),
    ],
)
def test_other_pickles(tmp_path: Path, value: object, message: str) -> None:
    path = object_file(tmp_path / "m.npy", pickle.dumps(value, 4))
    with pytest.raises(InputError, match=message):
        npy.read(path)


def test_a_name_that_is_there_twice(tmp_path: Path) -> None:
    text = pickle.dumps(wrapped({"aa": MASKS["Cars"], "bb": MASKS["Cars"]}), 4)
    path = object_file(tmp_path / "m.npy", text.replace(b"\x8c\x02bb", b"\x8c\x02aa"))
    with pytest.raises(InputError, match="names 'aa' twice"):
        npy.read(path)


def test_a_shape_that_claims_more_than_is_there(tmp_path: Path) -> None:
    text = pickle.dumps(wrapped({"a": np.zeros(200, np.uint8)}), 4)
    more = text.replace(b"K\xc8\x85", b"J\xff\xff\xff\x7f\x85")
    assert more != text
    with pytest.raises(InputError, match="other bytes for 'a' than its shape says"):
        npy.read(object_file(tmp_path / "m.npy", more))


@pytest.mark.parametrize(
    "text",
    [
        b"\x8e" + (1 << 62).to_bytes(8, "little") + b".",  # bytes of 2^62
        b"X\xff\xff\xff\xff.",  # text of 4 GB
        b"r\xff\xff\xff\x7f.",  # memo without a value
        b"j\xff\xff\xff\x7f.",  # memo that was never put
        b".", b"t.", b"(b.", b")R.", b"}]s.", b"}(Ku.", b"e", b"(.", b"\x85.", b"\x8c\x01\xff.",
        b"cnumpy", b"c" + b"x" * 9000 + b"\nndarray\n.", b"cnumpy\nndarray\n)b.", b"))\x93.",
    ],
)  # fmt: skip
def test_broken_pickles(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(InputError, match="its pickle"):
        npy.read(object_file(tmp_path / "m.npy", text))


def test_a_pickle_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many values as a file has bytes would take a hundred times its size."""
    monkeypatch.setattr(safe_pickle, "MAX_STEPS", 1000)
    with pytest.raises(InputError, match="more than 1000 parts"):
        npy.read(object_file(tmp_path / "m.npy", b"]" * 5000))


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte(tmp_path: Path, where: int, value: int) -> None:
    """Another mask, other names, or an InputError."""
    np.save(tmp_path / "m.npy", np.array({"Cars": MASKS["Cars"], "DTD": MASKS["DTD"]}))
    raw = bytearray((tmp_path / "m.npy").read_bytes())
    raw[where % len(raw)] = value
    (tmp_path / "m.npy").write_bytes(raw)
    with contextlib.suppress(InputError):
        found = content(tmp_path / "m.npy")
        assert sum(map(len, found.values())) <= len(raw)


@pytest.mark.parametrize("plain", [True, False])
def test_every_truncation(tmp_path: Path, plain: bool) -> None:
    np.save(tmp_path / "m.npy", np.array(MASKS["Cars"] if plain else {"Cars": MASKS["Cars"]}))
    raw = (tmp_path / "m.npy").read_bytes()
    for size in range(len(raw)):
        (tmp_path / "m.npy").write_bytes(raw[:size])
        with pytest.raises(InputError):
            npy.read(tmp_path / "m.npy")


@pytest.mark.parametrize(
    ("raw", "message"),
    [(b"", "no .npy file"), (b"PK\x03\x04", "no .npy file"), (b"\x93NUMPY\x09\x00", "no .npy")],
)
def test_other_files(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "m.npy").write_bytes(raw)
    with pytest.raises(InputError, match=message):
        npy.read(tmp_path / "m.npy")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        npy.read(tmp_path / "nowhere.npy")


def test_plain_arrays_of_other_kinds(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.zeros((3, 2), np.uint8))
    with pytest.raises(InputError, match=r"its array is u1 of shape \[3, 2\]"):
        npy.read(tmp_path / "m.npy")
    np.save(tmp_path / "m.npy", np.zeros(3, np.float32))
    with pytest.raises(InputError, match="its array is <f4"):
        npy.read(tmp_path / "m.npy")
