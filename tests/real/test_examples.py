"""The example family and its demo, as a reader runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

EXAMPLES = ROOT / "examples"
pytestmark = pytest.mark.slow


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_demo(tmp_path: Path) -> None:
    done = run(EXAMPLES / "demo.py", "--out", tmp_path, "--limit", 150)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in (
        "$ taskstore pack",
        "$ taskstore unpack",
        "rebuilt",
        "roman",
        "times smaller",
        "XLV",
    ):
        assert word in done.stdout


def test_a_demo_that_fails_says_so(tmp_path: Path) -> None:
    """At a lambda far off, the rebuilt models are bad, and the demo must not hide it."""
    done = run(EXAMPLES / "demo.py", "--out", tmp_path, "--limit", 40, "--lambda", 5)
    assert done.returncode == 1
    assert "of the score kept on" in done.stderr


def test_the_evaluator() -> None:
    done = run(EXAMPLES / "evaluate.py", EXAMPLES / "family" / "roman", "roman", "--limit", 50)
    result = json.loads(done.stdout)
    assert (result["task"], result["split"], result["n"]) == ("roman", "test", 50)
    assert result["score"] >= 0.95


def test_the_family_is_small() -> None:
    assert sum(p.stat().st_size for p in EXAMPLES.rglob("*") if p.is_file()) < 12_000_000
