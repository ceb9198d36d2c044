"""A server whose store changes: a task that is added, replaced and removed, without a restart."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import taskstore
from tests.serving.support.engines import FAMILY
from tests.serving.support.fronted import NUMBERS, TASKS, Server, answers, chat, said

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
KEPT = taskstore.AddOptions(max_error=None)  # a mask, as the server's tasks have
WORDS = "nine hundred and ninety-nine " * 12  # more than a block of the prefix cache


def follows(server: Server, before: str | None) -> str | None:
    """Wait until the server serves other weights of `fresh`; the digest of these."""
    until = time.monotonic() + 240
    while (now := digest(server)) == before and time.monotonic() < until:
        time.sleep(0.1)
    return now


def digest(server: Server) -> str | None:
    found = server.call("GET", "/v1/models/fresh")
    return found.json()["taskstore"]["task"] if found.status_code == 200 else None


def cached(server: Server) -> float:
    """Tokens of prompts to `fresh` that came out of the prefix cache."""
    name = "taskstore_cached_prompt_tokens_total{"
    lines = server.http.get("/metrics").text.splitlines()
    return sum(float(ln.split()[-1]) for ln in lines if name in ln and 'task="fresh"' in ln)


def as_rebuilt(server: Server, tmp_path: Path) -> bool:
    """Whether the answers are those of the folder that is rebuilt from the store as it is now."""
    taskstore.open(server.root / "store").unpack("fresh", tmp_path)
    return {text: said(chat(server, "fresh", text)) for text in NUMBERS} == answers(tmp_path)


def proved(server: Server) -> Any:
    return server.call("POST", "/v1/taskstore/verify", {"task": "fresh"}).status_code


def test_a_task_comes_changes_and_goes(server: Server, tmp_path: Path) -> None:
    store = server.root / "store"
    taskstore.add(store, {"fresh": FAMILY / "german"}, KEPT)
    assert server.call("POST", "/v1/taskstore/tasks/fresh").status_code == 201
    assert proved(server) == 200 and as_rebuilt(server, tmp_path / "added")
    chat(server, "fresh", WORDS, max_tokens=1)
    before = cached(server)
    chat(server, "fresh", WORDS, max_tokens=1)
    assert cached(server) > before
    german, before = digest(server), cached(server)

    taskstore.replace(store, {"fresh": FAMILY / "english"}, KEPT)
    english = follows(server, german)
    assert english not in (german, None)
    assert said(chat(server, "fresh", "417")) == "four hundred seventeen"
    assert proved(server) == 200 and as_rebuilt(server, tmp_path / "replaced")
    chat(server, "fresh", WORDS, max_tokens=1)
    assert cached(server) == before  # no block of the old weights

    taskstore.replace(store, {"fresh": FAMILY / "german"}, KEPT)
    found = server.call("POST", "/v1/taskstore/tasks/fresh")
    assert found.status_code in (201, 409)  # unless it was followed already
    assert digest(server) == german
    assert proved(server) == 200 and as_rebuilt(server, tmp_path / "again")

    taskstore.remove(store, ["fresh"])
    assert follows(server, german) is None
    assert sorted(m.id for m in server.client.models.list()) == ["base", *TASKS]
