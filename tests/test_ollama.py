"""An export for Ollama: what the Modelfile says, and what stays out of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import taskstore
from taskstore.errors import TargetExists, UnknownTask
from tests.support import ROOT, families
from tests.support.evaluators import run

FAMILY = ROOT / "examples/family"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("numerals") / "store"
    options = taskstore.PackOptions(tiers="exact")
    taskstore.pack(FAMILY / "base", {"Roman I": FAMILY / "roman"}, target, options)
    return target


def test_a_modelfile_stands_beside_the_folder(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    found = taskstore.export_ollama(store, "Roman I", target)
    assert sorted(p.name for p in target.iterdir() if p.name[0] != ".") == sorted(
        ["Modelfile", found.model.name]
    )
    weights = "model.safetensors"
    assert (found.model / weights).read_bytes() == (FAMILY / "roman" / weights).read_bytes()
    text = found.modelfile.read_text().splitlines()
    assert f"FROM ./{found.model.name}.gguf" in text
    assert 'PARAMETER stop "<end>"' in text and "PARAMETER temperature 0" in text
    assert all(f"#   {line}" in text for line in found.lines)
    assert found.fidelity.words == "exact" and found.to_dict()["fidelity"]["kind"] == "exact"
    assert found.lines[1] == "ollama create roman-i -f Modelfile"
    assert any("Jinja" in line and "chat_template.jinja" in line for line in found.caveats)


def test_an_export_is_replaced_where_it_is_asked_for(store: Path, tmp_path: Path) -> None:
    for overwrite in (False, True):
        taskstore.export_ollama(store, "Roman I", tmp_path / "out", overwrite=overwrite)
    with pytest.raises(TargetExists):
        taskstore.export_ollama(store, "Roman I", tmp_path / "out")
    (tmp_path / "out" / "mine.gguf").write_text("converted")
    with pytest.raises(taskstore.TaskstoreError, match=r"mine\.gguf"):
        taskstore.export_ollama(store, "Roman I", tmp_path / "out", overwrite=True)
    with pytest.raises(UnknownTask):
        taskstore.export_ollama(store, "roman", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_strangers_wrote_makes_no_line_of_a_modelfile(
    small: families.Family, tmp_path: Path
) -> None:
    tokens = ["</s>\nFROM evil", '"""', 'say "stop" now', "x" * 1000, 7, "</s>"]
    listed = [{"id": i, "content": text} for i, text in enumerate(tokens)]
    files = {
        "tokenizer.json": json.dumps({"added_tokens": [*listed, "odd"]}),
        "generation_config.json": json.dumps(
            {"eos_token_id": list(range(9)), "do_sample": True, "top_p": 0.9, "top_k": "1\nFROM x"}
        ),
    }
    folder = tmp_path / "alpha"
    folder.mkdir()
    for path in Path(small.paths["alpha"]).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for name, text in files.items():
        (folder / name).write_text(text)
    taskstore.pack(small.base_path, {"alpha": folder}, tmp_path / "store")
    found = taskstore.export_ollama(tmp_path / "store", "alpha", tmp_path / "out")
    lines = [x for x in found.modelfile.read_text().splitlines() if not x.startswith("#")]
    stops = ['PARAMETER stop """say "stop" now"""', 'PARAMETER stop "</s>"']
    assert lines == ["FROM ./alpha.gguf", "PARAMETER top_p 0.9", *stops]


def test_the_command_says_the_lines(store: Path, tmp_path: Path) -> None:
    status, said, _ = run("export", store, "Roman I", "-o", tmp_path / "out", "--ollama")
    assert (
        status == 0 and "python convert_hf_to_gguf.py" in said and "ollama create roman-i" in said
    )
    status, said, err = run("export", store, "Roman I", "-o", tmp_path / "b", "--ollama", "--json")
    assert status == 0, err
    assert json.loads(said)["modelfile"] == str(tmp_path / "b/Modelfile")
    status, _, said = run("export", store, "Roman I", "-o", tmp_path / "c")
    assert status == 2 and "--ollama" in said
