"""How long evaluations will take is said once: by earlier ones, or after the first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from taskstore.evaluation.journal import Journal
from taskstore.progress import duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (8.4, "8 s"), (89, "89 s"), (150, "2 min"), (7800, "2 h 10 min")],
)  # fmt: skip
def test_times_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that an evaluation moves on."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_after_the_first_and_only_then(clock: list[float]) -> None:
    said: list[str] = []
    journal = Journal(None)
    journal.expect("cmd", 5, said.append)

    def evaluate() -> float:
        clock[0] += 30
        return 1.0

    assert not said
    for task in "abcde":
        journal.score(("cmd", task, "w"), evaluate)
    assert said == ["at most 4 evaluations to come; the first took 30 s, so about 2 min"]


def test_by_what_a_journal_remembers(tmp_path: Path, clock: list[float]) -> None:
    path = tmp_path / "journal"
    said: list[str] = []
    path.write_text(
        "".join(
            json.dumps([[label, task, "w"], 1.0, None, seconds]) + "\n"
            for label, task, seconds in (("cmd", "a", 60), ("cmd", "b", 100), ("other", "a", 1))
        )
    )
    journal = Journal(path)
    journal.expect("cmd", 10, said.append)
    assert said == ["at most 10 evaluations to come; earlier ones took 80 s, so about 13 min"]
    assert journal.score(("cmd", "a", "w"), lambda: 0.0) == 1.0
    assert len(said) == 1


def test_nothing_is_said_of_what_is_short_or_not_known(tmp_path: Path, clock: list[float]) -> None:
    said: list[str] = []
    path = tmp_path / "journal"
    path.write_text('[["cmd", "a", "w"], 1.0]\n[["cmd", "b", "w"], 1.0, 7, "soon"]\n')
    journal = Journal(path)
    assert journal.score(("cmd", "b", "w"), lambda: 0.0) == 1.0
    journal.expect("cmd", 3, said.append)
    for task in "abc":
        journal.score(("cmd", task, "w"), lambda: 0.5)
    assert not said
    assert json.loads(path.read_text().splitlines()[-1]) == [["cmd", "c", "w"], 0.5, None, 0.0]
