"""What breaks stores beyond `forge`: zstd frames made by hand, and the proof of a refusal."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

import taskstore
from taskstore.errors import FormatError
from taskstore.store.verify import verify
from tests.support import forge
from tests.support.forge import Document

W = "layers.0.attn.weight"  # 33 x 31 BF16 of 256 a chunk: a mask is 3 streams of 32 and one of 32
MASKS = "tasks/alpha/masks.safetensors"
MAGIC = bytes.fromhex("28b52ffd")
RAW, REPEATED = 0, 1


def refused(store: Path, message: str, *, whole: bool = True) -> None:
    """By `state_dict` and by `unpack`, with little memory and nothing written.

    `whole`: deep verification lives through it and tells. Without it, only unpacking must refuse.
    """
    target = store.parent / "out"

    def unpack() -> None:
        taskstore.open(store).unpack("alpha", target)

    def read() -> None:
        taskstore.open(store).state_dict("alpha")

    tracemalloc.start()
    try:
        for attempt in (read, unpack) if whole else (unpack,):
            with pytest.raises(FormatError, match=message) as caught:
                attempt()
            one_line(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    left = {path.name for path in store.parent.iterdir()}
    assert left == {store.name}
    if whole:
        assert told(store)


def one_line(error: Exception, *words: str) -> None:
    """The message is one line of good text that holds these words."""
    message = str(error)
    assert "\n" not in message
    assert message.encode()
    assert all(word in message for word in words)


def told(store: Path) -> bool:
    """Deep verification reports it, unless opening refuses it already."""
    try:
        return not verify(taskstore.open(store), deep=True).ok
    except FormatError:
        return True


def entry(document: Document, name: str = W, task: str = "alpha") -> Document:
    """A tensor of a task in the manifest."""
    found: Document = document["tasks"][task]["tensors"][name]
    return found


def replaced(name: str, **members: object) -> Callable[[Path], None]:
    """Make a masked tensor of `alpha` something else, and take its mask out of the container."""

    def change(store: Path) -> None:
        document = forge.load(store)
        old = entry(document, name)
        digest = old["blake3"] if members["kind"] != "base" else document["tensors"][name]["blake3"]
        old.clear()
        old.update({"blake3": digest, **members})
        forge.seal(store, document)
        masks = forge.sections(store, MASKS)
        del masks[name]
        forge.replace_file(store, MASKS, forge.container(masks))

    return change


def block(kind: int, size: int, content: bytes, *, last: bool = True) -> bytes:
    """One zstd block: `content` as it is, or one byte of it `size` times."""
    return (last | kind << 1 | size << 3).to_bytes(3, "little") + content


def header(declared: int | None, *, window: int | None = None, flags: int = 0) -> bytes:
    """A frame's header; `declared` None leaves the content size out."""
    if declared is None:
        return MAGIC + bytes([flags, 0 if window is None else window])
    size = declared.to_bytes(8, "little")
    if window is not None:
        return MAGIC + bytes([0xC0 | flags, window]) + size
    return MAGIC + bytes([0xE0 | flags]) + size
