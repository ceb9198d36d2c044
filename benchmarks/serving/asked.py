"""A server that follows its store, and is asked all the while: every answer must be right."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

import taskstore
from benchmarks.common.sides import HERE

START = 300.0  # seconds that the engine may take
FOLLOWS = 60.0  # seconds until it serves what the store holds, once that rests
ENGINE = "--enforce-eager --max-model-len 128 --max-num-seqs 8 --kv-cache-memory-bytes 64m"
Right = Mapping[str, Callable[[int], str]]  # task -> what it says to a number


@contextmanager
def serving(store: Path, log: Path) -> Iterator[str]:
    """`taskstore serve --watch` as a process; its address. It must end well when told to."""
    env = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_CI_ENV": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
    }
    words = ("serve", str(store), "--port", "0", "--watch", "--json", "--", *ENGINE.split())
    with log.open("w") as lines:
        process = subprocess.Popen(
            [sys.executable, "-m", "taskstore_cli", *words],
            env=env, stdout=subprocess.PIPE, stderr=lines, start_new_session=True,
        )  # fmt: skip
    try:
        yield _url(process, log)
        assert process.poll() is None, log.read_text()[-4000:]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()[-4000:]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()  # of a server that ends instead: nothing
    assert line, log.read_text()[-4000:]
    return str(json.loads(line)["url"])


def asked(url: str, right: Right, numbers: Sequence[int], seconds: float) -> Counter[str]:
    """Ask tasks as they come.

    The tasks of `right` are never changed, and each must give its own answer. Any other may have
    the weights of each of them, or be gone.
    """
    rng, done = random.Random(3), Counter[str]()
    until = time.monotonic() + seconds
    with httpx.Client(base_url=url, timeout=120) as client:
        while time.monotonic() < until:
            for task in _tasks(client):
                number = rng.choice(numbers)
                found = said(client, task, number)
                if found is None:
                    assert task not in right, f"{task} is not served"
                    done["ask a task that went"] += 1
                    continue
                of = [task] if task in right else right
                answers = {right[one](number) for one in of}
                assert found in answers, f"{task} says {found!r} to {number}, not {answers}"
                done["ask a task that stays" if task in right else "ask a task that came"] += 1
    return done


def said(client: httpx.Client, task: str, number: int) -> str | None:
    """The greedy answer of a task; None where it is not served."""
    body = {
        "model": task,
        "messages": [{"role": "user", "content": str(number)}],
        "temperature": 0,
        "max_tokens": 48,
    }
    answer = client.post("chat/completions", json=body)
    if answer.status_code == 404:
        return None
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def known(url: str, right: Right, numbers: Sequence[int]) -> list[int]:
    """The numbers to which every task says what is right."""
    with httpx.Client(base_url=url, timeout=120) as client:
        return [n for n in numbers if all(said(client, t, n) == right[t](n) for t in right)]


def follows(url: str, store: Path) -> None:
    """Wait until the server's tasks are those of its store, of the same weights."""
    until, tasks = time.monotonic() + FOLLOWS, sorted(taskstore.open(store).tasks)
    with httpx.Client(base_url=url, timeout=120) as client:
        while True:
            held, served = client.get("taskstore/tasks").json()["tasks"], _tasks(client)
            if sorted(served) == tasks and all(one["current"] for one in held):
                return
            assert time.monotonic() < until, f"{served} are served, and the store has {held}"
            time.sleep(0.5)


def _tasks(client: httpx.Client) -> list[str]:
    models: list[dict[str, Any]] = client.get("models").json()["data"]
    return [model["id"] for model in models if model.get("parent")]
