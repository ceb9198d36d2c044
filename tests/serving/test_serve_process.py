"""`taskstore serve` as a process: from its start over HTTP to each of its ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

import taskstore
from tests.serving.support.engines import FAMILY, need_vllm
from tests.support import json_schema

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
SMALL = "--enforce-eager --max-model-len 128 --max-num-seqs 8 --kv-cache-memory-bytes 64m"
KEY = "key-of-the-test"
PATIENCE = 300.0


@dataclass
class Server:
    process: subprocess.Popen[str]
    log: Path
    temp: Path

    @cached_property
    def ready(self) -> dict[str, Any]:
        """What it says when it is; empty where it ends instead."""
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline() or "{}")
        if found:
            json_schema.check(found)
        return found

    def ask(self, model: str, prompt: str, key: str = KEY) -> str:
        body = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": 20}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        request = Request(f"{self.ready['url']}/completions", json.dumps(body).encode(), headers)
        with urlopen(request, timeout=PATIENCE) as answer:
            text: str = json.load(answer)["choices"][0]["text"]
            return text

    def below(self) -> list[psutil.Process]:
        found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return found

    def left(self) -> list[psutil.Process]:
        """All processes of its session, whose parents may have ended."""
        return [p for p in psutil.process_iter() if session_of(p) == self.process.pid]

    def errors(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith("error:")]


@contextmanager
def serving(store: Path, folder: Path, *words: str) -> Iterator[Server]:
    """A server that starts; nothing of it is left afterwards."""
    temp = folder / "t"
    temp.mkdir()
    env = {**os.environ, "TMPDIR": str(temp), "TASKSTORE_API_KEY": KEY, "VLLM_CPU_CI_ENV": "1"}
    env.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    command = [sys.executable, "-m", "taskstore_cli", "serve", str(store), "--port", "0", "--json"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [*command, *words, "--", *SMALL.split()],
            env=env, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            yield Server(process, folder / "log", temp)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_vllm()
    target = tmp_path_factory.mktemp("f") / "store"
    tasks = {task: FAMILY / task for task in ("german", "roman")}
    taskstore.pack(FAMILY / "base", tasks, target, taskstore.PackOptions(tiers="mask"))
    return target


def session_of(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except OSError:
        return -1


def alive(process: psutil.Process) -> bool:
    """Not one that only waits for its parent to ask how it ended."""
    try:
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def gone(processes: list[psutil.Process]) -> bool:
    until = time.monotonic() + PATIENCE
    while left := any(map(alive, processes)):
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    return not left


def test_it_answers_for_its_tasks_and_ends_when_told(
    store: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with serving(store, tmp_path_factory.mktemp("s"), "--default-task", "roman") as server:
        assert server.ready["tasks"] == {"german": "mask", "roman": "mask"}
        found = taskstore.open(store).fidelity("german")
        assert server.ready["kept"]["german"] == {"fidelity": asdict(found), "scores": None}
        lines = server.log.read_text().splitlines()
        assert f"german: {found.words}; no score recorded" in lines
        assert server.ask("german", "<user>417<answer>") == "vierhundertsiebzehn"
        assert server.ask("roman", "<user>417<answer>") == "CDXVII"
        with pytest.raises(HTTPError, match="401"):
            server.ask("german", "<user>417<answer>", "another key")
        below = server.below()
        assert below
        assert not any(KEY in word for process in below for word in process.cmdline())
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
        assert gone(below)
        assert "\nstopped\n" in server.log.read_text()
        assert list(server.temp.iterdir()) == []


def test_a_killed_engine_and_a_damaged_store_end_it_with_a_word(
    store: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("s")
    damaged = folder / "store"
    shutil.copytree(store, damaged)
    masks = damaged / "tasks" / "roman" / "masks.safetensors"
    masks.write_bytes(masks.read_bytes()[:-1] + b"\xff")
    with serving(damaged, folder) as broken, serving(store, tmp_path_factory.mktemp("s")) as server:
        assert server.ready
        below = server.below()
        next(p for p in below if "EngineCore" in " ".join(p.cmdline())).kill()
        assert server.process.wait(PATIENCE) == 1
        assert gone(below)
        assert server.errors() == [
            "error: the engine died: it was killed, perhaps for memory; start the server again"
        ]
        assert list(server.temp.iterdir()) == []
        assert broken.process.wait(PATIENCE) == 1
        (error,) = broken.errors()
        assert "the engine did not start: tasks/roman/masks.safetensors is damaged" in error
        assert gone(broken.left())
        assert list(broken.temp.iterdir()) == []


def test_a_server_from_python(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_CI_ENV", "1")
    with taskstore.serve(store, ["roman"], api_key=KEY, engine=SMALL.split()) as running:
        body = {"model": "roman", "prompt": "<user>12<answer>", "temperature": 0, "max_tokens": 8}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        request = Request(f"{running.url}/completions", json.dumps(body).encode(), headers)
        with urlopen(request, timeout=PATIENCE) as answer:
            assert json.load(answer)["choices"][0]["text"].startswith("XII")
        assert running.tasks == {"roman": "mask"}
    assert not running.running
