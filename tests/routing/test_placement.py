"""Where tasks go: no server far above the mean, and few tasks move when servers change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from taskstore.routing.placement import ROOM, moved, place

SERVERS = ["s1", "s2", "s3"]


@given(st.integers(6, 60), st.integers(1, 6))
def test_equal_tasks_are_spread(tasks: int, servers: int) -> None:
    names = [f"s{n}" for n in range(servers)]
    placed = place({f"t{n}": 0.0 for n in range(tasks)}, names)
    counts = [list(placed.values()).count(name) for name in names]
    assert sum(counts) == tasks
    assert max(counts) <= (1 + ROOM) * tasks / servers + 1


def test_few_tasks_move_when_a_server_joins() -> None:
    loads = {f"t{n}": 1.0 for n in range(60)}
    before, after = place(loads, SERVERS), place(loads, [*SERVERS, "s4"])
    assert sum(before[task] != after[task] for task in loads) <= 30


def test_heavy_tasks_do_not_share_a_server() -> None:
    placed = place({"a": 10.0, "b": 10.0, "c": 0.0, "d": 0.0}, ["s1", "s2"])
    assert placed["a"] != placed["b"]


def test_only_what_must_move_moves() -> None:
    loads = {f"t{n}": 1.0 for n in range(12)}
    now = place(loads, SERVERS)
    assert moved(now, loads, SERVERS) == now
    left = moved(now, loads, ["s1", "s2"])
    assert all(left[task] == server for task, server in now.items() if server != "s3")
    assert set(left.values()) == {"s1", "s2"}
    more = moved(now, {**loads, "new": 1.0}, SERVERS)
    assert {task for task in more if more[task] != now.get(task)} == {"new"}
    assert "t0" not in moved(now, {t: 1.0 for t in loads if t != "t0"}, SERVERS)


def test_an_overloaded_server_gives_tasks_away() -> None:
    now = {"a": "s1", "b": "s1", "c": "s2"}
    found = moved(now, {"a": 5.0, "b": 5.0, "c": 0.0}, ["s1", "s2"])
    assert found["a"] != found["b"]
    alone = moved(now, {"a": 9.0, "b": 0.0, "c": 0.0}, ["s1", "s2"])
    assert alone["a"] == "s1"  # one task cannot be shared out
    assert moved(now, {"a": 1.0}, []) == now
