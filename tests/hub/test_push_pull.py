"""A store goes to a hub in one commit, and comes back, whole or by tasks."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import taskstore
from taskstore.errors import ChangedMeanwhile, ChecksumMismatch, InputError, RemoteError
from taskstore.hub.push import repository_of
from tests.support import families
from tests.support.families import contents
from tests.support.hub.faults import Fault, Hub
from tests.support.hub.repositories import blob_of

REPOSITORY = "ann/family"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # its own calls


@pytest.fixture
def hub_of_ann(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_TOKEN", "hf_of_ann")
    return hub


@pytest.fixture
def pushed(hub_of_ann: Hub, packed: Path) -> Hub:
    taskstore.push(packed, REPOSITORY)
    hub_of_ann.log.clear()
    return hub_of_ann


def files_on(hub: Hub, branch: str = "main") -> dict[str, bytes]:
    repository = hub.repositories.edit(REPOSITORY)
    files = repository.commits[repository.refs[branch]].files
    return {name: blob.data for name, blob in files.items() if name != ".gitattributes"}


def files_in(store: Path) -> dict[str, bytes]:
    every = (path for path in store.rglob("*") if path.is_file())
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in every}


def test_one_commit(hub_of_ann: Hub, packed: Path) -> None:
    seen = list[tuple[str, int, int]]()
    report = taskstore.push(
        packed, REPOSITORY, private=True, progress=lambda p: seen.append((p.stage, p.done, p.total))
    )
    assert files_on(hub_of_ann) == files_in(packed)
    repository = hub_of_ann.repositories.edit(REPOSITORY)
    assert len(repository.commits) == 2 and repository.readers == {"ann"}
    assert sum("/commit/" in line for line in hub_of_ann.log) == 1
    assert report.url.endswith(f"/commit/{repository.refs['main']}")
    assert (report.sent, report.unchanged, report.removed) == (len(files_in(packed)), 0, 0)
    assert seen[-1] == ("sending", report.bytes, report.bytes)


def test_what_is_there_is_not_sent_again(pushed: Hub, packed: Path, tmp_path: Path) -> None:
    again = taskstore.push(packed, REPOSITORY)
    assert (again.sent, again.bytes) == (0, 0)
    assert not any("PUT" in line or "/commit/" in line for line in pushed.log)
    smaller = taskstore.copy(packed, taskstore.open(packed).tasks[:1], tmp_path / "smaller")
    report = taskstore.push(smaller, REPOSITORY)
    assert files_on(pushed) == files_in(smaller.path)
    assert report.removed and report.unchanged
    assert not any("PUT" in line for line in pushed.log)


def test_what_was_damaged_on_the_hub_is_sent_again(pushed: Hub, packed: Path) -> None:
    """Of the same size, so that only its digest tells."""
    files = files_on(pushed)
    damaged = [next(n for n in files if n.startswith(kind)) for kind in ("base", "assets")]
    pushed.repositories.commit(
        REPOSITORY, "main", {n: blob_of(n, b"?" + files[n][1:]) for n in damaged}, "damage"
    )
    report = taskstore.push(packed, REPOSITORY)
    assert files_on(pushed) == files_in(packed)
    assert report.sent == len([*damaged, "taskstore.json"])


def test_a_branch_and_a_pull_request(pushed: Hub, packed: Path, tmp_path: Path) -> None:
    smaller = taskstore.copy(packed, taskstore.open(packed).tasks[:1], tmp_path / "smaller")
    taskstore.push(smaller, REPOSITORY, revision="small")
    assert files_on(pushed) == files_in(packed)
    assert files_on(pushed, "small") == files_in(smaller.path)
    report = taskstore.push(smaller, REPOSITORY, create_pr=True)
    assert report.url.endswith("/discussions/1")
    assert files_on(pushed) == files_in(packed)
    assert files_on(pushed, "refs/pr/1") == files_in(smaller.path)


def test_somebody_else_commits_meanwhile(hub_of_ann: Hub, packed: Path) -> None:
    def commit() -> None:
        hub_of_ann.repositories.commit(REPOSITORY, "main", {"x": blob_of("x", b"1")}, "theirs")

    hub_of_ann.faults.append(Fault(f"POST .*{REPOSITORY}/commit/", then=commit))
    with pytest.raises(ChangedMeanwhile, match="changed by another writer meanwhile"):
        taskstore.push(packed, REPOSITORY)
    assert files_on(hub_of_ann) == {"x": b"1"}
    taskstore.push(packed, REPOSITORY)
    assert files_on(hub_of_ann) == {"x": b"1", **files_in(packed)}


@pytest.mark.parametrize("pattern", ["POST .*lfs", "PUT .*", "POST .*preupload", "POST .*/commit/"])
def test_a_push_that_fails_is_not_seen(pushed: Hub, packed: Path, pattern: str) -> None:
    name = "extra.safetensors"
    repository = pushed.repositories.edit(REPOSITORY)
    pushed.repositories.objects.clear()
    pushed.repositories.commit(REPOSITORY, "main", dict.fromkeys(files_in(packed)), "empty")
    head = repository.refs["main"]
    pushed.faults.append(Fault(pattern, 99, status=403))
    with pytest.raises((RemoteError, OSError)):
        taskstore.push(packed, REPOSITORY)
    assert repository.refs["main"] == head and name not in files_on(pushed)


def test_an_edited_card_stays(pushed: Hub, packed: Path) -> None:
    pushed.repositories.commit(
        REPOSITORY, "main", {"README.md": blob_of("", b"# Mine")}, "a better card"
    )
    report = taskstore.push(packed, REPOSITORY)
    assert files_on(pushed)["README.md"] == b"# Mine"
    assert "was edited on the hub and stays" in report.notes[0]


def test_a_damaged_store_is_not_pushed(hub_of_ann: Hub, packed: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(packed, tmp_path / "broken"))
    path = next(broken.glob("base*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ChecksumMismatch):
        taskstore.push(broken, REPOSITORY)
    assert not any("create" in line for line in hub_of_ann.log)


def test_without_a_token(hub: Hub, packed: Path) -> None:
    with pytest.raises(RemoteError, match="token|log in"):
        taskstore.push(packed, REPOSITORY)


def test_a_public_repository_gets_nothing_private(pushed: Hub, packed: Path) -> None:
    with pytest.raises(InputError, match="everybody may read it"):
        taskstore.push(packed, REPOSITORY, private=True)
    pushed.repositories.edit(REPOSITORY).readers = {"ann"}
    assert taskstore.push(packed, REPOSITORY, private=True).sent == 0


@pytest.mark.parametrize("text", ["family", "./ann/family", "s3://bucket/x", "hf://ann/f/sub", ""])
def test_what_is_no_repository(text: str) -> None:
    with pytest.raises(InputError, match="is no repository of the hub"):
        repository_of(text)


def test_the_card_names_all_models_of_the_hub(
    hub_of_ann: Hub, small: families.Family, tmp_path: Path
) -> None:
    for name, path in {"base": small.base_path, **small.paths}.items():
        hub_of_ann.repositories.upload(f"org/{name}", Path(path))
    models = {name: f"org/{name}" for name in small.paths}
    for tiers, relation in (("mask", "merge"), ("rest", "quantized"), ("exact", "finetune")):
        taskstore.pack("org/base", models, tmp_path / tiers, families.options(tiers=tiers))
        head = (tmp_path / tiers / "README.md").read_text().split("---")[1]
        assert "library_name: taskstore" in head and "- taskstore\n" in head
        named = re.search(r"base_model:\n((- \S+\n)+)base_model_relation: (\w+)\n", head)
        assert named and named[3] == relation
        assert named[1].split() == [w for m in ("org/base", *models.values()) for w in ("-", m)]


def test_pull_brings_what_a_task_needs(pushed: Hub, packed: Path, tmp_path: Path) -> None:
    store = taskstore.open(packed)
    first, second, *_ = store.tasks
    taskstore.pull(REPOSITORY, [first], tmp_path / "here")
    needed = {*store.files_of(None, first), "README.md", "taskstore.json"}
    assert {key.removeprefix(f"{REPOSITORY}/") for key in pushed.sent} == needed
    report = taskstore.verify(tmp_path / "here", deep=True)
    assert report.ok and taskstore.open(tmp_path / "here").tasks == [first]
    pushed.sent.clear()
    taskstore.pull(f"hf://{REPOSITORY}", [second], tmp_path / "here")
    assert taskstore.open(tmp_path / "here").tasks == [first, second]
    assert not {key.removeprefix(f"{REPOSITORY}/") for key in pushed.sent} & needed
    taskstore.pull(REPOSITORY, None, tmp_path / "here")
    assert taskstore.open(tmp_path / "here").tasks == store.tasks
    assert taskstore.verify(tmp_path / "here", deep=True).ok
    ours, theirs = contents(tmp_path / "here"), contents(packed)
    assert {n: d for n, d in ours.items() if "json" not in n and "README" not in n} == {
        n: d for n, d in theirs.items() if "json" not in n and "README" not in n
    }


def test_pull_keeps_what_is_not_its_own(
    pushed: Hub, small: families.Family, tmp_path: Path
) -> None:
    taskstore.pack(small.base_path, small.paths, tmp_path / "other", families.options(lam=0.2))
    before = contents(tmp_path / "other")
    with pytest.raises(InputError, match="that is not, or no longer, in ann/family"):
        taskstore.pull(REPOSITORY, None, tmp_path / "other")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    pushed.log.clear()
    with pytest.raises(InputError, match="is no store of ann/family; name another folder"):
        taskstore.pull(REPOSITORY, None, tmp_path / "model")
    assert not any(".safetensors" in line for line in pushed.log)
    with pytest.raises(InputError, match="no task 'nobody'"):
        taskstore.pull(REPOSITORY, ["nobody"], tmp_path / "new")
    assert contents(tmp_path / "other") == before and not (tmp_path / "new").exists()


def test_pull_of_what_was_damaged_on_the_way(pushed: Hub, packed: Path, tmp_path: Path) -> None:
    name = next(name for name in files_on(pushed) if name.startswith("base"))
    bad = blob_of(name, files_on(pushed)[name][:-1] + b"x")
    pushed.repositories.commit(REPOSITORY, "main", {name: bad}, "damage")
    with pytest.raises(ChecksumMismatch, match="base"):
        taskstore.pull(REPOSITORY, None, tmp_path / "here")
    assert not (tmp_path / "here").exists()
