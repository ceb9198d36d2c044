"""The core of the command in a Python that has no torch: every command works, or names an extra."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.families import Family

CODE = """
import contextlib, io, json, sys
for name in ("torch", "transformers", "accelerate", "plotly", "vllm"):
    sys.modules[name] = None
from taskstore_cli.main import main
for words in json.load(sys.stdin):
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            main(words)
    except SystemExit as done:
        print(json.dumps([words[0], done.code or 0, said.getvalue()]))
"""


def without_torch(*commands: list[object]) -> list[tuple[str, int, str]]:
    """Run commands in one such process; return the name, status and stderr of each."""
    words = json.dumps([[*map(str, command)] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", CODE], input=words, text=True, capture_output=True, check=True,
        env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_the_core_works(small: Family, tmp_path: Path) -> None:
    base, a, b, c = (small.base_path, *small.paths.values())
    masks, archive, rests = tmp_path / "masks", tmp_path / "archive", tmp_path / "rests"
    evaluator = f"{sys.executable} -c print(0.5) {{model}}"
    done = without_torch(
        ["pack", base, a, b, "-o", masks],
        ["info", masks],
        ["info", masks, "--overlap"],
        ["verify", masks, "--deep"],
        ["unpack", masks, "--all", "-o", tmp_path / "models"],
        ["eval", masks, "--eval", evaluator, "--record", "accuracy"],
        ["remove", masks, a.name, "--yes"],
        ["pack", base, a, "-o", archive, "--tiers", "exact"],
        ["add", archive, b, c],
        ["retier", archive, "--tiers", "mask,rest", "-o", rests],
        ["unpack", rests, b.name, "-o", tmp_path / "one"],
        ["tune", base, a, "-o", tmp_path / "tuned", "--eval", evaluator],
        ["merge", base, a, b, "--method", "ties", "-o", tmp_path / "ties"],
        ["merge", base, a, b, "--method", "tsv", "-o", tmp_path / "tsv"],
        ["methods"],
    )
    assert [(name, said) for name, status, said in done if status] == []
    assert len(done) == 15


def test_the_others_name_what_they_lack(small: Family, packed: Path, tmp_path: Path) -> None:
    import torch

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    torch.save({"w": torch.zeros(2)}, pickled / "pytorch_model.bin")
    (pickled / "config.json").write_text("{}")
    beside = tmp_path / "beside"
    shutil.copytree(small.paths["alpha"], beside)
    torch.save({"w": torch.zeros(2)}, beside / "head.bin")
    page, examples = tmp_path / "page.html", tmp_path / "examples.jsonl"
    lacks = {
        "load": "load needs PyTorch, the extra torch: ",
        "measure": "measure needs transformers, the extra hf: ",
        "report": "a report needs plotly, the extra report: ",
        "pack": f"reading {pickled / 'pytorch_model.bin'} needs PyTorch, the extra torch: ",
        "add": f"carrying {beside / 'head.bin'} needs PyTorch, the extra torch: ",
    }
    archive = tmp_path / "archive"
    first, *done = without_torch(
        ["pack", small.base_path, small.paths["beta"], "-o", archive, "--tiers", "exact"],
        ["load", packed, "alpha"],
        ["measure", small.base_path, "--data", examples, "-o", tmp_path / "statistics"],
        ["report", packed, "-o", page],
        ["pack", small.base_path, pickled, "-o", tmp_path / "store"],
        ["add", archive, beside],
    )
    assert first[1] == 0
    for name, status, said in done:
        assert status == 1
        assert said.startswith(f"error: {lacks.pop(name)}") and said.count("\n") == 1
    assert not lacks
    assert not page.exists() and not (tmp_path / "store").exists()


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_singular_values_are_those_of_torch(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from taskstore.merging.methods import tsv

    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    ours = tsv.orthonormal(x)
    monkeypatch.setitem(sys.modules, "torch", None)
    np.testing.assert_allclose(tsv.orthonormal(x), ours, atol=1e-5)
