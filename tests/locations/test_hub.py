"""Names of models as users type them, and folders of the hub's cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskstore.errors import CheckpointError
from taskstore.locations.hub import locate, name_of

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    folder = tmp_path / f"models--acme--billing-v2/snapshots/{REVISION}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    return folder


def test_a_snapshot_is_called_after_its_repository(snapshot: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest"
    link.symlink_to(snapshot)
    for path in (snapshot, link, snapshot / "model.safetensors"):
        assert name_of(path) == "billing-v2"
    for path in (snapshot, link):
        assert locate(path)[1:] == ("acme/billing-v2", REVISION)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("runs/final", "final"),
        ("runs/legal/model.safetensors", "legal"),
        ("runs/legal/pytorch_model.bin", "legal"),
        ("runs/legal/model.fp16.safetensors", "legal"),
        ("runs/legal/billing.safetensors", "billing"),
        ("runs/legal/modelling.safetensors", "modelling"),
    ],
)
def test_a_file_is_called_after_its_folder_where_its_name_says_nothing(
    path: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    if "." in path:
        (tmp_path / path).touch()
    assert name_of(tmp_path / path) == name


def test_a_path_that_is_not_there() -> None:
    with pytest.raises(CheckpointError, match="no such folder or file$"):
        locate("./runs/legal/final")


def test_the_folder_of_a_repository_means_a_snapshot(snapshot: Path) -> None:
    root = snapshot.parent.parent
    for path in (root, root / "snapshots"):
        assert locate(path) == (snapshot, "acme/billing-v2", REVISION)
        assert name_of(path) == "billing-v2"
    other = snapshot.parent / ("f" * 40)
    other.mkdir()
    with pytest.raises(CheckpointError, match=f"2 snapshots .* name one: {snapshot}, {other}"):
        locate(root)
    (root / "refs").mkdir()
    (root / "refs/main").write_text("f" * 40)
    assert locate(root)[0] == other
    (root / "refs/main").write_text("../../../elsewhere")
    with pytest.raises(CheckpointError, match="2 snapshots"):
        locate(root)


def test_an_id_of_the_hub_is_called_after_its_repository() -> None:
    assert name_of("acme/billing-v2") == "billing-v2"
