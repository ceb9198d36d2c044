"""Whatever ends the process, the target is as it was and one partial folder is left at most."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import taskstore
from taskstore.store.verify import verify
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


def test_kill_at_random_moments(large: families.Family, tmp_path: Path) -> None:
    target, partial = tmp_path / "store", tmp_path / ".store.partial"
    rng = random.Random(0)
    killed = 0
    for round_ in range(12):
        before = (target / "taskstore.json").read_bytes() if target.exists() else None
        process = start(large, target)
        wait_for_work(process, partial)
        time.sleep(rng.uniform(0, 0.25))
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        left = {p.name for p in tmp_path.iterdir()}
        assert left <= {"store", ".store.partial"}
        if target.exists():
            assert verify(taskstore.open(target)).ok, round_
        elif before is not None:
            pytest.fail("a store that was there is gone")
    assert killed > 0
    process = start(large, target)
    assert process.wait() == 0
    process.communicate()
    assert {p.name for p in tmp_path.iterdir()} == {"store"}
    assert verify(taskstore.open(target), deep=True).ok


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", [["pack"], ["merge", "--method", "tsv"]], ids=["pack", "merge"])
def test_ctrl_c(
    large: families.Family, tmp_path: Path, words: list[str], how: signal.Signals
) -> None:
    target, partial = tmp_path / "store", tmp_path / ".store.partial"
    for _ in range(10):
        process = start(large, target, *words)
        wait_for_work(process, partial)
        time.sleep(0.05)
        process.send_signal(how)
        _, err = process.communicate()
        if process.returncode != 0:
            assert process.returncode == 130
            assert b"Traceback" not in err
            assert os.listdir(tmp_path) == []
            return
        assert target.is_dir()
        for path in sorted(target.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        target.rmdir()
    pytest.fail("every run ended before it could be interrupted")
