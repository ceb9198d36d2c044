"""Commands take models of a hub where they take paths, and do the same with them."""

from __future__ import annotations

import filecmp
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from taskstore_cli.main import main

import taskstore
from tests.support import families
from tests.support.hub.faults import Hub

OPTIONS = ("--tiers", "exact", "-j", "2")


@pytest.fixture
def models(hub: Hub, small: families.Family) -> list[str]:
    """The family on the hub: the base, and NAME=org/NAME of its fine-tunes."""
    for name, path in {"base": small.base_path, **small.paths}.items():
        hub.repositories.upload(f"org/{name}", path)
    return ["org/base", *(f"hf://org/{name}" for name in small.paths)]


def run(*words: object, status: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return result


def test_pack_gives_the_same_bytes(
    hub: Hub, models: list[str], small: families.Family, tmp_path: Path
) -> None:
    run("pack", *models, "-o", tmp_path / "remote", *OPTIONS, "-q")
    run("pack", small.base_path, *small.paths.values(), "-o", tmp_path / "local", *OPTIONS, "-q")
    names = [p.relative_to(tmp_path / "local") for p in (tmp_path / "local").rglob("*")]
    own = {Path("taskstore.json"), Path("README.md")}
    data = [
        str(name) for name in names if (tmp_path / "local" / name).is_file() and name not in own
    ]
    same, differing, missing = filecmp.cmpfiles(
        tmp_path / "local", tmp_path / "remote", data, shallow=False
    )
    assert sorted(same) == sorted(data) and not differing and not missing
    manifest = taskstore.open(tmp_path / "remote").manifest
    head = hub.repositories.edit("org/base").refs["main"]
    assert (manifest.base.name, manifest.base.source, manifest.base.revision) == (
        "base", "org/base", head,
    )  # fmt: skip
    assert {task.source for task in manifest.tasks.values()} == {f"org/{n}" for n in small.paths}
    weights = [key for key in hub.sent if key.endswith("model.safetensors")]
    assert all(hub.sent[key] == Path(small_file(small, key)).stat().st_size for key in weights)


def small_file(small: families.Family, key: str) -> Path:
    name = key.split("/")[1]
    folder = small.base_path if name == "base" else small.paths[name]
    return Path(folder) / "model.safetensors"


def test_a_revision_is_what_is_read(
    hub: Hub, models: list[str], small: families.Family, tmp_path: Path
) -> None:
    task, other = sorted(small.paths)[:2]
    repository = hub.repositories.edit(f"org/{task}")
    repository.refs["v3"] = repository.refs["main"]
    hub.repositories.upload(f"org/{task}", Path(small.paths[other]))
    run("pack", "org/base", f"{task}=org/{task}@v3", "-o", tmp_path / "s", *OPTIONS, "-q")
    manifest = taskstore.open(tmp_path / "s").manifest
    assert manifest.tasks[task].revision == repository.refs["v3"] != repository.refs["main"]


def test_merge_add_and_eval(
    hub: Hub, models: list[str], small: families.Family, tmp_path: Path
) -> None:
    first, *others = sorted(small.paths)
    run("merge", *models, "--method", "ties", "-o", tmp_path / "merged", "-q")
    run("merge", small.base_path, *small.paths.values(), "--method", "ties", "-o",
        tmp_path / "local", "-q")  # fmt: skip
    assert filecmp.cmp(
        tmp_path / "merged/model.safetensors", tmp_path / "local/model.safetensors", shallow=False
    )
    run("pack", "org/base", f"org/{first}", "-o", tmp_path / "s", *OPTIONS, "-q")
    run("add", tmp_path / "s", f"again=org/{others[0]}", "--cache", "-q")
    store = taskstore.open(tmp_path / "s")
    assert store.tasks == sorted([first, "again"])
    run("eval", tmp_path / "s", first, "--original", f"{first}=org/{first}", "--eval",
        "sh -c 'test -f $0/model.safetensors && echo 0.5' {model}", "-q")  # fmt: skip


def test_a_base_that_is_only_referenced_is_read_on_the_hub(
    hub: Hub, models: list[str], small: families.Family, tmp_path: Path
) -> None:
    name = sorted(small.paths)[0]
    run("pack", "org/base", f"org/{name}", "-o", tmp_path / "s", "--base-mode", "reference",
        *OPTIONS, "-q")  # fmt: skip
    run("unpack", tmp_path / "s", name, "-o", tmp_path / "out", "-q")
    assert filecmp.cmp(
        tmp_path / "out/model.safetensors", small_file(small, f"org/{name}/x"), shallow=False
    )
    del hub.repositories._all["org/base"]
    found = run("unpack", tmp_path / "s", name, "-o", tmp_path / "b", "-q", status=1)
    assert "there is no such repository" in found.output and "--base-from" in found.output


def test_repair_from_the_hub(
    hub: Hub, models: list[str], small: families.Family, tmp_path: Path
) -> None:
    name = sorted(small.paths)[0]
    run("pack", "org/base", f"org/{name}", "-o", tmp_path / "s", *OPTIONS, "-q")
    damaged = next((tmp_path / "s/tasks").rglob("*.safetensors"))
    damaged.unlink()
    run("repair", tmp_path / "s", "--from", f"hf://org/{name}", "-q")
    assert damaged.exists()
    run("verify", tmp_path / "s", "--deep", "-q")


def test_a_model_that_is_not_there(hub: Hub, models: list[str], tmp_path: Path) -> None:
    found = run("pack", "org/base", "x=org/nobody", "-o", tmp_path / "s", status=1)
    assert "hf://org/nobody: there is no such repository" in found.output
    assert list(tmp_path.iterdir()) == []
