"""SPEC.md sections 2 to 4: one broken store per MUST about containers, sections and codecs."""

from __future__ import annotations

import json
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import zstandard
from safetensors.numpy import load_file

import taskstore
from taskstore.errors import FormatError
from taskstore.format.container import ContainerWriter
from taskstore.format.section import Layout, SectionWriter, encode
from tests.support import forge
from tests.support.families import CHUNK, SHAPES
from tests.support.forge import Document, container, section

MASKS = "tasks/alpha/masks.safetensors"
BASE = "base.safetensors"
W = "layers.0.attn.weight"  # 33 x 31 = 1023 elements: three chunks of 256 and one of 255
N = 1023


@pytest.fixture
def store(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "store"))


def refused(store: Path, message: str) -> None:
    """By rebuilding and by unpacking, with little memory and nothing written."""
    target = store.parent / "out"
    tracemalloc.start()
    for read in (
        lambda: taskstore.open(store).state_dict("alpha"),
        lambda: taskstore.open(store).unpack("alpha", target),
    ):
        with pytest.raises(FormatError, match=message):
            read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20
    assert not target.exists()


def test_stock_safetensors_opens_it(packed: Path) -> None:
    for path in packed.rglob("*.safetensors"):
        for name, raw in load_file(path).items():
            assert name in SHAPES
            assert raw.dtype == np.uint8
            assert raw.size % 64 == 0


def test_the_worked_example(tmp_path: Path) -> None:
    mask = np.zeros(10, np.bool_)
    mask[[0, 1, 3, 8]] = True
    layout = Layout("bits", 10, 1, 4096)
    with closing(ContainerWriter(tmp_path / "f", ["m"], layout.bound)) as file:
        writer = SectionWriter(file, "m", layout)
        writer.add(encode("bits", np.packbits(mask, bitorder="little")))
        writer.finish()
        file.finish()
    assert load_file(tmp_path / "f")["m"].tobytes() == b"\x02\0\0\0\x0b\x01" + bytes(58)
    assert (tmp_path / "f").read_bytes().index(b"\x0b\x01\0") % 64 == 4


def spoil(change: Callable[[Document], object]) -> Callable[[Path], bytes]:
    return lambda store: container(forge.sections(store, BASE), change=change)


def drop_to_u4(h: Document) -> None:
    h[W]["dtype"] = "F16"
    h[W]["shape"] = [h[W]["shape"][0] // 2]


def hole(h: Document) -> None:
    last = list(h)[-1]
    h[last]["data_offsets"] = [n + 64 for n in h[last]["data_offsets"]]


def overlap(h: Document) -> None:
    names = [n for n in h if n != "__metadata__"]
    h[names[1]]["data_offsets"] = h[names[0]]["data_offsets"]
    h[names[1]]["shape"] = h[names[0]]["shape"]


CONTAINERS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda s: b"", "truncated"),
    "header past the end": (lambda s: struct.pack("<Q", 5000) + b"{}", "truncated"),
    "header of 2^60 bytes": (lambda s: struct.pack("<Q", 1 << 60) + b"{}", "over 100 MB"),
    "header is a list": (lambda s: forge.join(b"[]", b""), "no JSON object"),
    "header is no JSON": (lambda s: forge.join(b"{,}", b""), "broken safetensors header"),
    "header nested deep": (lambda s: forge.join(b"[" * 10**5, b""), "broken safetensors header"),
    "a name twice": (lambda s: forge.join(b'{"a": 1, "a": 2}', b""), "stands twice"),
    "no offsets": (lambda s: forge.join(b'{"a": {"dtype": "U8"}}', b""), "incompletely"),
    "negative offset": (
        spoil(lambda h: h[W].update(data_offsets=[-64, 64])), "impossible shape or offset"),
    "a shape of floats": (spoil(lambda h: h[W].update(shape=[1.5])), "impossible shape"),
    "wrong dtype": (spoil(drop_to_u4), "of dtype 'F16'"),
    "two dimensions": (
        spoil(lambda h: h[W].update(shape=[h[W]["shape"][0] // 64, 64])), "not aligned to 64"),
    "shape against bytes": (spoil(lambda h: h[W].update(shape=[64])), "where U8 needs 64"),
    "hole": (spoil(hole), "truncated|hole"),
    "overlap": (spoil(overlap), "hole or an overlap"),
    "another's metadata": (
        lambda s: container(forge.sections(s, BASE), metadata={"format": "pt"}), "not a container"),
    "bytes at the end": (
        lambda s: container(forge.sections(s, BASE), tail=bytes(64)), "belong to no tensor"),
    "section of 65 bytes": (
        lambda s: container({**forge.sections(s, BASE), W: bytes(65)}), "not aligned|hole"),
    "a stranger": (
        lambda s: container({**forge.sections(s, BASE), "x": b""}), "'x', which does not belong"),
    "a section missing": (
        lambda s: container({n: r for n, r in forge.sections(s, BASE).items() if n != W}),
        f"lacks section '{W}'"),
    "data not at 64": (
        lambda s: struct.pack("<Q", 2) + b"{}" , "not a container"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(store: Path, name: str) -> None:
    make, message = CONTAINERS[name]
    forge.replace_file(store, BASE, make(store))
    refused(store, message)


def test_a_section_in_two_shards(store: Path) -> None:
    raw = (store / BASE).read_bytes()
    (store / BASE).unlink()
    forge.edit(store, lambda d: d["files"].pop(BASE))
    for i in (1, 2):
        forge.replace_file(store, f"base-0000{i}-of-00002.safetensors", raw)
    refused(store, "repeats")


def frame(raw: bytes, write_content_size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_content_size=write_content_size).compress(raw)


BOMB = frame(bytes(1 << 30))
GOOD = [0, 0, 0, 0]  # four chunks of a mask, all zero
FULL = b"\xff" * 32
SECTIONS: dict[str, tuple[bytes, str]] = {
    "shorter than its table": (b"", "shorter than its table"),
    "lengths past the end": (section([32, 32, 32, 400], bytes(100)), "does not add up"),
    "lengths too short": (section([1, 0, 0, 0], bytes(128)), "does not add up"),
    "huge lengths": (section([0xFFFFFFFF] * 4, bytes(64)), "does not add up"),
    "a stream longer than its chunk": (section([33, 0, 0, 0], bytes(33)), "in more bytes than"),
    "the last stream too long": (section([0, 0, 0, 33], bytes(33)), "in more bytes than"),
    "padding": (section(GOOD, b"", padding=b"\0" * 47 + b"\1"), "bytes in its padding"),
    "no frame": (section([8, 0, 0, 0], b"notzstd!"), "frame of 8 bytes is broken"),
    "a bomb": (section([20, 0, 0, 0], BOMB[:20]), "declares 1073741824 bytes where 32 belong"),
    "no declared size": (
        section([len(f := frame(bytes(32), write_content_size=False)), 0, 0, 0], f), "declares"),
    "another declared size": (
        section([len(g := frame(bytes(31))), 0, 0, 0], g), "declares 31 bytes where 32 belong"),
    "bytes after the frame": (
        section([len(h := frame(bytes(32)) + b"\1"), 0, 0, 0], h), "chunk 0"),
    "a cut frame": (
        section([len(k := frame(bytes(range(16)) * 2)[:-2]), 0, 0, 0], k), "chunk 0"),
    "ones in the padding of a mask": (
        section([0, 0, 0, 32], FULL), "1023|ones in its padding"),
}  # fmt: skip


@pytest.mark.parametrize("name", SECTIONS)
def test_sections(store: Path, name: str) -> None:
    raw, message = SECTIONS[name]
    assert (N, CHUNK) == (1023, 256)
    forge.put_section(store, MASKS, W, raw)
    refused(store, message)


def test_files(store: Path) -> None:
    raw = (store / MASKS).read_bytes()
    (store / MASKS).write_bytes(raw[:-64])
    refused(store, "masks.safetensors has .* bytes where the manifest records")
    (store / MASKS).unlink()
    refused(store, "cannot be opened|is missing")


def test_a_hash_that_is_not_the_files(store: Path) -> None:
    """state_dict checks tensors, unpack checks files too."""
    forge.edit(store, lambda d: d["files"][MASKS].update(blake3="0" * 64))
    with pytest.raises(FormatError, match="masks.safetensors is damaged"):
        taskstore.open(store).unpack("alpha", store.parent / "out")
    assert not (store.parent / "out").exists()


def test_rebuilt_bytes_that_are_others(store: Path) -> None:
    entry = {"blake3": "1" * 64}
    forge.edit(store, lambda d: d["tasks"]["alpha"]["tensors"][W].update(entry))
    refused(store, f"tensor '{W}' of task 'alpha' is damaged")
    assert json.loads((store / "taskstore.json").read_text())
