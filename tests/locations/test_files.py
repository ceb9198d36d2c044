"""A flush that fails in the background is never lost."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

import taskstore
from taskstore.errors import OutputError
from taskstore.locations import files
from tests.support.families import Family, options


def test_the_last_flush_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_flush", fail)
    with (tmp_path / "f").open("wb") as file:
        flusher = files.Flusher(file.fileno())
        flusher.written_to(files.STEP)
        with pytest.raises(OSError, match="Input/output"):
            flusher.close()


def fail(_: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_nothing_is_kept_of_what_did_not_reach_the_disk(
    small: Family, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_flush", fail)
    monkeypatch.setattr(files, "STEP", 64)
    with pytest.raises(OutputError, match="Input/output error"):
        taskstore.pack(small.base_path, small.paths, tmp_path / "s", options())
    with pytest.raises(OutputError, match="Input/output error"):
        taskstore.open(packed).unpack("alpha", tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
