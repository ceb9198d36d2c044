"""What is followed of servers: their tasks, as far as a map can name them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import cast

import pytest

from taskstore.routing import watch
from taskstore.routing.haproxy import Admin


class Placed:
    """Stands for a running router: what it was told last."""

    def __init__(self) -> None:
        self.tasks: dict[str, str] = {}

    def placed(self) -> dict[str, str]:
        return self.tasks

    def move(self, placed: Mapping[str, str]) -> list[str]:
        self.tasks = dict(placed)
        return sorted(placed)


def test_a_name_that_no_map_has_does_not_end_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch.Seen(frozenset({"two words", "x;help", "plain"}), {"plain": 1.0})
    monkeypatch.setattr(watch, "look", lambda address, key: seen)
    router = Placed()
    assert watch.Watch({"s1": "a:1"}, cast(Admin, router)).once() == {"plain": "a:1"}
    assert router.tasks == {"plain": "s1"}


@pytest.mark.parametrize("slow", ["head", "body"])
def test_a_server_that_answers_drop_by_drop(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time; the whole answer does not."""
    monkeypatch.setattr(watch, "SECONDS", 0.3)
    head = b"HTTP/1.1 200 OK\r\nX: " if slow == "head" else b"HTTP/1.1 200 OK\r\n\r\n"
    over = threading.Event()

    def serve() -> None:
        with suppress(OSError), server, server.accept()[0] as client:
            client.sendall(head)
            while not over.wait(0.05):
                client.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        assert watch.look(f"127.0.0.1:{server.getsockname()[1]}") is None
        over.set()
        thread.join()
