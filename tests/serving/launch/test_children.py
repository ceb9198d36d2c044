"""Processes below a server: they leave their last words, and end with it. No engine needed."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from taskstore_serving.launch.children import SCRATCH, adopt, first_error

from taskstore.errors import SwapError

SPAWN = multiprocessing.get_context("spawn")
START = "EngineCore failed to start."


def speak(*words: tuple[str, Exception | None]) -> None:
    """What a process of vLLM logs."""
    adopt()
    adopt()  # vLLM may call a plugin twice
    logger = logging.getLogger("vllm.v1.engine.core")
    for message, error in words:
        logger.error(message, exc_info=error)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([(START, SwapError("weight 'x' was moved"))], "weight 'x' was moved"),
        ([(START, ValueError("no room"))], "ValueError: no room"),
        ([("WorkerProc failed to start.", ValueError("first")), (START, OSError("then"))],
         "ValueError: first"),
        ([("Invocation of add_lora method failed", ValueError("a bad request"))], ""),
        ([], ""),
    ],
)  # fmt: skip
def test_the_first_error_that_ends_a_process_is_kept(
    words: list[tuple[str, Exception | None]],
    found: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scratch = tmp_path / "taskstore-1"
    scratch.mkdir()
    monkeypatch.setenv(SCRATCH, str(scratch))
    child = SPAWN.Process(target=speak, args=words)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert first_error(scratch) == found


def idle(pipe: Connection) -> None:
    adopt()
    pipe.send(os.getpid())
    time.sleep(300)


def begin(pipe: Connection) -> None:
    """A server with a child; neither ends by itself."""
    child = SPAWN.Process(target=idle, args=(pipe,))
    child.start()
    child.join()


def test_a_killed_server_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "taskstore-1"
    scratch.mkdir()
    monkeypatch.setenv(SCRATCH, str(scratch))
    ours, theirs = SPAWN.Pipe()
    server = SPAWN.Process(target=begin, args=(theirs,))
    server.start()
    theirs.close()
    child = ours.recv()
    os.kill(child, 0)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    server.join()
    with pytest.raises(EOFError):  # the last holder of the other end is gone
        ours.recv()
    assert not scratch.exists()


def test_elsewhere_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SCRATCH, raising=False)
    before = list(logging.getLogger("vllm").handlers)
    adopt()
    monkeypatch.setenv(SCRATCH, str(tmp_path / "taskstore-1"))
    adopt()  # a server itself is nobody's child
    assert logging.getLogger("vllm").handlers == before
