"""Which tasks share a front."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from taskstore_serving.assets import assets_key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"a": 1, "_name_or_path": "here"}))
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def test_notes_and_prose_do_not_count(folder: Path) -> None:
    before = assets_key(folder)
    config = {"transformers_version": "9", "_name_or_path": "there", "a": 1}
    (folder / "config.json").write_text(json.dumps(config, indent=4))
    (folder / "README.md").write_text("of another task")
    assert assets_key(folder) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"a": 2}'),
        ("config.json", "no JSON"),
        ("config.json", "[]"),
        ("tokenizer.json", "{ }"),
        ("generation_config.json", "{}"),
        ("chat_template.jinja", "{{ x }}"),
        ("templates/tool.jinja", "{{ x }}"),
    ],
)
def test_everything_else_does(folder: Path, name: str, text: str) -> None:
    before = assets_key(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    assert assets_key(folder) != before
