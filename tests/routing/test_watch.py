"""What is followed of servers: their tasks, as far as a map can name them."""

from __future__ import annotations

from collections.abc import Mapping
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
