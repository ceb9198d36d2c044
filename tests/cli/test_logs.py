"""What a command says on stderr while it runs: log lines, and progress without a terminal."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner
from taskstore_cli.main import main
from taskstore_cli.output import console, logs

from taskstore.errors import OptionError
from taskstore.progress import Progress


def run(*words: object, **env: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, [str(word) for word in words], env=env)
    return done.exit_code, done.stdout, done.stderr


def test_verbose_says_more_and_leaves_the_logger_as_it_was(packed: Path) -> None:
    top = logging.getLogger("taskstore")
    before = top.level, list(top.handlers)
    assert run("info", packed, TASKSTORE_LOG="")[2] == ""
    for words, env in (("-v",), ""), ((), "info"), ((), "debug,text"):
        code, _, err = run("info", packed, *words, TASKSTORE_LOG=env)
        assert code == 0
        assert " info: info took " in err and "of memory at most (taskstore.command)" in err
    assert (top.level, top.handlers) == before


def test_lines_of_json(packed: Path) -> None:
    _, out, err = run("info", packed, "--json", TASKSTORE_LOG="json,info")
    lines = [json.loads(line) for line in err.splitlines()]
    assert {line["level"] for line in lines} == {"INFO"}
    assert lines[0]["message"] == "info begins"
    assert json.loads(out)["tasks"]


def test_a_wrong_variable_is_wrong_usage(packed: Path) -> None:
    code, out, err = run("info", packed, TASKSTORE_LOG="loud")
    assert (code, out) == (2, "")
    assert err.startswith("error: TASKSTORE_LOG='loud' is not a level (debug, info")
    with pytest.raises(OptionError):
        logs.asked("info,debug")


def test_warnings_look_like_the_commands_own(capsys: pytest.CaptureFixture[str]) -> None:
    with logs.written("pack", 0):
        logging.getLogger("taskstore.kernels").warning("no triton")
        logging.getLogger("taskstore.kernels").info("not said")
    assert capsys.readouterr().err == "warning: no triton\n"


def test_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with console.progress_bar(False) as progress:
        for second in range(0, 31, 4):
            now[0] = second
            progress(Progress("coding", "layer.1", second * 10**9, 64 * 10**9))
    assert capsys.readouterr().err.splitlines() == [
        "coding layer.1: 12.0 GB of 64.0 GB (19%), about 52 s left",
        "coding layer.1: 24.0 GB of 64.0 GB (38%), about 40 s left",
    ]
    with console.progress_bar(True) as progress:
        now[0] = 100
        progress(Progress("coding", "layer.1", 1, 2))
    assert capsys.readouterr().err == ""


def test_progress_in_examples() -> None:
    said = console.progress_line(Progress("squares", "", 1, 400, "examples"), 798)
    assert said == "squares: 1 of 400 examples (0%), about 13 min left"
