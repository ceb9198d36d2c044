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
    """The tables are there; no answer changed, and one that is wrong is the fine-tune's."""
    done = run(EXAMPLES / "demo.py", "--out", tmp_path, "--limit", 150)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in (
        "It takes",
        "$ taskstore pack",
        "$ taskstore unpack",
        "rebuilt",
        "roman",
        "times smaller",
        "XLV",
        "Same mistake (german 45): the fine-tune itself is wrong here.",
        "a rebuilt model is an approximation",
        '"make demo TIERS=auto:B" takes fewer bytes',
        f"info {tmp_path / 'store'}",
    ):
        assert word in " ".join(done.stdout.split()), word
    assert "Differs" not in done.stdout


@pytest.mark.parametrize("tiers", ["mask", "exact"])
def test_other_tiers_are_what_the_demo_says(tiers: str, tmp_path: Path) -> None:
    """An answer that packing changed is named; an archive changes none."""
    done = run(EXAMPLES / "demo.py", "--out", tmp_path, "--limit", 40, "--tiers", tiers)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Same mistake (german 45)" in done.stdout
    assert ("keep 100.0% of their originals' scores" in done.stdout) == (tiers == "exact")
    assert ("Differs (german 2000): packing changed" in done.stdout) == (tiers == "mask")
    assert ('"make demo TIERS=auto" keeps more' in done.stdout) == (tiers == "mask")
    assert ("bit for bit" in done.stdout) == (tiers == "exact")


def test_the_demo_needs_no_more_than_transformers() -> None:
    """`make demo` has an environment without what only the gates need."""
    code = "import sys, demo; print(*{'vllm', 'peft', 'pytest', 'plotly'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=EXAMPLES, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


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
