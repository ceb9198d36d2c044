"""Printed figures: the same in text and JSON, each name with one meaning, each true."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from taskstore_cli.main import main

import taskstore
from tests.support import families
from tests.support.families import Family


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def places(found: Any, name: str) -> int:
    """How often a member of that name stands in a document."""
    if isinstance(found, dict):
        return (name in found) + sum(places(value, name) for value in found.values())
    return sum(places(value, name) for value in found) if isinstance(found, list) else 0


def test_a_share_of_bits_has_one_meaning(packed: Path) -> None:
    found = json.loads(run("info", packed, "--json").stdout)
    assert places(found, "bits_per_parameter_and_task") == 1
    apart = found["store_bytes"] - found["base_bytes"]
    expected = 8 * apart / found["parameters"] / len(found["tasks"])
    assert found["bits_per_parameter_and_task"] == expected
    tier = found["tiers"][0]
    assert tier["own_bits_per_parameter_and_task"] == 8 * tier["bytes"] / found["parameters"] / 3


def test_a_tier_is_of_the_tasks_that_have_it(tmp_path: Path) -> None:
    """A rest of two tasks and one exact task: bits, memory and counts are per their own tasks."""
    base = families.random_state(0, shapes={"w": (64, 64)})
    made = Family(tmp_path, base, {name: families.tuned(base, i) for i, name in enumerate("abc")})
    store = tmp_path / "s"
    tasks = [f"{name}={path}" for name, path in made.paths.items()]
    assert run("pack", made.base_path, *tasks, "-o", store, "--tiers=rest", "-q").exit_code == 0
    assert run("replace", store, tasks[-1], "--tiers=exact", "-q").exit_code == 0
    found = json.loads(run("info", store, "--json").stdout)
    tiers = {tier["name"]: tier for tier in found["tiers"]}
    for name, count in {"rest": 2, "exact": 1}.items():
        bits = 8 * tiers[name]["bytes"] / (64 * 64) / count
        assert tiers[name]["own_bits_per_parameter_and_task"] == bits
    live = sum(t.nbytes for t in base.values())
    assert tiers["exact"]["serving_bytes"] == 2 * live  # the base and one task
    assert "rest of 2 tasks, quantised" in run("info", store).stdout


def test_verify_counts_the_same_files(packed: Path) -> None:
    files = sum(path.is_file() for path in packed.rglob("*"))
    assert json.loads(run("verify", packed, "--json").stdout)["files"] == files
    assert f"every byte is as packed: {files} files" in run("verify", packed).stdout


def test_bits_of_a_task_that_shares_nothing(tmp_path: Path) -> None:
    """float32 fine-tunes of a bf16 base are private in an archive: some 30 bits, not millions."""
    base = families.random_state(0, shapes={"w": (64, 64)})
    state = families.tuned(base, 1, dtype=torch.float32)
    made = Family(tmp_path, base, {"one": state})
    words = ("-o", tmp_path / "s", "--tiers=exact", "--json")
    done = run("pack", made.base_path, made.paths["one"], *words)
    (task,) = json.loads(done.stdout)["tasks"]
    own = sum(task[f"{part}_bytes"] for part in ("masks", "rest", "exact", "private"))
    assert task["bits_per_parameter"] == 8 * own / (64 * 64)
    assert 8 < task["bits_per_parameter"] < 40


def test_a_store_that_is_larger_than_what_came_in_says_so(tmp_path: Path) -> None:
    base = families.random_state(0, shapes={"layer.q_proj.weight": (256, 256)})
    folder = families.save(tmp_path / "base", base)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    name = "base_model.model.layer.q_proj.lora_"
    save_file(
        {f"{name}A.weight": torch.randn(2, 256), f"{name}B.weight": torch.randn(256, 2)},
        adapter / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    done = run("pack", folder, adapter, "-o", tmp_path / "s", "--tiers=exact")
    assert done.exit_code == 0, done.stderr
    assert "so it is larger than they came in" in done.stdout
    assert "adapter came as LoRA adapters, which are smaller than any tier" in done.stderr
    assert "keep the adapters" in done.stderr


def test_load_says_what_is_loaded(packed: Path) -> None:
    words = taskstore.open(packed).fidelity("alpha").words
    done = run("load", packed, "alpha")
    assert done.stdout.endswith(f"alpha: {words}\n") and not done.stderr
    found = json.loads(run("load", packed, "alpha", "--json").stdout)["fidelity"]
    assert found["words"] == words
    assert run("load", packed, "--base").stdout.endswith("the base: exact\n")


def test_a_recorded_score_says_over_how_many_examples(packed: Path, tmp_path: Path) -> None:
    packed = Path(shutil.copytree(packed, tmp_path / "store"))
    script = tmp_path / "score.py"
    script.write_text("""print('{"score": 0.5, "n": 40}')""")
    command = f"{sys.executable} {script} {{model}} {{task}}"
    journal = tmp_path / "scores.jsonl"
    words = ("eval", packed, "alpha", "--eval", command, "--journal", journal, "--record", "x")
    for _ in range(2):  # the second time the scores come from the journal
        (row,) = json.loads(run(*words, "--json").stdout)["scores"]
        assert (row["rebuilt"], row["n"]) == (0.5, 40)
    task = json.loads(run("info", packed, "--json").stdout)["tasks"][0]
    assert task["scores"]["x"] == {"rebuilt": 0.5, "n": 40}
    assert "x 0.5 (n 40)" in run("info", packed).stdout
    assert "x 0.5 (n 40)" in (packed / "README.md").read_text()


def test_lower_tiers_and_merges_say_how_near_they_are(tmp_path: Path) -> None:
    made = families.family(tmp_path, 2)
    words = (made.paths["alpha"], made.paths["beta"], "-o", tmp_path / "s", "--tiers=mask,rest")
    assert run("pack", made.base_path, *words).exit_code == 0
    store = taskstore.open(tmp_path / "s")
    lower = json.loads(run("verify", store.path, "--json").stdout)["lower_fidelity"]
    assert lower["beta"]["mask"]["words"] == store.fidelity("beta", "mask").words
    card = (store.path / "README.md").read_text()
    assert "one bit mask and one quantised vector per task." in card
    merging = ("--method", "average", "-o", tmp_path / "m", "--json")
    note = json.loads(run("merge", store.path, *merging).stdout)["notes"]["s"]
    assert f"beta {store.fidelity('beta').words}" in note
