"""How tasks and bases are called where no name is given, and what a wrong kind of path is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from taskstore_cli.main import main

import taskstore
from tests.support.families import Family


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_models_out_of_the_hubs_cache(small: Family, tmp_path: Path) -> None:
    """The card and the tasks bear the repositories' names; commits are provenance."""
    places = {}
    for name, path in {"llama": small.base_path, "billing": small.paths["alpha"]}.items():
        places[name] = (
            tmp_path / f"hub/models--acme--{name}/snapshots" / (name[0].encode().hex() * 20)
        )
        shutil.copytree(path, places[name])
    done = run("pack", places["llama"], places["billing"], "-o", tmp_path / "s", "--json")
    said = json.loads(done.stdout)
    task = said["tasks"][0]
    assert (said["base_name"], task["name"], task["origin"]) == ("llama", "billing", "billing")
    assert (task["source"], task["revision"]) == ("acme/billing", places["billing"].name)
    card = (tmp_path / "s" / "README.md").read_text()
    assert "# llama: 1 fine-tune of one base" in card and "- acme/llama" in card


def test_single_files_are_called_after_their_folders(small: Family, tmp_path: Path) -> None:
    files = [path / "model.safetensors" for path in (small.base_path, small.paths["alpha"])]
    done = run("pack", *files, "-o", tmp_path / "s", "--json")
    said = json.loads(done.stdout)
    assert (said["base_name"], [task["name"] for task in said["tasks"]]) == ("base", ["alpha"])


@pytest.mark.parametrize("name", ["acme/billing", "gemma:27b", "billing@2025-01", "Größe v1.5"])
def test_names_of_gateways(name: str, small: Family, tmp_path: Path) -> None:
    alpha = small.paths["alpha"]
    done = run("pack", small.base_path, f"{name}={alpha}", "-o", tmp_path / "s", "--tiers=exact")
    assert done.exit_code == 0, done.stderr
    assert taskstore.open(tmp_path / "s").tasks == [name]
    folder = name.replace("/", "--").replace(":", "--")
    assert (tmp_path / "s/tasks" / folder).is_dir()
    assert run("unpack", tmp_path / "s", "--all", "-o", tmp_path / "out").exit_code == 0
    back = (tmp_path / "out" / folder / "model.safetensors").read_bytes()
    assert back == (alpha / "model.safetensors").read_bytes()
    assert run("verify", tmp_path / "s", "--deep").exit_code == 0
    clash = run(
        "pack", small.base_path, f"{name}={alpha}", f"{folder}={alpha}", "-o", tmp_path / "t"
    )
    assert clash.exit_code and "is given twice" in clash.stderr


def test_a_store_where_a_model_is_expected(packed: Path, small: Family, tmp_path: Path) -> None:
    base = small.base_path
    for words in (["pack", packed, f"a={base}"], ["pack", base, f"a={packed}"],
                  ["merge", base, f"a={packed}", "--method=sum"]):  # fmt: skip
        done = run(*words, "-o", tmp_path / "new")
        assert done.exit_code == 1
        assert "is a store, not a model" in done.stderr and "taskstore unpack" in done.stderr


def test_a_model_where_a_store_is_expected(small: Family, tmp_path: Path) -> None:
    new = ["-o", tmp_path / "new"]
    for path in (small.base_path, small.base_path / "model.safetensors"):
        for words in (["info"], ["verify"], ["load", "alpha"], ["unpack", "alpha", *new],
                      ["report", *new], ["remove", "alpha", "--yes"], ["serve"]):  # fmt: skip
            done = run(words[0], path, *words[1:])
            assert done.exit_code == 1, done.output
            assert (
                "is not a taskstore store" in done.stderr and "taskstore pack BASE" in done.stderr
            )
    assert not list(tmp_path.iterdir())
