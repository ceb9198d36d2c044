"""The check of a GPU, small and on the CPU: all of its parts but those that need one."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

from taskstore.kernels import dispatch
from tests.support import ROOT

pytest.importorskip("triton", reason="triton is not installed")
SCRIPT = ROOT / "tools" / "gpu_check.py"


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if not SCRIPT.exists():
        pytest.skip("tools/ is not part of an installed taskstore")
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "gpu_check", module)  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_it_runs_small_on_the_cpu(gpu_check: ModuleType, tmp_path: Path) -> None:
    found = tmp_path / "figures.json"
    words = ["--device", "cpu", "--params", "2e6,1e12", "--elements", "1e4", "--minutes", "9"]
    # the second family is not begun: it would take years
    status = gpu_check.main([*words, "--work", str(tmp_path), "--json", str(found)])
    rows = json.loads(found.read_text())["rows"]
    proved = [row["what"] for row in rows if row["right"]]
    assert [row for row in rows if row["right"] is False] == [] and status == 0
    for part in ("swap, 16 bits", "swap, 32 bits", "rest, BF16", "rest, F32", "mixed, all sizes",
                 "memory", "every tensor of every task"):  # fmt: skip
        assert any(part in what for what in proved), part
    assert any("left out" in row["note"] for row in rows)
    compared = {row["against"] for row in rows if row["ratio"]}
    assert compared == {
        "copy of the weights",
        "copy of all weights",
        "load_file",
        "as many products",
    }
    assert list(tmp_path.iterdir()) == [found]


def test_a_wrong_kernel_is_said(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.on_gpu import swaps

    swap, native = dispatch.kernel_for(torch.device("cpu"))

    def wrong(a: object, b: object, d: object, w: object) -> None:
        swap(a, b, d, w)
        if getattr(w, "size", 0) == 2049:
            w[-1] ^= 1  # type: ignore[index]

    monkeypatch.setattr(swaps, "kernel_for", lambda _: (wrong, native))
    check = gpu_check.Check(torch.device("cpu"), tmp_path, 5000, time.monotonic() + 60)
    gpu_check.kernels(check)
    bad = [row.what for row in check.rows if row.right is False]
    assert bad == ["swap, 16 bits, 2049 weights", "swap, 16 bits, 9 sizes",
                   "swap, 32 bits, 2049 weights", "swap, 32 bits, 9 sizes"]  # fmt: skip


def test_a_part_that_fails_is_a_result(gpu_check: ModuleType, tmp_path: Path) -> None:
    check = gpu_check.Check(torch.device("cpu"), tmp_path, 10, time.monotonic() + 60)
    check.tried("a part", lambda: 1 // 0)
    (row,) = check.rows
    assert (row.what, row.right) == ("a part", False) and "ZeroDivisionError" in row.note


def test_a_wrong_product_is_said(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that gives a row the weights of another task, of one shape and dtype."""
    from benchmarks.on_gpu import mixed

    check = gpu_check.Check(torch.device("cpu"), tmp_path, 5000, time.monotonic() + 60)
    family = mixed.Family((37, 9), torch.bfloat16, check.device, 5, rests=True)
    mixed._prove(check, family)
    assert check.rows == []
    right = family.weights
    monkeypatch.setattr(family, "weights", lambda task: right(0 if task == 2 else task))
    mixed._prove(check, family)
    said = {row.what.rsplit(", ", 1)[1] for row in check.rows if row.right is False}
    assert "weights of 2" in said and "7 rows" in said


def test_the_table_and_the_figures_say_what_was_found(
    gpu_check: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        gpu_check.Row("fast", 0.5, "slow", 2.0, nbytes=10**9, right=True),
        gpu_check.Row("bad", right=False, note="why"),
    ]
    gpu_check.show(rows, "title")
    said = capsys.readouterr().out
    assert "0.25" in said and " 2 " in said and "WRONG" in said and "why" in said


@pytest.mark.parametrize("words", [["--device", "cuda"], ["--device", "cpu", "--work", "nowhere"]])
def test_what_cannot_run_is_refused(gpu_check: ModuleType, words: list[str]) -> None:
    if words[-1] == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as refused:
        gpu_check.main(words)
    assert refused.value.code == 2
