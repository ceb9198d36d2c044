"""Only regular files are opened, and never more read than they had."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from taskstore.errors import ChangedMeanwhile
from taskstore.locations import files


@pytest.fixture(params=["pipe", "socket", "folder", "/dev/zero"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of something that is no regular file."""
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    kind: str = request.param
    if kind == "pipe":
        os.mkfifo(kind)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(kind)
    elif kind == "folder":
        Path(kind).mkdir()
    return kind


@pytest.mark.timeout(20)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the socket
def test_what_is_no_file_is_refused_at_once(no_file: str, tmp_path: Path) -> None:
    for use in (
        lambda: files.LocalFile(no_file),
        lambda: files.read_regular(no_file, 1 << 20),
        lambda: files.copy_regular(no_file, tmp_path / "copy"),
    ):
        with pytest.raises(OSError, match=r"not a regular file|No such device"):
            use()
    assert not (tmp_path / "copy").exists()


def test_what_goes_while_a_folder_is_listed_is_left_out(tmp_path: Path) -> None:
    for name in ("first", "sub/file", "sub/deeper/file", "there/file", "there/gone"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    paths = files.below(tmp_path)
    assert next(paths) == tmp_path / "first"
    shutil.rmtree(tmp_path / "sub")
    (tmp_path / "there/gone").unlink()
    assert list(paths) == [tmp_path / "there/file"]
    assert list(files.below(tmp_path / "none")) == []


def test_a_file_that_goes_while_it_is_compared_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(b"seen")
    read = files.read_regular

    def late(path: Path, limit: int) -> bytes:
        path.unlink()
        return read(path, limit)

    monkeypatch.setattr(files, "read_regular", late)
    with pytest.raises(ChangedMeanwhile, match="changed by another writer"):
        files.LocalFolder(tmp_path).put_if_unchanged("f", b"new", b"seen")


def test_a_file_is_read_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345678")
    assert files.read_regular(path, 8) == b"12345678"
    files.copy_regular(path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"12345678"
    with pytest.raises(OSError, match="larger than 7 bytes"):
        files.read_regular(path, 7)
    for size in (7, 9):
        status = os.stat_result((0o100644, 1, 1, 1, 0, 0, size, 0, 0, 0))
        monkeypatch.setattr(os, "fstat", lambda _, status=status: status)
        with pytest.raises(OSError, match="changed while it was read"):
            files.read_regular(path, 100)
        monkeypatch.undo()
