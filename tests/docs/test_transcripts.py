"""The README and the pages of the documentation: what they show is what comes out.

`python -m tests.support.transcripts --update` writes new outputs into the pages.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import ROOT, transcripts
from tests.support.transcripts import ANY, differences, renewed, same, same_line


@pytest.mark.parametrize("page", transcripts.pages(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_page_shows_what_comes_out(page: Path, tmp_path: Path) -> None:
    assert "\n".join(differences(page, tmp_path)) == ""


@pytest.mark.parametrize(
    ("shown", "seen", "matches"),
    [
        ("store: 3.1 MB, checked", "store: 12.4 kB, checked", True),
        ("took 0.4 s", "took 12 ms", True),
        ("3.51x smaller", "3.6x smaller", True),
        ("task    tier", "task  tier", True),
        ("projection 0.83", "projection 0.84", True),
        ("projection 0.83", "projection 0.79", False),
        ("4 tasks", "5 tasks", False),
        ("german: exact", "german: approximate", False),
        ("lambda 0.45", "lambda 0.45 0.45", False),
    ],
)
def test_what_is_the_same_line(shown: str, seen: str, matches: bool) -> None:
    assert same_line(shown, seen) == matches


def test_dots_stand_for_any_lines() -> None:
    assert same(["a", ANY, "d"], ["a", "b", "c", "d"])
    assert same(["a", ANY], ["a"])
    assert not same(["a", ANY, "d"], ["a", "b"])
    assert not same(["a"], ["a", "b"])


def test_new_lines_around_dots_stand_once() -> None:
    assert renewed(["a", ANY, "d"], ["x"]) == ["x", ANY]
    assert renewed(["a", ANY, "d"], ["x", "b", "y"]) == ["x", ANY, "y"]


def test_a_page_is_run_and_put_right(tmp_path: Path) -> None:
    """Commands share a folder and Python its names; a block in a comment is run as well."""
    page = tmp_path / "page.md"
    text = (
        "<!--\n```console\n$ echo hidden > file\n```\n-->\n"
        "```console\n$ cat \\\n    file\nshown\n$ echo a; echo b; echo c\na\n...\n```\n"
        "```pycon\n>>> x = 2\n>>> for i in range(x):\n...     print(i)\n0\n1\n```\n"
        "```sh\n$ never run\n```\n"
    )
    page.write_text(text)
    run, again = tmp_path / "1", tmp_path / "2"
    run.mkdir()
    again.mkdir()
    (found,) = differences(page, run, update=True)
    assert "shown" in found and "hidden" in found
    assert page.read_text() == text.replace("file\nshown", "file\nhidden")
    assert list(differences(page, again)) == []


@pytest.mark.parametrize("line", ["$ false", "$ echo error: no", "$ echo error: no; exit 1"])
def test_a_command_fails_where_the_page_says_so(line: str, tmp_path: Path) -> None:
    page, folder = tmp_path / "page.md", tmp_path / "run"
    page.write_text(f"```console\n{line}\nerror: no\n```\n")
    folder.mkdir()
    if line.endswith("exit 1"):
        assert list(differences(page, folder)) == []
    else:
        (found,) = differences(page, folder)
        assert "(status " in found
