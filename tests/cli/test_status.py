"""Exit status of every command: 2 for wrong words, 1 for a model or a store that is not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch  # noqa: F401  so that what it loads is there before one test hides it
from click.testing import CliRunner
from taskstore_cli.main import main

from tests.support.hub.faults import Hub

EVAL = "--eval=true {model}"
MISSING = {
    "pack": ["none", "a=none", "-o", "new"],
    "seal": ["none"],
    "route": ["--servers", "a:1", "--tasks-from", "none", "-o", "new"],
    "tune": ["none", "a=none", "-o", "new", EVAL],
    "unpack": ["none", "a", "-o", "new"],
    "export": ["none", "a", "-o", "new", "--ollama"],
    "load": ["none", "a"],
    "info": ["none"],
    "verify": ["none"],
    "eval": ["none", EVAL],
    "add": ["none", "a=none"],
    "replace": ["none", "a=none"],
    "rename": ["none", "a", "b"],
    "copy": ["none", "a", "-o", "new"],
    "push": ["none", "org/none"],
    "pull": ["org/none", "-o", "new"],
    "log": ["none"],
    "gc": ["none"],
    "repair": ["none", "--from=none"],
    "remove": ["none", "a"],
    "retier": ["none", "--tiers=exact", "-o", "new"],
    "merge": ["none", "a=none", "--method=sum", "-o", "new"],
    "measure": ["none", "--data=none", "-o", "new"],
    "report": ["none", "-o", "new"],
    "serve": ["none"],
}


@pytest.mark.parametrize("command", sorted(main.commands))
def test_wrong_words_are_2_and_missing_input_is_1(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    assert run(main, [command, "--no-such-option"]).exit_code == 2
    if command == "methods":
        assert run(main, [command, "none"]).exit_code == 2
        return
    assert run(main, [command]).exit_code == 2
    done = run(main, [command, *MISSING[command]])
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "no such" in done.stderr.lower()
    assert not list(tmp_path.iterdir())


def test_load_without_torch(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "taskstore.devices", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    done = CliRunner().invoke(main, ["load", str(packed), "alpha"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: load needs PyTorch, the extra torch: ")
    assert done.stderr.endswith("[torch]'\n")
