from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import taskstore
from taskstore.store import card
from tests.support.families import Family, options


def test_a_card_of_a_store(packed: Path) -> None:
    text = (packed / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: taskstore\n")
    assert "# base: 3 fine-tunes of one base" in text
    fidelity = taskstore.open(packed).fidelity("beta").words
    assert fidelity.startswith("approximate, ")
    assert f"| beta | {fidelity} | not measured | 0.4 |" in text
    assert "Weight error is" in text
    assert "taskstore unpack FAMILY alpha -o alpha" in text


def test_a_hub_base_is_named_and_found_as_such(
    small: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--org--name" / "snapshots" / ("ab" * 20)
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(small.base_path)
    taskstore.pack(snapshot, small.paths, tmp_path / "s", options(base="reference"))
    store = taskstore.open(tmp_path / "s")
    assert store.state_dict("alpha")
    manifest = store.manifest
    assert (manifest.base.source, manifest.base.revision) == ("org/name", "ab" * 20)
    assert (
        "base_model:\n- org/name\nbase_model_relation: "
        in (tmp_path / "s" / "README.md").read_text()
    )


def test_names_cannot_become_markup(packed: Path) -> None:
    manifest = taskstore.open(packed).manifest
    tasks = {"a|b<script>": manifest.tasks["alpha"]}
    text = card.render(msgspec.structs.replace(manifest, tasks=tasks))
    assert "| a\\|b\\<script\\> |" in text
