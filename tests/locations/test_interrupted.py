"""Ctrl-C and SIGTERM leave nothing; tests/cli/test_killed.py has what cannot be caught."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.support import families

pytestmark = pytest.mark.slow
SHAPES = {f"layers.{i}.weight": (512, 512) for i in range(12)}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> families.Family:
    return families.family(tmp_path_factory.mktemp("large"), 3, torch.float32, SHAPES)


def start(
    family: families.Family, target: Path, command: str = "pack", *more: str
) -> subprocess.Popen[bytes]:
    models = family.base_path, *family.paths.values()
    words = [command, *models, "-o", target, "--overwrite", *more]
    line = [sys.executable, "-m", "taskstore_cli", *map(str, words)]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for_work(process: subprocess.Popen[bytes], partial: Path) -> None:
    """Until the pack is under way (or over)."""
    while process.poll() is None and not partial.exists():
        time.sleep(0.002)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", [["pack"], ["merge", "--method", "tsv"]], ids=["pack", "merge"])
def test_ctrl_c(
    large: families.Family, tmp_path: Path, words: list[str], how: signal.Signals
) -> None:
    target, partial = tmp_path / "store", tmp_path / ".store.partial"
    for turn in range(20):  # sooner and sooner, until one has not ended its work before
        process = start(large, target, *words)
        wait_for_work(process, partial)
        time.sleep(0.05 / 2**turn)
        process.send_signal(how)
        _, err = process.communicate()
        if not target.exists():
            assert process.returncode == 130
            assert b"Traceback" not in err
            assert os.listdir(tmp_path) == []
            return
        shutil.rmtree(target)
    pytest.fail("every run ended before it could be interrupted")
