"""A file is sent to the disk step by step while it grows; no step that failed is lost."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

import taskstore
from taskstore.errors import OutputError
from taskstore.locations import flush
from tests.support.families import Family, options


def fail(*_: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_each_byte_is_sent_once_and_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[tuple[int, int, int]]()
    monkeypatch.setattr(flush, "_flush", lambda _, begin, end, how: calls.append((begin, end, how)))
    flusher, ends = flush.Flusher(-1), range(0, 3 * flush.AHEAD + 1, flush.STEP // 4)
    for end in ends:
        flusher.written_to(end)
        sent = [(a, b) for a, b, how in calls if how == 2]
        there = [(a, b) for a, b, how in calls if how != 2]
        for spans in (sent, there):
            assert [a for a, _ in spans] == [0, *(b for _, b in spans)][: len(spans)]
        assert end - (sent[-1][1] if sent else 0) < flush.STEP
        assert end - (there[-1][1] if there else 0) < flush.AHEAD + flush.STEP


@pytest.mark.skipif(sys.platform != "linux", reason="sync_file_range is Linux's")
def test_an_error_of_the_system_is_raised_but_not_that_it_has_no_such_call(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.write(b"bytes")
        file.flush()
        flush._flush(file.fileno(), 0, 5, 7)
    with pytest.raises(OSError, match="[Bb]ad file descriptor"):
        flush._flush(-1, 0, 5, 2)
    with open("/dev/null", "wb") as nowhere:
        flush._flush(nowhere.fileno(), 0, 5, 2)


def test_nothing_is_kept_of_what_did_not_reach_the_disk(
    small: Family, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flush, "_flush", fail)
    monkeypatch.setattr(flush, "STEP", 64)
    with pytest.raises(OutputError, match="Input/output error"):
        taskstore.pack(small.base_path, small.paths, tmp_path / "s", options())
    with pytest.raises(OutputError, match="Input/output error"):
        taskstore.open(packed).unpack("alpha", tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
