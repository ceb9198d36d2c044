"""What a command must not import: it starts at once where it needs no loop, model or network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from taskstore.merging.methods import MERGES
from taskstore.native import levels
from tests.support.families import Family

CODE = """
import contextlib, io, json, sys
from taskstore_cli.main import main
with contextlib.redirect_stdout(io.StringIO()):
    try:
        main(json.loads(sys.argv[1]))
    except SystemExit as done:
        status = done.code or 0
print(json.dumps([status, sorted(sys.modules)]))
"""
MODELS = {"torch", "transformers", "huggingface_hub", "jsonschema", "obstore", "ray"}
LOOPS = {"scipy", *(f"taskstore.native.loops_{level}" for level in levels.available())}
USED = {"lsq", "sum", "lines"}  # the fixture's own, its rows; the numbers of layers
METHODS = {f"taskstore.merging.methods.{name}" for name in MERGES if name not in USED}


@pytest.mark.parametrize(
    ("words", "not_loaded"),
    [
        (["--help"], MODELS | LOOPS | {"numpy", "rich"}),
        (["pack", "--help"], MODELS | LOOPS | {"numpy"}),
        (["info", "STORE"], MODELS | LOOPS | {"numpy"}),
        (["verify", "STORE"], MODELS | LOOPS | {"numpy"}),
        (["remove", "STORE", "alpha", "--yes"], MODELS | LOOPS | {"numpy"}),
        (["unpack", "STORE", "alpha", "-o", "OUT"], MODELS | METHODS | {"scipy"}),
        (["add", "STORE", "other=MODEL"], MODELS | METHODS | {"scipy"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_does_not_load(
    words: list[str], not_loaded: set[str], packed: Path, small: Family, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(packed, store)
    places = {"STORE": str(store), "OUT": str(tmp_path / "out")}
    model = str(small.paths["alpha"])
    command = json.dumps([places.get(word, word).replace("MODEL", model) for word in words])
    done = subprocess.run(
        [sys.executable, "-c", CODE, command], text=True, capture_output=True, check=True
    )
    status, loaded = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, done.stderr
    assert sorted(not_loaded & set(loaded)) == []
