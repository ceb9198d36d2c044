"""Files that a hub keeps in Xet: sent there and fetched whole by hf_xet, read by ranges from the
host that the hub names, which never gets the token.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import taskstore
from taskstore.locations.remote.addresses import Address
from taskstore.locations.remote.elsewhere import cached_whole
from taskstore.locations.remote.repository import Repository
from tests.support import families
from tests.support.families import contents
from tests.support.hub.faults import Hub
from tests.support.hub.repositories import Blob
from tests.support.hub.xet import Xet

REPOSITORY = "ann/family"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # its own calls


@pytest.fixture
def hub_with_xet(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub whose large files are in Xet, and ann's token, which opens a private repository."""
    pytest.importorskip("hf_xet")
    hub.xet = Xet(tmp_path / "xet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_ann")
    monkeypatch.setenv("TASKSTORE_CACHE", str(tmp_path / "cache"))
    return hub


def upload(hub: Hub, name: str, folder: Path) -> None:
    """Put a model into a private repository, its weights into Xet."""
    assert hub.xet is not None
    hub.repositories.create(name, "ann", private=True)
    files = dict[str, Blob | None]()
    for path in (path for path in sorted(folder.rglob("*")) if path.is_file()):
        data, large = path.read_bytes(), path.suffix == ".safetensors"
        kept = hub.xet.put(data) if large else ""
        files[path.relative_to(folder).as_posix()] = Blob(data, large, xet=kept)
    hub.repositories.commit(name, "main", files, "a model")


def upload_all(hub: Hub, family: families.Family) -> dict[str, str]:
    """Upload a base and its fine-tunes; gives where these are."""
    for name, path in {"base": family.base_path, **family.paths}.items():
        upload(hub, f"org/{name}", Path(path))
    return {name: f"org/{name}" for name in family.paths}


def push(hub: Hub, store: Path, home: Path) -> str:
    """Push in a process of its own: no other thread runs while hf_xet asks the hub for a token."""
    told = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "0"}
    line = [sys.executable, "-m", "taskstore_cli", "push", str(store), REPOSITORY, "--private"]
    done = subprocess.run(
        line, env=os.environ | told, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "hf_of_ann" not in done.stdout + done.stderr
    return done.stdout


def tokens_of(hub: Hub, what: str) -> set[str]:
    """The tokens that came with requests of a kind."""
    lines = zip(hub.log, hub.tokens_seen, strict=True)
    return {token for line, token in lines if what in line}


def test_a_store_goes_into_xet_and_comes_back(
    hub_with_xet: Hub, packed: Path, tmp_path: Path
) -> None:
    hub = hub_with_xet
    push(hub, packed, tmp_path / "home")
    repository = hub.repositories.edit(REPOSITORY)
    blobs = repository.commits[repository.refs["main"]].files
    assert {name: blob.data for name, blob in blobs.items() if name != ".gitattributes"} == {
        path.relative_to(packed).as_posix(): path.read_bytes()
        for path in packed.rglob("*")
        if path.is_file()
    }
    kept = {name for name, blob in blobs.items() if blob.xet}
    assert kept == {name for name in blobs if name.endswith(".safetensors")} != set()
    assert not hub.repositories.objects  # nothing by LFS
    assert " 0 files of 0 B sent" in push(hub, packed, tmp_path / "home")
    hub.log.clear()
    hub.tokens_seen.clear()
    taskstore.pull(REPOSITORY, None, tmp_path / "here")
    assert taskstore.verify(tmp_path / "here", deep=True).ok
    assert not any("GET /bridge/" in line for line in hub.log)  # they came through hf_xet
    assert tokens_of(hub, "xet-read-token") == {"hf_of_ann"}
    task = taskstore.open(packed).tasks[0]
    place = f"hf://{REPOSITORY}"
    assert contents(taskstore.open(place).unpack(task, tmp_path / "a")) == contents(
        taskstore.open(packed).unpack(task, tmp_path / "b")
    )


def test_weights_are_read_by_ranges_of_the_bridge(
    hub_with_xet: Hub, small: families.Family, tmp_path: Path
) -> None:
    """Without landing on the disk, and each byte about once; the token stays with the hub."""
    hub = hub_with_xet
    models = upload_all(hub, small)
    taskstore.pack("org/base", models, tmp_path / "far", families.options(tiers="rest"))
    taskstore.pack(small.base_path, small.paths, tmp_path / "near", families.options(tiers="rest"))
    far, near = (
        {n: data for n, data in contents(tmp_path / where).items() if n.endswith(".safetensors")}
        for where in ("far", "near")
    )
    assert far == near
    assert tokens_of(hub, "GET /bridge/") == {""} and tokens_of(hub, "/resolve/") == {"hf_of_ann"}
    weights = sum(
        p.stat().st_size
        for path in (small.base_path, *small.paths.values())
        for p in Path(path).glob("*.safetensors")
    )
    read = sum(size for name, size in hub.sent.items() if name.endswith(".safetensors"))
    assert read <= 1.1 * weights


def test_a_whole_model_comes_through_xet(
    hub_with_xet: Hub, small: families.Family, tmp_path: Path
) -> None:
    """With `--cache`; where hf_xet may not be used, the same files come from the bridge."""
    hub = hub_with_xet
    models = upload_all(hub, small)
    with cached_whole():
        taskstore.pack("org/base", models, tmp_path / "store", families.options(tiers="exact"))
    assert not any("GET /bridge/" in line for line in hub.log)
    name, path = next(iter(small.paths.items()))
    out = taskstore.unpack(tmp_path / "store", name, tmp_path / "out")
    assert contents(out) == contents(path)


def test_without_hf_xet_the_bridge_gives_whole_files(
    hub_with_xet: Hub, small: families.Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    upload(hub_with_xet, "org/base", Path(small.base_path))
    place = Repository(Address("hf", "org/base"))
    folder = place.fetch(place.names())
    with closing(place.open("model.safetensors")) as file:  # out of the cache
        assert file.read(0, file.size) == (Path(small.base_path) / "model.safetensors").read_bytes()
    assert contents(folder).keys() >= contents(small.base_path).keys()
    assert tokens_of(hub_with_xet, "GET /bridge/") == {""}
