"""Stores in a bucket, on a real server: packed there, changed there, read from there."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import taskstore
from taskstore.errors import ChangedMeanwhile, OptionError, OutputError, RemoteError, TargetExists
from taskstore.format.names import CARD, MANIFEST
from taskstore.locations.remote.addresses import Address
from taskstore.locations.remote.bucket import Bucket
from taskstore.packing import revise
from taskstore.packing.changes.options import AddOptions
from taskstore.packing.changes.tasks import copy, rename
from taskstore.packing.elsewhere import sending
from tests.support import evaluators, families
from tests.support.families import Family, contents
from tests.support.http_faults import Proxy, status
from tests.support.seaweed import BUCKET, SECRET, Seaweed

pytestmark = pytest.mark.xdist_group("s3")
EXACT = families.options(tiers="exact")


@pytest.fixture
def place(s3: Seaweed, tmp_path: Path) -> Bucket:
    return Bucket(Address("s3", BUCKET, f"stores/{tmp_path.name}"))


@pytest.fixture
def where(place: Bucket) -> str:
    return str(place.address)


@pytest.fixture
def two(small: Family, where: str) -> str:
    """A store of two exact tasks, and a third fine-tune to add."""
    first, second, _ = small.paths
    taskstore.pack(small.base_path, {n: small.paths[n] for n in (first, second)}, where, EXACT)
    return where


def third(small: Family) -> dict[str, Path]:
    return {list(small.paths)[2]: small.paths[list(small.paths)[2]]}


def unpacked(store: object, task: str | None, target: Path) -> dict[str, bytes]:
    return contents(taskstore.open(store).unpack(task, target))  # type: ignore[arg-type]


def test_a_store_in_a_bucket_is_the_local_one(
    small: Family, where: str, place: Bucket, tmp_path: Path
) -> None:
    """Its data files are a local pack's under names of their content; each task comes out alike."""
    taskstore.pack(small.base_path, small.paths, tmp_path / "local", EXACT)
    report = taskstore.pack(small.base_path, small.paths, where, EXACT)
    assert report.path == where
    local = taskstore.open(tmp_path / "local")
    away = taskstore.open(where)
    assert str(away.where) == where and away.tasks == local.tasks
    digests = [
        {file.blake3 for path, file in store.manifest.files.items() if path != CARD}
        for store in (local, away)
    ]
    assert digests[0] == digests[1]
    for task in (None, *local.tasks):
        name = task or "base"
        assert unpacked(where, task, tmp_path / f"a-{name}") == unpacked(
            tmp_path / "local", task, tmp_path / f"b-{name}"
        )
    report_of_verify = taskstore.verify(where, deep=True)
    assert report_of_verify.ok and not report_of_verify.unlisted
    assert {MANIFEST, CARD, *away.manifest.files} == {*place.names()}


def test_one_task_fetches_its_own_files_only(small: Family, two: str, s3: Seaweed, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    task = next(iter(small.paths))
    with Proxy(s3.port) as proxy:
        for name, value in s3.environment(proxy.port).items():
            monkeypatch.setenv(name, value)
        store = taskstore.open(two)
        store.unpack(task, tmp_path / "out")
        fetched = {line.split("/stores/", 1)[1].split("/", 1)[1] for line in proxy.seen}
        assert fetched == {MANIFEST, *store.files_of(None, task)}
        before = len(proxy.seen)
        store.unpack(task, tmp_path / "again")
        assert len(proxy.seen) == before


def test_every_change_is_one_of_the_manifest(small: Family, two: str, tmp_path: Path) -> None:
    """Who has the store open reads on, until `gc` is told that nobody does."""
    first, second, new = small.paths
    old = taskstore.open(two)
    assert revise.add(two, third(small), AddOptions(tiers="exact")).path == two
    rename(two, second, "other")
    taskstore.remove(two, [first])
    changed = taskstore.open(two)
    assert changed.tasks == sorted(["other", new])
    assert [change.what for change in changed.manifest.history or ()] == ["add", "rename", "remove"]
    assert unpacked(two, new, tmp_path / "n") == contents(small.paths[new])
    assert unpacked(two, "other", tmp_path / "o") == contents(small.paths[second])
    assert contents(old.unpack(first, tmp_path / "f")) == contents(small.paths[first])
    revise.replace_tasks(two, {"other": small.paths[first]}, AddOptions(tiers="exact"))
    assert unpacked(two, "other", tmp_path / "r") == contents(small.paths[first])
    assert taskstore.verify(two, deep=True).ok


def test_retier_in_its_place(small: Family, two: str) -> None:
    revise.retier(taskstore.open(two), families.options(tiers="mask"))
    store = taskstore.open(two)
    assert {tier for task in store.tasks for tier in store.tiers(task)} == {"mask"}
    assert taskstore.verify(two, deep=True).ok
    assert [change.what for change in store.manifest.history or ()] == ["retier"]


def test_a_store_that_is_there(small: Family, two: str, place: Bucket) -> None:
    with pytest.raises(TargetExists, match="exists already"):
        taskstore.pack(small.base_path, third(small), two, EXACT)
    taskstore.pack(
        small.base_path, third(small), two, families.options(tiers="exact", overwrite=True)
    )
    assert taskstore.open(two).tasks == list(third(small))
    place.put("notes.txt", b"a user's")
    with pytest.raises(OutputError, match=r"'notes.txt', which is no store's"):
        taskstore.pack(
            small.base_path, third(small), two, families.options(tiers="exact", overwrite=True)
        )


def test_two_that_add_lose_nothing(
    small: Family, two: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have read the same store when they begin to write."""
    meet, real, late = threading.Barrier(2), sending.put_store, threading.Lock()
    met = list[int]()

    def together(*given: object, **options: object) -> object:
        with late:
            first = len(met) < 2
            met.append(1)
        if first:
            meet.wait(60)
        return real(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("taskstore.packing.changes.commit.put_store", together)
    source = next(iter(third(small).values()))
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(revise.add, two, {name: source}, AddOptions(tiers="exact"))
            for name in ("one", "two")
        ]
        for run in runs:
            run.result(120)
    assert {"one", "two"} <= {*taskstore.open(two).tasks}
    assert taskstore.verify(two, deep=True).ok


def test_the_loser_of_two_writers_is_told(small: Family, two: str) -> None:
    first, second, _ = small.paths
    old = taskstore.open(two)
    taskstore.remove(two, [first])
    with pytest.raises(ChangedMeanwhile, match=f"{two} was changed by another.*run the command"):
        rename(old, second, "x")
    assert taskstore.open(two).tasks == [second]


def test_of_two_packs_one_is_there(small: Family, where: str, tmp_path: Path,
                                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """The other is told; what both put does not mix."""
    real, names = sending.put_store, list(small.paths)

    def second(*given: object, **options: object) -> object:
        monkeypatch.setattr(sending, "put_store", real)
        taskstore.pack(small.base_path, {names[1]: small.paths[names[1]]}, where, EXACT)
        return real(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sending, "put_store", second)
    with pytest.raises(ChangedMeanwhile, match="was changed by another taskstore"):
        taskstore.pack(small.base_path, {names[0]: small.paths[names[0]]}, where, EXACT)
    assert taskstore.open(where).tasks == [names[1]]
    assert taskstore.verify(where, deep=True).ok


def test_a_write_that_is_refused_leaves_what_was(
    small: Family, two: str, s3: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token expires before the manifest: the store is as it was, and nothing secret is said."""
    before = taskstore.open(two).version
    with Proxy(s3.port) as proxy:
        for name, value in s3.environment(proxy.port).items():
            monkeypatch.setenv(name, value)
        proxy.failing(1000, status(400, "ExpiredToken"), "exact-")
        with pytest.raises(RemoteError, match="have expired.*get new ones") as found:
            revise.add(two, third(small), AddOptions(tiers="exact"))
        assert SECRET not in str(found.value)
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    assert taskstore.open(two).version == before


def test_no_secret_is_in_a_store(small: Family, two: str, place: Bucket) -> None:
    for name in place.names():
        assert SECRET.encode() not in place.read(name, 1 << 24)


def test_a_copy_there_and_back(small: Family, packed: Path, where: str, place: Bucket,
                               s3: Seaweed, tmp_path: Path,
                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """What is there already is not put again; some tasks bring their own files only."""
    task = next(iter(small.paths))
    with Proxy(s3.port) as proxy:
        for name, value in s3.environment(proxy.port).items():
            monkeypatch.setenv(name, value)
        manifest = f"PUT /{BUCKET}/stores/{Path(where).name}/{MANIFEST}"
        proxy.failing(1000, status(403, "AccessDenied"), manifest)
        with pytest.raises(RemoteError):
            copy(packed, None, where)
        proxy.fault = lambda method, path: None
        put = [line for line in proxy.seen if line.startswith("PUT")]
        copy(packed, None, where)
        again = [line for line in proxy.seen if line.startswith("PUT")][len(put) :]
    assert len(put) > 5 and len(again) == 2  # the manifest and the card
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    copy(where, None, tmp_path / "back")
    assert taskstore.verify(tmp_path / "back", deep=True).ok
    assert taskstore.open(tmp_path / "back").version == taskstore.open(where).version
    some = copy(where, [task], f"{where}-some")
    assert some.tasks == [task] and taskstore.verify(f"{where}-some", deep=True).ok
    with pytest.raises(TargetExists):
        copy(packed, None, where)


def test_a_hub_is_pushed_to(packed: Path) -> None:
    with pytest.raises(OptionError, match="taskstore push"):
        copy(packed, None, "hf://org/name")


def test_the_commands(small: Family, where: str, tmp_path: Path) -> None:
    """Each command that takes a store takes an address."""
    first, second, _ = small.paths.items()

    def run(*words: object) -> None:
        code, _, said = evaluators.run(*words)
        assert code == 0, said

    run("pack", small.base_path, f"a={first[1]}", f"b={second[1]}", "-o", where, "--tiers", "exact")
    run("info", where)
    run("verify", where, "--deep")
    run("unpack", where, "a", "-o", tmp_path / "a")
    assert contents(tmp_path / "a") == contents(first[1])
    run("add", where, f"c={second[1]}", "--tiers", "exact")
    run("rename", where, "c", "d")
    run("remove", where, "d", "-y")
    run("log", where, "--json")
    run("report", where, "-o", tmp_path / "page.html")
    run("merge", where, "-o", tmp_path / "merged", "--method", "average")
    run("merge", where, "-o", f"{where}-merged", "--method", "average")
    run(
        "pack",
        f"{where}-merged",
        f"a={first[1]}",
        "-o",
        tmp_path / "from-there",
        "--tiers",
        "exact",
    )
    code, _, said = evaluators.run("merge", where, "-o", f"{where}-merged", "--method", "average")
    assert code == 1 and "holds files already" in said
    code, _, said = evaluators.run("unpack", where, "a", "-o", f"{where}-unpacked")
    assert code == 1 and "cannot be a target" in said
    run("copy", where, tmp_path / "some", "a")
    run("gc", where, "--older-than", "0")
    scored = evaluators.script(tmp_path, "print(json.dumps({'score': 0.5}))")
    run("eval", where, "--eval", scored, "--record", "x")
    store = taskstore.open(where)
    assert store.tasks == ["a", "b"] and store.manifest.tasks["a"].scores
    assert (tmp_path / "page.html").is_file() and (tmp_path / "merged").is_dir()
