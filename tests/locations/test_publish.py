from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from taskstore.errors import OutputError, TargetExists
from taskstore.locations import mounts, publish


def foreign(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name != "mine"]


def test_it_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "store"
    with publish.folder(target) as folder:
        (folder / "mine").write_text("1")
        assert not target.exists()
        assert folder.name == ".store.partial"
    assert (target / "mine").read_text() == "1"
    assert [p.name for p in target.parent.iterdir()] == ["store"]


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), publish.folder(tmp_path / "store") as folder:
        (folder / "mine").write_text("1")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_renames_are_tried_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(partial: Path) -> None:
        assert partial.is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, "_check_renames", interrupted)
    with pytest.raises(KeyboardInterrupt), publish.folder(tmp_path / "store"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_is_kept_unless_told(tmp_path: Path) -> None:
    target = tmp_path / "store"
    target.mkdir()
    (target / "mine").write_text("old")
    with pytest.raises(TargetExists, match="overwrite=True"), publish.folder(target):
        pass
    with (
        pytest.raises(ZeroDivisionError),
        publish.folder(target, overwrite=True, foreign=foreign) as folder,
    ):
        (folder / "mine").write_text("new")
        raise ZeroDivisionError
    assert (target / "mine").read_text() == "old"
    with publish.folder(target, overwrite=True, foreign=foreign) as folder:
        (folder / "mine").write_text("new")
    assert (target / "mine").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_without_the_exchange_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "_exchange", lambda *_: False)
    target = tmp_path / "store"
    for text in ("old", "new"):
        with publish.folder(target, overwrite=True, foreign=foreign) as folder:
            (folder / "mine").write_text(text)
    assert (target / "mine").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_a_kill_between_the_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is `.NAME.replaced` then; whoever looks for it puts it back."""

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(publish, "_exchange", lambda *_: False)
    monkeypatch.setattr(publish, "mend", lambda _: None)  # which a killed process does not do
    target, aside = tmp_path / "store", tmp_path / ".store.replaced"
    with publish.folder(target) as folder:
        (folder / "mine").write_text("old")
    monkeypatch.setattr(mounts, "sync", kill)  # the first thing after both renames
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda a, b: kill() if b == target else rename(a, b))
    with pytest.raises(Killed), publish.folder(target, overwrite=True, foreign=foreign) as folder:
        (folder / "mine").write_text("new")
    monkeypatch.undo()
    assert not target.exists()
    assert (aside / "mine").exists()
    publish.recover(target / "mine")
    assert (target / "mine").read_text() == "old"
    with pytest.raises(TargetExists), publish.folder(target):
        pass
    os.rename(target, aside)
    with pytest.raises(TargetExists), publish.folder(target):
        pass
    with publish.folder(target, overwrite=True, foreign=foreign) as folder:
        (folder / "mine").write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_what_was_being_replaced_is_found_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("store")
    for below in ("link", "link/mine", "link/deep/mine"):
        aside = tmp_path / ".store.replaced"
        aside.mkdir()
        publish.recover(tmp_path / below)
        assert [p.name for p in sorted(tmp_path.iterdir())] == ["link", "store"]
        (tmp_path / "store").rmdir()


def test_a_parent_behind_a_link_is_that_of_where_it_leads(tmp_path: Path) -> None:
    """The system opens far/store for link/../store, so that is what is locked and written."""
    (tmp_path / "far" / "inside").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/inside")
    with publish.folder(tmp_path / "link" / ".." / "store") as folder:
        (folder / "mine").write_text("1")
        assert (tmp_path / "far" / ".store.lock").is_file()
    assert (tmp_path / "far" / "store" / "mine").is_file()
    assert not (tmp_path / "store").exists()


def test_a_folder_that_cannot_be_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    (tmp_path / ".a store.replaced").mkdir()
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OutputError, match="Read-only file system") as caught:
        publish.recover(tmp_path / "a store")
    way_out = f"mv '{tmp_path}/.a store.replaced' '{tmp_path}/a store'"
    assert str(caught.value).endswith(way_out)


def test_what_is_not_ours_is_never_replaced(tmp_path: Path) -> None:
    for name in ("folder", "link", "file"):
        target = tmp_path / name
        if name == "folder":
            target.mkdir()
            (target / "thesis.tex").write_text("x")
        elif name == "link":
            target.symlink_to(tmp_path / "folder")
        else:
            target.write_text("x")
        with (
            pytest.raises(OutputError, match="not something that taskstore wrote"),
            publish.folder(target, overwrite=True, foreign=foreign),
        ):
            pass
    assert (tmp_path / "folder" / "thesis.tex").exists()


def test_an_abandoned_partial_folder_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".store.partial"
    left.mkdir()
    (left / "half").write_text("x")
    with publish.folder(tmp_path / "store") as folder:
        assert list(folder.iterdir()) == []
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_two_writers_of_one_target(tmp_path: Path) -> None:
    with publish.folder(tmp_path / "store") as folder:
        (folder / "mine").write_text("first")
        with (
            pytest.raises(OutputError, match="being written by another taskstore"),
            publish.folder(tmp_path / "store"),
        ):
            pass
        assert (folder / "mine").exists()
    assert (tmp_path / "store" / "mine").read_text() == "first"


def test_files_that_come_while_it_is_written_are_kept(tmp_path: Path) -> None:
    """What may be replaced is looked at again before it is."""
    target = tmp_path / "store"
    with publish.folder(target) as folder:
        (folder / "mine").write_text("old")
    with (
        pytest.raises(OutputError, match="not something that taskstore wrote"),
        publish.folder(target, overwrite=True, foreign=foreign),
    ):
        (target / "mine").unlink()
        (target / "notes").write_text("x")
    assert [p.name for p in target.iterdir()] == ["notes"]
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="no space left on the disk of"),
        publish.folder(tmp_path / "store") as folder,
    ):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))
    assert list(tmp_path.iterdir()) == []


def test_space_is_checked_before_writing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="MiB are needed"):
        publish.check_space(tmp_path / "not" / "there", 1 << 60)


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    for make in (publish.folder, publish.file):
        with pytest.raises(OutputError, match="too long"), make(tmp_path / ("n" * 400)):
            pass


def test_a_target_without_a_name() -> None:
    with pytest.raises(OutputError, match="cannot be a target"):
        publish.check_target(Path("/"), overwrite=True)


def test_a_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    with publish.file(target) as path:
        path.write_text("new")
        assert path.name == ".file.partial"
        assert not target.exists()
    assert target.read_text() == "new"
    assert [p.name for p in target.parent.iterdir()] == ["file"]
    with pytest.raises(TargetExists), publish.file(target):
        pass
    with pytest.raises(OutputError, match="is not something"), publish.file(target, overwrite=True):
        pass
    with (
        pytest.raises(KeyboardInterrupt),
        publish.file(target, overwrite=True, ours=lambda _: True) as path,
    ):
        path.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "new"
    with publish.file(target, overwrite=True, ours=lambda _: True) as path:
        path.write_text("newer")
    assert target.read_text() == "newer"
    assert [p.name for p in target.parent.iterdir()] == ["file"]


def test_a_file_that_another_process_writes(tmp_path: Path) -> None:
    """One that an ended process has left is written anew; a link is never followed."""
    partial = tmp_path / ".file.partial"
    partial.write_text("left behind")
    with publish.file(tmp_path / "file") as path:
        assert path.read_text() == ""
        with (
            pytest.raises(OutputError, match="is being written by another taskstore"),
            publish.file(tmp_path / "file"),
        ):
            pass
        path.write_text("mine")
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / ".other.partial").symlink_to(tmp_path / "file")
    with publish.file(tmp_path / "other") as path:
        path.write_text("other")
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(OutputError, match="no space left"), publish.file(tmp_path / "full"):
        raise OSError(errno.ENOSPC, "no space")
    assert not (tmp_path / ".full.partial").exists()
