"""What is said where an optional library is missing: its extra, and a line that can be typed."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import taskstore
from taskstore import extras
from taskstore.errors import MissingExtra, TaskstoreError
from tests.support import ROOT

Install = Callable[..., None]
INDEX = ["--extra-index-url", extras.CPU_INDEX]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Pretend how taskstore was installed, on Linux without a GPU, and what came with it."""

    def install(origin: object, *files: str, there: str = "", gpu: bool = False) -> None:
        class Distribution:
            def read_text(self, name: str) -> str | None:
                return None if origin is None else json.dumps(origin)

        monkeypatch.setattr(extras, "distribution", lambda _: Distribution())
        monkeypatch.setattr(extras, "_there", lambda library: library in there.split())
        monkeypatch.setattr(extras, "has_gpu", lambda: gpu)
        monkeypatch.setattr(extras, "find_spec", lambda name: name)  # pip is there
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(sys, "prefix", str(tmp_path))
        monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
        monkeypatch.setattr(shutil, "which", lambda name: f"{tmp_path}/bin/{name}")
        for file in files:
            (tmp_path / file).touch()

    return install


SOURCES = {"url": "file:///home/me/task%20store", "dir_info": {}}
ORIGINS = {
    "an index": (None, ["taskstore[torch]"]),
    "a folder": (SOURCES, ["/home/me/task store[torch]"]),
    "a folder, editable": (
        {**SOURCES, "dir_info": {"editable": True}},
        ["-e", "/home/me/task store[torch]"],
    ),
    "a wheel": ({"url": "file:///t/t.whl", "archive_info": {}}, ["/t/t.whl[torch]"]),
    "a wheel of a server": (
        {"url": "https://example.org/t.whl", "archive_info": {}},
        ["taskstore[torch] @ https://example.org/t.whl"],
    ),
    "a commit": (
        {"url": "https://example.org/t", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}},
        ["taskstore[torch] @ git+https://example.org/t@c0ffee"],
    ),
}


@pytest.mark.parametrize("kind", ORIGINS)
def test_the_line_installs_from_where_the_package_came(installed: Install, kind: str) -> None:
    origin, source = ORIGINS[kind]
    installed(origin)
    words = shlex.split(extras.install_line("torch"))
    assert words == ["pip", "install", *INDEX, *source]


def test_without_a_distribution_it_names_the_sources(
    installed: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    installed(None)
    monkeypatch.setattr(extras, "distribution", absent)
    root = Path(taskstore.__file__).parent.parent
    assert shlex.split(extras.install_line("report")) == ["pip", "install", f"{root}[report]"]


def test_the_index_for_cpus_is_named_where_torch_would_come_without_a_gpu(
    installed: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    for extra in ("torch", "hf", "serve-cpu"):
        installed(None)
        assert extras.CPU_INDEX in extras.install_line(extra)
        installed(None, gpu=True)
        assert extras.CPU_INDEX not in extras.install_line(extra)
        installed(None, there="torch")
        assert extras.CPU_INDEX not in extras.install_line(extra)
    installed(None)
    assert extras.install_line("report") == "pip install 'taskstore[report]'"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert extras.install_line("hf") == "pip install 'taskstore[hf]'"


def test_each_tool_gets_its_own_line(installed: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(SOURCES, "uv-receipt.toml", there="plotly")
    source = "'/home/me/task store[report,hf]'"
    assert extras.install_line("hf") == f"uv tool install --torch-backend cpu {source}"
    installed(SOURCES, "pipx_metadata.json", there="torch")
    source = "'/home/me/task store[hf]'"
    assert extras.install_line("hf") == f"pipx install --force {source}"
    installed(SOURCES, "pipx_metadata.json")
    index = f"'--pip-args={' '.join(INDEX)}'"
    assert extras.install_line("hf") == f"pipx install --force {index} {source}"


def test_an_environment_of_uvx_starts_again_with_the_same_words(
    installed: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(None)
    monkeypatch.setattr(sys, "prefix", "/cache/uv/archive-v0/x")
    monkeypatch.setattr(sys, "argv", ["/x/taskstore", "report", "s", "-o", "p.html"])
    line = "uvx --from 'taskstore[report]' taskstore report s -o p.html"
    assert extras.install_line("report") == line


def test_a_pip_of_another_environment_is_not_taken(
    installed: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(None)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/pip")
    line = f"{sys.executable} -m pip install 'taskstore[report]'"
    assert extras.install_line("report") == line
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    line = f"uv pip install --python {sys.executable} 'taskstore[report]'"
    assert extras.install_line("report") == line


def test_what_is_missing_first_is_what_brings_the_rest(
    installed: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(None)
    with pytest.raises(MissingExtra, match="^load_model needs transformers, the extra hf: pip"):
        extras.need("load_model", "transformers", "torch")
    installed(None, there="transformers")
    with pytest.raises(MissingExtra, match="^load_model needs PyTorch, the extra torch: pip"):
        extras.need("load_model", "transformers", "torch")


def test_a_library_that_fails_says_why(
    installed: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "accelerate.py").write_text("import none_such_library")
    (tmp_path / "plotly.py").write_text("raise OSError('libx.so:\\ncannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    for library in ("accelerate", "plotly"):
        for name in [name for name in sys.modules if name.split(".")[0] == library]:
            monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtra, match=r"fails: No module named 'none_such_library'; install"):
        extras.need("this", "accelerate")
    with pytest.raises(MissingExtra, match=r"plotly, which is .* fails: libx\.so: cannot open; "):
        extras.need("this", "plotly")


def test_a_name_of_the_root_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("taskstore.swap")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(vars(taskstore), "attach", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TaskstoreError, match=r"^taskstore\.attach needs PyTorch, the extra torch"):
        _ = taskstore.attach


def test_every_extra_that_is_named_exists() -> None:
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("pyproject.toml is not part of an installed taskstore")
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    there = project["optional-dependencies"]
    named = {x for one in extras.LIBRARIES.values() for x in (one.extra, one.without_gpu) if x}
    assert named | set(extras.WITH_TORCH) <= set(there)
    assert not any(one.startswith(("torch", "transformers")) for one in project["dependencies"])
