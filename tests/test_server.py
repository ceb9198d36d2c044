"""`taskstore.serve` from Python: what it starts, says and ends. That an engine answers behind it is
in tests/serving/test_serve_process.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import taskstore
from taskstore import server
from taskstore.errors import InputError, ServingFailed

READY = """
import json, os, sys, time
print("INFO engine starts", file=sys.stderr, flush=True)
print("a line of another library", flush=True)
facts = {"ready": True, "url": "http://127.0.0.1:1/v1", "tasks": {"alpha": "mask"}}
facts |= {"argv": sys.argv[1:], "key": os.environ.get("TASKSTORE_API_KEY")}
print(json.dumps(facts), flush=True)
time.sleep(600)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in place of the command, which says what an engine would say."""
    program = tmp_path / "program.py"
    program.write_text(READY)
    monkeypatch.setattr(server, "COMMAND", (sys.executable, str(program)))
    return program


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_is_ready_with_its_address_and_ends(
    packed: Path, stand_in: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with taskstore.serve(
        packed, ["alpha"], api_key="secret", default_task="alpha", engine=["--max-model-len", "64"]
    ) as running:
        assert running.running and running.url == "http://127.0.0.1:1/v1"
        assert running.tasks == {"alpha": "mask"} and "at http" in repr(running)
        words = running.facts["argv"]
        assert words[0] == str(packed) and "secret" not in words
        assert running.facts["key"] == "secret"
        assert words[words.index("--tasks") + 1] == "alpha"
        assert words[words.index("--") + 1 :] == ["--max-model-len", "64"]
    assert not running.running and not is_alive(running.pid) and "stopped" in repr(running)
    running.stop()
    assert "INFO engine starts" in capfd.readouterr().err


def test_a_server_that_ends_at_once_says_why(packed: Path, stand_in: Path) -> None:
    stand_in.write_text("import sys; sys.exit('INFO x\\nerror: no room for weights\\nINFO y')")
    with pytest.raises(ServingFailed, match=r"ended with status 1: error: no room for weights"):
        taskstore.serve(packed)


def test_a_server_that_is_not_ready_in_time_is_stopped(
    packed: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, begin = list[Any](), subprocess.Popen

    def popen(*words: Any, **options: Any) -> Any:
        started.append(begin(*words, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    stand_in.write_text("import time; time.sleep(600)")
    with pytest.raises(ServingFailed, match=r"was not ready in 0\.5 s: it said nothing"):
        taskstore.serve(packed, timeout=0.5)
    (process,) = started
    assert process.poll() is not None


def test_the_command_itself_refuses_a_task_that_is_none(packed: Path) -> None:
    with pytest.raises(ServingFailed, match="ended with status 1: error: no task 'alpa'"):
        taskstore.serve(packed, ["alpa"])
    with pytest.raises(InputError, match="tasks is 'alpha' .*not a list of strings"):
        taskstore.serve(packed, "alpha")
