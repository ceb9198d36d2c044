"""The set-up never lets a CUDA build of torch onto a machine without a GPU."""

from __future__ import annotations

import importlib.util
import json
from types import ModuleType

import pytest

from tests.support import ROOT

SCRIPT = ROOT / "tools" / "setup_env.py"


@pytest.fixture
def setup_env(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if not SCRIPT.exists():
        pytest.skip("tools/ is not part of an installed taskstore")
    spec = importlib.util.spec_from_file_location("setup_env", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv("TASKSTORE_ALLOW_CUDA", raising=False)
    monkeypatch.setattr(module, "has_gpu", lambda: False)
    return module


def plan(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    report = {"install": [{"metadata": {"name": name}} for name in names]}
    monkeypatch.setattr(module, "pip", lambda *_: json.dumps(report))


def test_a_cpu_build_is_fine(setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(setup_env, monkeypatch, "torch", "sympy", "networkx")
    setup_env.refuse_cuda("python")


def test_a_cuda_build_is_refused(setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(setup_env, monkeypatch, "torch", "nvidia-cublas", "nvidia-nccl-cu13", "triton")
    with pytest.raises(SystemExit, match=r"CUDA build of torch \(3 packages, nvidia-cublas"):
        setup_env.refuse_cuda("python")
    monkeypatch.setattr(setup_env, "has_gpu", lambda: True)
    setup_env.refuse_cuda("python")


def test_unless_it_is_wanted(setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(setup_env, monkeypatch, "nvidia-cublas")
    monkeypatch.setenv("TASKSTORE_ALLOW_CUDA", "1")
    setup_env.refuse_cuda("python")
