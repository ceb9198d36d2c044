from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from taskstore.errors import OptionError
from taskstore.merging import MergeOptions, MergeReport, merge

TOKENS = ["<unk>", "<eot>", "yes", "no"]
CONFIG = {"model_type": "llama", "vocab_size": 4, "eos_token_id": 1, "architectures": ["L"]}


def tokenizer(*words: str, **more: Any) -> dict[str, Any]:
    vocab = {word: row for row, word in enumerate(words)}
    return {
        "tokenizer.json": {"model": {"type": "WordLevel", "vocab": vocab}, "added_tokens": []},
        "tokenizer_config.json": {"eos_token": words[1], **more},
    }


class World:
    """A base and fine-tunes whose files beside the weights are given."""

    def __init__(self, root: Path) -> None:
        self.root, self.models = root, dict[str, Path]()
        self._seed = 0

    def add(self, name: str, **files: dict[str, Any] | str) -> None:
        folder = self.root / name
        folder.mkdir()
        torch.manual_seed(0)
        weights = torch.randn(4, 8)
        torch.manual_seed(self._seed)
        weights += 0.01 * self._seed * torch.randn(4, 8)
        save_file({"w": weights}, folder / "model.safetensors")
        for file, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / file).write_text(text)
        self._seed += 1
        self.models[name] = folder

    def merge(self, **options: Any) -> tuple[MergeReport, Path]:
        base, *tasks = self.models
        target = self.root / "merged"
        given = {name: self.models[name] for name in tasks}
        report = merge(self.models[base], given, target, MergeOptions("average", jobs=1, **options))
        return report, target


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def settings(folder: Path, file: str = "config.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / file).read_text())
    return found


def test_what_all_models_share_goes_before_the_base(world: World) -> None:
    world.add("base", **{"config.json": CONFIG, **tokenizer(*TOKENS)})
    ours = tokenizer("<unk>", "<end>", "yes", "no")
    for name, temperature in (("a", 0.5), ("b", 0.7)):
        config = {**CONFIG, "eos_token_id": 3, "architectures": [name], "rope_theta": 7.0}
        generation = {"eos_token_id": 3, "temperature": temperature}
        files = {"chat_template.jinja": "{{ x }}", "generation_config.json": generation}
        world.add(name, **{"config.json": config, **ours, **files})
    report, merged = world.merge()
    assert settings(merged) == {**CONFIG, "eos_token_id": 3, "rope_theta": 7.0}
    assert settings(merged, "tokenizer.json") == ours["tokenizer.json"]
    assert settings(merged, "tokenizer_config.json") == ours["tokenizer_config.json"]
    assert settings(merged, "generation_config.json") == {"eos_token_id": 3}
    assert (merged / "chat_template.jinja").read_text() == "{{ x }}"
    notes = report.to_dict()["notes"]
    assert notes["chat template"] == "as all models have it; the base has none"
    assert "temperature differs (a 0.5, b 0.7)" in notes["generation_config.json"]
    assert 'row 1 of the embedding is "<end>" here and "<eot>"' in notes["tokenizer of a"]
    assert "temperature differs" in (merged / "README.md").read_text()


def test_models_that_differ_leave_the_base_as_it_is(world: World) -> None:
    base = {"config.json": CONFIG, **tokenizer(*TOKENS, chat_template="old")}
    world.add("base", **base)
    world.add("a", **{"config.json": CONFIG, **tokenizer("<unk>", "<eot>", "a", "b")})
    world.add("b", **{"config.json": CONFIG, **tokenizer("<unk>", "<eot>", "b", "a")})
    report, merged = world.merge()
    for path, content in base.items():
        assert settings(merged, path) == content
    assert report.notes["tokenizer.json"] == "differs between the models; the base's is taken"
    assert 'row 2 of the embedding is "b" here and "yes" in base' in report.notes["tokenizer of b"]


def test_a_template_that_one_model_lacks(world: World) -> None:
    world.add("base", **tokenizer(*TOKENS))
    world.add("a", **tokenizer(*TOKENS, chat_template="{{ x }}"))
    world.add("b", **tokenizer(*TOKENS))
    world.add("no files")
    report, merged = world.merge()
    assert "chat_template" not in settings(merged, "tokenizer_config.json")
    assert report.notes["chat template"] == (
        "differs between the models (b has none); none is taken, as the base has none"
    )


def test_a_template_inside_the_settings_and_one_in_a_file(world: World) -> None:
    """A file of its own goes before the settings, so it is written there, too."""
    world.add("base", **{**tokenizer(*TOKENS), "chat_template.jinja": "old"})
    for name in ("a", "b"):
        world.add(name, **tokenizer(*TOKENS, chat_template="new"))
    _, merged = world.merge()
    assert (merged / "chat_template.jinja").read_text() == "new"


def test_a_vocabulary_that_the_merged_model_has_no_rows_for(world: World) -> None:
    world.add("base", **{"config.json": CONFIG, **tokenizer(*TOKENS)})
    for name in ("a", "b"):
        config = {**CONFIG, "eos_token_id": 4}
        world.add(name, **{"config.json": config, **tokenizer(*TOKENS, "<end>", eos_token="<end>")})
    report, merged = world.merge()
    assert settings(merged) == CONFIG
    assert settings(merged, "tokenizer_config.json")["eos_token"] == "<eot>"
    assert "tokens up to row 4" in report.notes["vocabulary"]
    assert "eos_token_id differs (a 4, b 4)" in report.notes["config.json"]


@pytest.mark.parametrize("name", ["base", "b"])
def test_the_files_of_one_model(world: World, name: str) -> None:
    for one in ("base", "a", "b"):
        end = {"base": 1, "a": 2, "b": 2}[one]
        text = "the base's" if one == "base" else "the models'"
        config = {**CONFIG, "eos_token_id": end}
        world.add(one, **{"config.json": config, **tokenizer(*TOKENS, chat_template=text)})
    report, merged = world.merge(assets_from=name)
    for path in ("config.json", "tokenizer_config.json"):
        assert settings(merged, path) == settings(world.models[name], path)
    assert report.notes["config.json"] == f"differs between the models; taken from {name}"


def test_a_part_of_a_config_keeps_the_rows_of_the_base(world: World) -> None:
    world.add("base", **{"config.json": {"text_config": {"vocab_size": 4, "eos_token_id": 1}}})
    for name in ("a", "b"):
        inner = {"vocab_size": 9, "eos_token_id": 2}
        world.add(name, **{"config.json": {"text_config": inner}})
    _, merged = world.merge()
    assert settings(merged) == {"text_config": {"vocab_size": 4, "eos_token_id": 2}}


def test_files_that_are_no_json(world: World) -> None:
    for name in ("base", "a", "b"):
        world.add(name, **{"config.json": "[" if name == "a" else CONFIG, "tokenizer.json": name})
    report, merged = world.merge()
    assert settings(merged) == CONFIG
    assert (merged / "tokenizer.json").read_text() == "base"
    assert "tokenizer.json" in report.notes


def test_names_that_are_none(world: World) -> None:
    for name in ("base", "a", "b"):
        world.add(name)
    with pytest.raises(OptionError, match="^assets_from is given for 'c'"):
        world.merge(assets_from="c")
    with pytest.raises(OptionError, match="leave assets_from out"):
        world.merge(assets_from="a", tokenizer_from="a")
