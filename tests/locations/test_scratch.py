from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from taskstore.errors import OutputError
from taskstore.locations import publish
from taskstore.locations.scratch import scratch


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_lies_beside_the_target_and_is_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), scratch(tmp_path / "store") as folder:
        assert folder.parent.parent == tmp_path
        assert list(folder.iterdir()) == []
        assert folder.parent.name.startswith(".store.scratch-")
        (folder / "file").write_text("x")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_the_next_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    with scratch(tmp_path / "store") as used, scratch(tmp_path / "other") as other:
        left = tmp_path / ".store.scratch-left"
        left.mkdir()
        (left / "model").write_text("x")
        (left / ".lock").write_text("17 elsewhere\n")
        with scratch(tmp_path / "store") as second:
            assert names(tmp_path) == sorted(f.parent.name for f in (used, other, second))
        left.mkdir()
        with publish.folder(tmp_path / "store"):
            assert not left.exists()
        assert used.exists()
    assert names(tmp_path) == ["store"]


def test_a_link_is_not_swept(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / ".store.scratch-x").symlink_to(tmp_path / "precious")
    with scratch(tmp_path / "store"):
        pass
    assert names(tmp_path) == [".store.scratch-x", "precious"]


def test_a_place_of_the_users(tmp_path: Path) -> None:
    with scratch(tmp_path / "store", tmp_path / "disk") as folder:
        assert folder.parent.parent == tmp_path / "disk"
    assert names(tmp_path / "disk") == []


def test_small_files_go_to_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the target where that is missing, or full."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for there in (False, True):
        if there:
            (tmp_path / "tmp").mkdir()
        with scratch(tmp_path / "deep" / "store", small=True) as folder:
            assert folder.parent.parent == tmp_path / ("tmp" if there else "deep")
    monkeypatch.setattr("taskstore.locations.scratch._ROOM", 1 << 70)
    with (
        pytest.raises(OutputError, match="name one that can be written in TMPDIR"),
        scratch(tmp_path / "store", small=True),
    ):
        pass


def test_no_temporary_folder_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with scratch(tmp_path / "store", small=True) as folder:
        assert folder.parent.parent == tmp_path


def test_a_disk_without_room_for_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match="no space left"), scratch(tmp_path / "store", tmp_path):
        pass
    with pytest.raises(OutputError, match="no space left"), publish.alone(tmp_path / "store"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="no space left on the disk"),
        scratch(tmp_path / "s") as folder,
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    assert names(tmp_path) == []
