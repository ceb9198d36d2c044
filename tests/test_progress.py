"""A bar of tqdm on request: what it counts, and that it ends whatever happens."""

from __future__ import annotations

from pathlib import Path

import pytest

import taskstore
from taskstore.progress import Bar, Meter, Progress, Remaining
from tests.support import families


def test_true_draws_a_bar_that_ends(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taskstore.open(packed).unpack("alpha", tmp_path / "alpha", progress=True)
    said = capsys.readouterr()
    assert "writing" in said.err and "100%" in said.err and said.err.endswith("\n")
    assert not said.out


def test_a_bar_of_failed_work_ends_too(
    small: families.Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        taskstore.pack(small.base_path, small.paths, tmp_path / "a", progress=stopped)
    broken = tmp_path / "broken"
    broken.mkdir()
    with pytest.raises(taskstore.TaskstoreError):
        taskstore.pack(small.base_path, {"a": broken}, tmp_path / "b", progress=True)
    assert capsys.readouterr().err == ""  # there was nothing to count yet


def test_false_and_nothing_are_silent(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taskstore.verify(packed, progress=False)
    taskstore.verify(packed)
    assert capsys.readouterr() == ("", "")


def test_a_bar_goes_on_with_the_next_piece_of_work(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar()
    for total in (3, 5):
        meter = Meter(bar, total, unit="models")
        meter.stage("scoring", "a\x1bb")
        meter.add("x", total)
    bar.close()
    said = capsys.readouterr().err
    assert "5/5" in said and "models" in said and "\x1b[" not in said.replace("\x1b[A", "")
    assert "a?b" in said or "scoring x" in said


def test_what_is_left_is_said_when_the_rate_is_known() -> None:
    """A minute of warm-up does not count; then it is 1 % a second, later twice that."""
    remaining = Remaining()

    def at(second: int, done: int) -> float | None:
        return remaining.after(float(second), Progress("coding", "x", done, 100))

    assert [at(second, 0) for second in (0, 30, 60)] == [None] * 3
    assert [at(60 + second, second) for second in range(1, 8)] == [None] * 4 + [95, 94, 93]
    assert at(70, 7) == 90  # nothing more is done, and time goes on
    assert at(71, 0) is None, "the next step of longer work"
    assert [at(71 + second, 2 * second) for second in range(1, 7)] == [None] * 4 + [45, 44]
    assert at(90, 100) is None


def test_what_hardly_moves_has_no_estimate() -> None:
    remaining = Remaining()
    every = (Progress("coding", "x", done, 100_000) for done in range(1, 20))
    assert {remaining.after(float(at), progress) for at, progress in enumerate(every)} == {None}
