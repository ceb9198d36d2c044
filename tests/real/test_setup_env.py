"""The set-up: no CUDA build of torch without a GPU, and no more than the target needs."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
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
    monkeypatch.setitem(sys.modules, "setup_env", module)  # its dataclass looks itself up
    spec.loader.exec_module(module)
    monkeypatch.delenv("TASKSTORE_ALLOW_CUDA", raising=False)
    monkeypatch.setattr(module, "has_gpu", lambda: False)
    return module


def plan(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    report = {"install": [{"metadata": {"name": name}} for name in names]}
    monkeypatch.setattr(module, "pip", lambda *_: json.dumps(report))


def test_a_cpu_build_is_fine(setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(setup_env, monkeypatch, "torch", "sympy", "networkx")
    setup_env.refuse_cuda("python", "demo")


def test_a_cuda_build_is_refused(setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(setup_env, monkeypatch, "torch", "nvidia-cublas", "nvidia-nccl-cu13", "triton")
    with pytest.raises(SystemExit, match=r"CUDA build of torch \(3 packages, nvidia-cublas"):
        setup_env.refuse_cuda("python", "demo")
    monkeypatch.setattr(setup_env, "has_gpu", lambda: True)
    setup_env.refuse_cuda("python", "demo")


def test_unless_it_is_wanted(setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(setup_env, monkeypatch, "nvidia-cublas")
    monkeypatch.setenv("TASKSTORE_ALLOW_CUDA", "1")
    setup_env.refuse_cuda("python", "demo")


@pytest.fixture
def elsewhere(
    setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> list[tuple[str, ...]]:
    """The environments below a folder of the test's own; what pip was asked for."""
    asked: list[tuple[str, ...]] = []

    def pip(python: str, *words: str) -> str:
        asked.append(words)
        return json.dumps({"install": []})

    def create(folder: Path, with_pip: bool) -> None:
        folder.mkdir()

    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    monkeypatch.setattr(setup_env, "ROOT", tmp_path)
    monkeypatch.setattr(setup_env, "pip", pip)
    monkeypatch.setattr(setup_env.venv, "create", create)
    monkeypatch.setattr(setup_env, "drop_torchvision", lambda _: asked.append(("torchvision",)))
    monkeypatch.setattr(setup_env, "compile_loops", lambda _: asked.append(("loops",)))
    return asked


def test_the_demo_gets_the_library_and_transformers(
    setup_env: ModuleType, elsewhere: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert setup_env.ready(demo=True) is setup_env.DEMO
    assert [words[-2:] for words in elsewhere[1:]] == [
        setup_env.COMPILING,
        (f"{setup_env.ROOT}[hf]", setup_env.TORCH),
    ]
    assert "making .venv-demo: about a minute" in capsys.readouterr().err
    elsewhere.clear()
    assert setup_env.ready(demo=True) is setup_env.DEMO
    assert elsewhere == [("loops",)]  # it is there; what changed of the loops is compiled


def test_the_demo_takes_the_full_environment_where_it_is_complete(
    setup_env: ModuleType, elsewhere: list[tuple[str, ...]]
) -> None:
    assert setup_env.ready(demo=False) is setup_env.FULL
    assert elsewhere[-1] == ("torchvision",)
    elsewhere.clear()
    assert setup_env.ready(demo=True) is setup_env.FULL
    assert elsewhere == []


def test_only_dependencies_make_an_environment_out_of_date(
    setup_env: ModuleType, elsewhere: list[tuple[str, ...]]
) -> None:
    settings = setup_env.ROOT / "pyproject.toml"
    setup_env.ready(demo=False)
    settings.write_text(settings.read_text().replace("line-length = 100", "line-length = 90"))
    assert setup_env.FULL.is_complete()
    settings.write_text(settings.read_text().replace('"blake3>=1.0"', '"blake3>=1.1"'))
    assert not setup_env.FULL.is_complete()


def test_no_pin_contradicts_the_lock() -> None:
    lock = ROOT / "requirements-dev.lock"
    if not lock.exists():
        pytest.skip("the lock is not part of an installed taskstore")
    import tomllib

    locked = dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", lock.read_text(), re.MULTILINE))
    dev = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pins = dict(one.partition(";")[0].split("==") for one in dev["dev"] if "==" in one)
    assert len(pins.keys() & locked.keys()) > 8
    assert {n: v for n, v in pins.items() if locked.get(n, v) != v} == {}, "make lock"
    assert not re.search(r"https?://|file:", lock.read_text())


def test_make_alone_lists_every_target() -> None:
    makefile = ROOT / "Makefile"
    if not makefile.exists():
        pytest.skip("the Makefile is not part of an installed taskstore")
    done = subprocess.run(["make", "-C", ROOT], capture_output=True, text=True, check=True)
    (targets,) = [line for line in makefile.read_text().splitlines() if line.startswith(".PHONY")]
    listed = {line.split()[0] for line in done.stdout.splitlines() if not line.startswith("make")}
    assert listed == set(targets.split()[1:])
