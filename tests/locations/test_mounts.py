from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import taskstore
from taskstore.errors import OutputError, TargetExists
from taskstore.format.manifest import Score
from taskstore.locations import locks, mounts, publish
from taskstore.packing import revise
from taskstore.packing.options import PackOptions
from taskstore.store.verify import verify
from tests.support import families


class Killed(BaseException):
    pass


def ours(folder: Path) -> list[str]:
    return []


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that behaves as a mount point does: it cannot be renamed."""
    folder, rename = tmp_path / "volume", os.rename
    folder.mkdir()

    def refusing(one: Any, other: Any) -> None:
        if folder in (Path(one), Path(other)):
            raise OSError(errno.EBUSY, "Device or resource busy", str(folder))
        rename(one, other)

    monkeypatch.setattr(os, "rename", refusing)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == folder)
    return folder


def write(target: Path, *names: str, text: str = "new") -> None:
    with publish.folder(target, overwrite=True, foreign=ours) as folder:
        (folder / "tasks").mkdir()
        for name in names:
            (folder / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


OLD = {"taskstore.json": "old", "base": "old", "tasks/a": "old", "tasks/b": "old"}
NEW = {"taskstore.json": "new", "base": "new", "tasks/b": "new", "README.md": "new"}


def test_an_empty_volume_is_filled_and_its_content_exchanged(volume: Path) -> None:
    (volume / "lost+found").mkdir()
    number = volume.stat().st_ino
    with publish.folder(volume) as folder:
        assert folder.parent == volume
        assert locks.lock_of(volume).parent == volume
        (folder / "base").write_text("old")
    assert content(volume) == {"base": "old"}
    with pytest.raises(TargetExists), publish.folder(volume):
        pass
    write(volume, *NEW)
    assert content(volume) == NEW
    assert volume.stat().st_ino == number
    assert (volume / "lost+found").is_dir()
    assert os.listdir(volume.parent) == ["volume"]


def test_what_fails_leaves_a_volume_as_it_was(volume: Path) -> None:
    with pytest.raises(KeyboardInterrupt), publish.folder(volume) as folder:
        (folder / "base").write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(volume) == []
    (volume / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="'thesis.tex'"), publish.folder(volume, overwrite=True):
        pass
    assert content(volume) == {"thesis.tex": "x"}


def test_a_volume_that_is_read_only(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = os.open

    def refusing(path: Any, flags: int, *mode: Any, **more: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system", os.fspath(path))
        return make(path, flags, *mode, **more)

    monkeypatch.setattr(os, "open", refusing)
    said = f"{volume} cannot be written: Read-only file system"
    with pytest.raises(OutputError, match=said), publish.folder(volume):
        pytest.fail("the work began")


def test_one_writer_of_a_volume_at_a_time(volume: Path) -> None:
    with publish.alone(volume):
        assert locks.attempt(volume / ".taskstore.lock") is None
    assert os.listdir(volume) == []


@pytest.mark.parametrize("what", ["ready", "moving"])
def test_a_folder_from_elsewhere_moves_nothing(volume: Path, tmp_path: Path, what: str) -> None:
    """A link of a writer's name is not gone on with, nor a folder of one where none can be."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("x")
    (volume / f".taskstore.{what}").symlink_to(tmp_path / "precious")
    (tmp_path / "model" / f".taskstore.{what}").mkdir(parents=True)
    (tmp_path / "model" / "weights").write_text("y")
    before = sorted(tmp_path.rglob("*"))
    for folder in (volume, tmp_path / "model"):
        publish.recover(folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_killed_at_every_change_of_a_volume(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for the folder next finds the old content or the new one, whole."""
    seen = []
    for last in range(1, 100):
        write(volume, *OLD, text="old")
        with monkeypatch.context() as patch, deadly(patch, last) as ended:
            write(volume, *NEW)
        publish.recover(volume / "taskstore.json")
        seen.append(content_without_ours(volume))
        assert seen[-1] in (OLD, NEW)
        write(volume, *NEW)
        assert content(volume) == NEW
        if not ended():
            break
    assert OLD in seen
    assert last > 15
    assert seen == sorted(seen, key=lambda found: found == NEW)


def content_without_ours(folder: Path) -> dict[str, str]:
    return {k: v for k, v in content(folder).items() if not k.startswith(".taskstore.")}


@contextmanager
def deadly(patch: pytest.MonkeyPatch, last: int) -> Iterator[Callable[[], bool]]:
    """Die before the n-th change of names; nothing is tidied up afterwards."""
    count = 0

    def before(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == last:
                raise Killed
            return call(*args, **options)

        return counted

    for name in ("rename", "mkdir", "rmdir", "fsync"):
        patch.setattr(os, name, before(getattr(os, name)))
    patch.setattr(shutil, "rmtree", before(shutil.rmtree))
    patch.setattr(publish, "mend", lambda _: None)
    with suppress(Killed):
        yield lambda: count >= last


def test_a_store_on_a_volume_is_changed_in_place(volume: Path, small: families.Family) -> None:
    names = sorted(small.paths)
    given = {name: small.paths[name] for name in names[:2]}
    options = PackOptions(tiers="mask,exact", jobs=1)
    taskstore.pack(small.base_path, given, volume, options)
    store = taskstore.open(volume, base=small.base_path)
    revise.add(store, {names[2]: small.paths[names[2]]})
    store = taskstore.open(volume, base=small.base_path)
    revise.record(store, "mine", {names[0]: Score(rebuilt=0.5)})
    store = taskstore.remove(taskstore.open(volume, base=small.base_path), [names[1]])
    revise.retier(store, PackOptions(tiers="exact", jobs=1))
    store = taskstore.open(volume, base=small.base_path)
    assert sorted(store.tasks) == [names[0], names[2]]
    assert verify(store, deep=True).ok
    with pytest.raises(TargetExists):
        taskstore.pack(small.base_path, given, volume, options)
    assert not [name for name in os.listdir(volume) if name.startswith(".")]
    assert os.listdir(volume.parent) == ["volume"]


def test_a_file_system_without_renames_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "rename", refuse)
    with (
        pytest.raises(OutputError, match="cannot rename folders .* write elsewhere and copy"),
        publish.folder(tmp_path / "store"),
    ):
        pytest.fail("the work began")
    assert os.listdir(tmp_path) == []


def test_a_folder_in_one_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who owns the folder alone needs no more than that."""
    target = tmp_path / "store"
    target.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    write(target, *OLD, text="old")
    write(target, *NEW)
    assert content(target) == NEW
    assert os.listdir(tmp_path) == ["store"]


def test_a_file_that_is_a_mount_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    path.write_text("")
    monkeypatch.setattr(os.path, "ismount", lambda place: Path(place) == path)
    with pytest.raises(OutputError, match="mount point and cannot be replaced"):
        publish.check_file(path, overwrite=True)


def test_an_empty_folder_is_a_free_name(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with publish.folder(tmp_path / "store") as folder:
        (folder / "mine").write_text("1")
    assert content(tmp_path / "store") == {"mine": "1"}
    assert os.listdir(tmp_path) == ["store"]


def test_a_mount_within_one_file_system(tmp_path: Path) -> None:
    """Which has no device number of its own."""
    one, other = tmp_path / "one", tmp_path / "an other"
    one.mkdir()
    other.mkdir()
    assert not mounts.is_mount(other)
    line = ["mount", "--bind", str(one), str(other)]
    try:
        if subprocess.run(line, capture_output=True, check=False).returncode:
            pytest.skip("nothing may be mounted here")
    except FileNotFoundError:
        pytest.skip("no mount command")
    try:
        assert mounts.is_mount(other)
        write(other, *OLD, text="old")
        write(other, *NEW)
        assert content(one) == NEW
    finally:
        subprocess.run(["umount", other], check=True)
