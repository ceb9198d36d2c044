"""A repository of a hub as a location: ranges, faults, tokens, and what a hostile one gets."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest

from taskstore.errors import BadName, ChangedMeanwhile, FormatError, RemoteError
from taskstore.locations.remote.addresses import Address
from taskstore.locations.remote.repository import Repository
from taskstore.locations.remote.windows import HEAD
from tests.support.hub.faults import Fault, Hub
from tests.support.hub.fixtures import a_hub
from tests.support.hub.repositories import Blob, blob_of

DATA = bytes(range(256)) * 2000  # above the server's limit of LFS
WEIGHTS = "model.safetensors"


@pytest.fixture
def model(hub: Hub) -> Address:
    hub.repositories.create("org/model", None)
    files = {WEIGHTS: blob_of(WEIGHTS, DATA), "sub/config.json": blob_of("", b"{}")}
    hub.repositories.commit("org/model", "main", files, "files")
    return Address("hf", "org/model")


def read(place: Repository, name: str = WEIGHTS) -> bytes:
    with closing(place.open(name)) as file:
        return file.read(0, file.size)


def test_a_repository_is_pinned(hub: Hub, model: Address) -> None:
    place = Repository(model)
    hub.repositories.commit("org/model", "main", {WEIGHTS: blob_of(WEIGHTS, b"new" * 99)}, "new")
    assert re.fullmatch("[0-9a-f]{40}", place.commit)
    assert list(place.names()) == [".gitattributes", WEIGHTS, "sub/config.json"]
    assert read(place) == DATA
    assert read(Repository(model)) == b"new" * 99
    assert read(Repository(model.at(place.commit))) == DATA


def test_a_folder_of_a_repository(hub: Hub, model: Address) -> None:
    place = Repository(Address("hf", "org/model", "sub"))
    assert dict(place.sizes()) == {"config.json": 2}
    assert read(place, "config.json") == b"{}"


def test_long_listings_come_in_pages(hub: Hub, model: Address) -> None:
    hub.page = 1
    assert len(Repository(model).sizes()) == 3


def test_files_are_fetched_into_the_hubs_cache_once(hub: Hub, model: Address) -> None:
    place = Repository(model)
    folder = place.fetch(["sub/config.json"])
    assert (folder / "sub/config.json").read_bytes() == b"{}"
    hub.log.clear()
    assert place.fetch(["sub/config.json"]) == folder
    assert read(place, "sub/config.json") == b"{}"
    assert hub.log == []


@pytest.mark.parametrize(
    ("status", "headers", "problem"),
    [
        (403, {}, "the token has no right"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "has expired"),
        (404, {"X-Error-Code": "RepoNotFound"}, "no such repository"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "no revision '[0-9a-f]{40}' .any more."),
        (403, {"X-Error-Code": "GatedRepo"}, "is gated: ask for access at .*/org/model"),
        (503, {}, "the hub answers 503, 8 times"),
    ],
)
def test_what_does_not_pass_is_said(
    hub: Hub, model: Address, status: int, headers: dict[str, str], problem: str
) -> None:
    place = Repository(model)
    hub.faults.append(Fault("GET .*/resolve/", 99, status=status, headers=headers))
    with pytest.raises(OSError, match=problem):
        read(place)


def test_a_file_that_is_not_what_was_listed_is_refused(hub: Hub, model: Address) -> None:
    place = Repository(model)
    hub.faults.append(Fault("GET .*/resolve/", 99, status=416))  # a window ahead is asked again
    with pytest.raises(ChangedMeanwhile, match="shorter than the hub said"):
        read(place)
    hub.faults.clear()
    hub.repositories.lie("org/model", WEIGHTS, len(DATA) - 5)
    with pytest.raises((ChangedMeanwhile, FormatError), match="not what it was|larger"):
        read(Repository(model))


def test_private_and_gated_repositories(
    hub: Hub, model: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories.edit("org/model").readers = {"ann"}
    with pytest.raises(RemoteError, match="no such repository.*if it is private, log in"):
        Repository(model)
    monkeypatch.setenv("HF_TOKEN", "hf_of_bob")
    with pytest.raises(RemoteError, match="your token may not see it.*named ./org/model"):
        Repository(model)
    monkeypatch.setenv("HF_TOKEN", "hf_of_ann")
    assert read(Repository(model)) == DATA
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    with pytest.raises(RemoteError, match="does not take the token"):
        Repository(model)
    monkeypatch.delenv("HF_TOKEN")
    gated = hub.repositories.edit("org/model")
    gated.readers, gated.gated = None, True
    with pytest.raises(RemoteError, match="is gated"):
        Repository(model).sizes()


def test_no_such_revision(hub: Hub, model: Address) -> None:
    with pytest.raises(RemoteError, match="hf://org/model@v9: the repository has no revision 'v9'"):
        Repository(model.at("v9"))


def test_the_token_goes_to_the_hub_alone(
    hub: Hub, model: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redirect to another host is followed, as the hub's own files need it, without the token."""
    monkeypatch.setenv("HF_TOKEN", "hf_of_ann")
    with pytest.MonkeyPatch.context() as patch, a_hub(tmp_path, patch) as other:
        other.repositories.create("org/model", None)
        other.repositories.commit(
            "org/model", "main", {WEIGHTS: blob_of(WEIGHTS, DATA)}, "the same file"
        )
        target = f"{other.url}/org/model/resolve/main/{WEIGHTS}"
        patch.undo()
        xet = {"X-Xet-Hash": "0" * 64, "Link": '</xet-read-token/x>; rel="xet-auth"'}
        hub.faults.append(Fault("GET .*/resolve/", 99, location=target, headers=xet))
        monkeypatch.setenv("HF_TOKEN", "hf_of_ann")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
        assert read(Repository(model)) == DATA
        assert any(
            f"bytes=0-{HEAD - 1}" in line for line in other.log
        )  # ranges, by the bridge of files in Xet, too
        assert other.tokens_seen and set(other.tokens_seen) == {""}
    assert "hf_of_ann" in hub.tokens_seen


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a//b", "a\\b", "a\0b"])
def test_hostile_names_are_refused(hub: Hub, model: Address, name: str) -> None:
    hub.repositories.commit("org/model", "main", {name: Blob(b"evil", False)}, "evil")
    place = Repository(model)
    with pytest.raises(BadName, match="leaves its location"):
        place.sizes()


def test_without_a_hub_the_cache_stands_for_it(
    hub: Hub, model: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RemoteError, match="HF_HUB_OFFLINE is set.*hf download org/model"):
        Repository(model)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    online = Repository(model)
    online.fetch(online.names())
    cached = Repository(model.at(online.commit))
    hub.log.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    place = Repository(cached.address)
    assert place.offline and place.commit == online.commit
    assert read(place) == DATA
    assert hub.log == []


def test_a_file_is_put_if_it_is_what_was_seen(
    hub: Hub, model: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_ann")
    place = Repository(model)
    place.put_if_unchanged("x.json", b"1", None)
    with pytest.raises(ChangedMeanwhile, match="x.json was changed"):
        place.put_if_unchanged("x.json", b"2", None)

    def commit() -> None:
        hub.repositories.commit("org/model", "main", {"y": blob_of("y", b"1")}, "another file")

    hub.faults.append(Fault("POST .*/commit/", then=commit))
    place.put_if_unchanged("x.json", b"2", b"1")
    hub.faults.append(Fault("POST .*/commit/", cut=0))  # done, and nobody hears of it
    place.put_if_unchanged("x.json", b"3", b"2")
    place.put("z.json", b"3")
    place.delete("y")
    assert [read(Repository(model), name) for name in ("x.json", "z.json")] == [b"3", b"3"]
    assert "y" not in Repository(model).names()
