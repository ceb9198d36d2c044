"""JSON that nobody vouches for is refused by its size before it is parsed, in one line."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

import taskstore
from taskstore.errors import FormatError, InputError
from taskstore.format import json_text, manifest
from tests.support.broken import one_line


@pytest.mark.parametrize(
    ("raw", "strict", "message"),
    [
        (b"[" * 200_000, False, "nested too deeply"),
        (b'{"a": ' * 200_000, True, "nested too deeply"),
        (b'{"a": {"b": 1, "b": 2}}', False, "a name stands twice"),
        (b'{"a": 1e999}', True, "1e999 is not a finite number"),
        (b'{"a": -Infinity}', True, "-Infinity is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", False, "4300 digits"),
        (b'{"a": "\\ud800"}', True, "control character"),
        (b'{"a\\u0000": 1}', True, "control character"),
        (b"\xff{}", False, "can't decode"),
        (b"", False, "Expecting value"),
        (b"{} {}", False, "Extra data"),
    ],
)
def test_what_is_refused(raw: bytes, strict: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        json_text.parse(raw, strict=strict)
    one_line(caught.value)


def test_what_hugging_face_writes_is_read() -> None:
    assert json_text.parse(b'{"a": Infinity, "b": [1e400], "c": null}')["b"] == [float("inf")]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("value", [b"0,", b"[],", b'{"a":1},'], ids=["number", "list", "object"])
def test_a_list_out_of_proportion_is_refused_before_it_is_parsed(
    packed: Path, tmp_path: Path, value: bytes
) -> None:
    raw = b'{"format": "taskstore", "version": 1, "x": [' + value * (6 << 20) + b"0]}"
    (tmp_path / "taskstore.json").write_bytes(raw)
    del raw
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="more than 4194304 values"):
            taskstore.open(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2 * (tmp_path / "taskstore.json").stat().st_size
    finally:
        tracemalloc.stop()


def test_no_manifest_is_written_that_none_reads(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = taskstore.open(packed).manifest
    assert manifest.from_bytes(manifest.to_bytes(known)) == known
    with monkeypatch.context() as patch:
        patch.setattr(json_text, "MAX_VALUES", 20)
        with pytest.raises(InputError, match="too many tensors for one store"):
            manifest.to_bytes(known)
    monkeypatch.setattr(manifest, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="too many tensors for one store"):
        manifest.to_bytes(known)
