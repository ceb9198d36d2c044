"""A store in a repository is read where it is: only what is asked for is fetched, and once."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from taskstore_cli.main import main

import taskstore
from taskstore.errors import ChecksumMismatch, FormatError
from tests.support.families import contents
from tests.support.hub.faults import Hub
from tests.support.hub.repositories import blob_of

PLACE = "hf://org/family"


@pytest.fixture(autouse=True)
def there(hub: Hub, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKSTORE_CACHE", str(tmp_path / "cache"))
    hub.repositories.upload("org/family", packed)


def fetched(hub: Hub) -> set[str]:
    return {key.removeprefix("org/family/") for key in hub.sent}


def test_only_what_a_task_needs_is_fetched(hub: Hub, packed: Path, tmp_path: Path) -> None:
    store, local = taskstore.open(PLACE), taskstore.open(packed)
    assert store.tasks == local.tasks and fetched(hub) == {"taskstore.json"}
    task = store.tasks[0]
    store.unpack(task, tmp_path / "out")
    local.unpack(task, tmp_path / "local")
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
    assert fetched(hub) == {"taskstore.json", *local.files_of(task)}
    hub.sent.clear()
    taskstore.open(PLACE).unpack(task, tmp_path / "again")
    assert fetched(hub) == set()


def test_a_store_without_a_network(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = taskstore.open(PLACE).tasks[0]
    taskstore.unpack(PLACE, task, tmp_path / "out")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.log.clear()
    taskstore.unpack(PLACE, task, tmp_path / "offline")
    assert hub.log == [] and contents(tmp_path / "offline") == contents(tmp_path / "out")


@pytest.mark.parametrize(
    "words",
    ["info {}", "verify {} --deep", "load {} alpha", "unpack {} --all -o m", "report {} -o r.html",
     "eval {} alpha --eval 'sh -c \"echo 0.5\" {{model}}'"],
)  # fmt: skip
def test_commands(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, words.format(PLACE))
    assert done.exit_code == 0, done.output


def test_from_pretrained(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id, the revision and the options reach the store; what it loads is tested there."""
    seen = list[object]()
    monkeypatch.setattr(
        taskstore.Store, "load_model", lambda self, task, **given: seen.append((self.where, given))
    )
    taskstore.from_pretrained("org/family", task="alpha", dtype="stored")
    taskstore.from_pretrained("org/family", task="alpha", revision="main")
    assert seen == [(PLACE, {"dtype": "stored"}), (f"{PLACE}@main", {})]


def test_what_is_no_store_or_damaged(hub: Hub, packed: Path, tmp_path: Path) -> None:
    hub.repositories.create("org/empty", None)
    with pytest.raises(FormatError, match="hf://org/empty is not a taskstore store"):
        taskstore.open("hf://org/empty")
    name = next(path.name for path in packed.glob("base*"))
    data = (packed / name).read_bytes()
    bad = {name: blob_of(name, data[:-1] + bytes([data[-1] ^ 1]))}
    hub.repositories.commit("org/family", "main", bad, "damage")
    with pytest.raises(ChecksumMismatch, match="base"):
        taskstore.unpack(PLACE, "alpha", tmp_path / "out")
    assert not (tmp_path / "out").exists()
