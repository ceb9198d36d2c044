"""SPEC.md section 3: frames made by hand from RFC 8878, those to read and those to refuse."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from taskstore.errors import FormatError
from taskstore.format.codecs import stream
from tests.support import broken, forge
from tests.support.broken import MASKS, RAW, REPEATED, W, block, header

SIZE = 32
BYTES = bytes(range(5))
SKIPPABLE = (0x184D2A50).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"skip"
GIB = 1 << 30

GOOD = {
    "a repeated byte": (header(SIZE) + block(REPEATED, SIZE, b"\x07"), b"\x07" * SIZE),
    "two blocks": (
        header(SIZE)
        + block(RAW, 5, BYTES, last=False)
        + block(REPEATED, SIZE - 5, b"\xff"),
        BYTES + b"\xff" * (SIZE - 5),
    ),
    "a window of 1 KiB": (
        header(SIZE, window=0) + block(REPEATED, SIZE, b"\x01"), b"\x01" * SIZE,
    ),
    "size in one byte": (
        broken.MAGIC + bytes([0x20, SIZE]) + block(REPEATED, SIZE, b"\x02"), b"\x02" * SIZE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_frames_of_any_writer(name: str) -> None:
    frame, plain = GOOD[name]
    assert len(frame) < SIZE
    assert stream.load(memoryview(frame), SIZE).tobytes() == plain


def test_lengths_tell_how_a_stream_is_stored() -> None:
    raw = broken.MAGIC + bytes(range(28))  # looks like a frame, is as long as the stream
    assert stream.load(memoryview(raw), SIZE).tobytes() == raw
    assert not stream.load(memoryview(b""), SIZE).any()
    with pytest.raises(FormatError, match="32 bytes is stored in 33"):
        stream.load(memoryview(raw + b"\0"), SIZE)
    for plain in (np.zeros(SIZE, np.uint8), np.full(SIZE, 3, np.uint8)):
        assert len(stream.store(plain)) < SIZE


BAD = {
    "yields less": (header(SIZE) + block(REPEATED, 31, b"\x01"), "of 17 bytes is broken"),
    "yields more": (header(SIZE) + block(REPEATED, 33, b"\x01"), "of 17 bytes is broken"),
    "yields nothing": (header(SIZE) + block(RAW, 0, b""), "is broken"),
    "declares 0": (header(0) + block(RAW, 0, b""), "declares 0 bytes where 32 belong"),
    "declares one less": (header(31) + block(REPEATED, 31, b"\1"), "declares 31 bytes where 32"),
    "declares no size": (header(None) + block(REPEATED, SIZE, b"\1"), "declares -1 bytes"),
    "declares 1 GiB": (header(GIB) + block(REPEATED, 1 << 17, b"\1"), "declares 1073741824"),
    "declares 2^63": (header(1 << 63) + block(REPEATED, SIZE, b"\1"), "declares|is broken"),
    "declares 32, holds 128 KiB": (header(SIZE) + block(REPEATED, 1 << 17, b"\1"), "is broken"),
    "no last block": (header(SIZE) + block(REPEATED, SIZE, b"\1", last=False), "is broken"),
    "reserved block": (header(SIZE) + block(3, SIZE, b"\1"), "is broken"),
    "cut in its header": (header(SIZE)[:7], "is broken"),
    "cut in its block": (header(SIZE) + block(REPEATED, SIZE, b""), "is broken"),
    "one byte after it": (header(SIZE) + block(REPEATED, SIZE, b"\1") + b"\0", "is broken"),
    "an empty frame after it": (
        header(SIZE) + block(REPEATED, SIZE, b"\1") + b"\x28\xb5\x2f\xfd\x20\0\1\0\0", "is broken"),
    "skippable frame before it": (
        SKIPPABLE + header(SIZE) + block(REPEATED, SIZE, b"\1"), "declares|is broken"),
    "skippable frame alone": (SKIPPABLE, "declares|is broken"),
    "asks for a dictionary": (
        broken.MAGIC + bytes([0x21, 7, SIZE]) + block(REPEATED, SIZE, b"\1"), "is broken"),
    "wrong checksum": (
        header(SIZE, flags=4) + block(REPEATED, SIZE, b"\1") + b"abcd", "is broken"),
    "another magic": (b"\x28\xb5\x2f\xfc" + bytes(8), "is broken"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused(packed: Path, tmp_path: Path, name: str) -> None:
    frame, message = BAD[name]
    assert len(frame) < SIZE
    store = Path(shutil.copytree(packed, tmp_path / "store"))
    forge.put_section(store, MASKS, W, forge.section([len(frame), 0, 0, 0], frame))
    broken.refused(store, rf"section '{W}', chunk 0: a zstd frame.*({message})")


LIMITED = """
import resource, sys
import taskstore
from taskstore.errors import FormatError
from taskstore.format.codecs import stream
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
for frame in map(bytes.fromhex, sys.argv[1:]):
    try:
        stream.load(memoryview(frame), 1 << 18)
    except FormatError:
        print("refused")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_bombs_cost_no_memory() -> None:
    """64 MiB of address space are enough to refuse frames that announce a GiB and more."""
    many = b"".join(block(REPEATED, 1 << 17, b"\1", last=False) for _ in range(1 << 13))
    bombs = [
        header(GIB) + block(REPEATED, 1 << 17, b"\1"),
        header(1 << 18) + many,
        header(1 << 18, window=0xF8) + block(REPEATED, 1 << 18, b"\1"),
        header(None, window=0xF8) + block(REPEATED, 1 << 17, b"\1"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *(bomb.hex() for bomb in bombs)],
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["refused"] * len(bombs)
