"""A server with two API processes: what one is told, both do."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def test_each_process_learns_of_tasks(
    fronted: Path, wanted: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    from tests.serving.support.fronted import TASKS, chat, said, serving

    shutil.copytree(fronted / "store", tmp_path / "store")
    chosen = ("--tasks", ",".join(TASKS))
    with serving(tmp_path, *chosen, vllm=("--api-server-count", "2")) as server:

        def asked(path: str) -> list[Any]:
            """Answers over connections at one time, which go to both processes."""
            with ThreadPoolExecutor(8) as clients:
                found = clients.map(lambda _: server.call("GET", path).json(), range(24))
                return list(found)

        def until(seen: Callable[[], bool]) -> None:
            end = time.monotonic() + 240
            while not seen():
                assert time.monotonic() < end
                time.sleep(0.5)

        # the first that is up makes the server ready
        until(lambda: len({one["process"] for one in asked("/v1/taskstore/activity")}) == 2)
        route = "/v1/taskstore/tasks/roman"
        assert server.call("DELETE", route).status_code == 200
        until(lambda: "roman" not in str(asked("/v1/models")))  # each looks every half a second
        assert server.call("POST", route).status_code == 201
        for _ in range(8):
            assert said(chat(server, "roman", "93")) == wanted["roman"]["93"]
