"""`taskstore route`: what it writes, that HAProxy takes it, and what it leaves alone."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from taskstore_cli.main import main

HAPROXY = shutil.which("haproxy") or "/usr/sbin/haproxy"


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["route", *map(str, words)])


def test_haproxy_takes_what_is_written(packed: Path, tmp_path: Path) -> None:
    target = tmp_path / "haproxy.cfg"
    words = ("--servers", "127.0.0.1:8001,127.0.0.1:8002", "--tasks-from", packed, "-o", target)
    said = run(*words, "--json")
    assert said.exit_code == 0, said.output
    tasks = json.loads(said.output)["tasks"]
    assert set(tasks.values()) == {"127.0.0.1:8001", "127.0.0.1:8002"}
    lines = (tmp_path / "haproxy.map").read_text().splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(tasks)
    again = run(*words)
    assert again.exit_code == 1 and "exists already" in again.output
    assert run(*words, "--overwrite", "--bind", ":9000", "--buffer", "4MiB").exit_code == 0
    text = target.read_text()
    assert "bind :9000" in text and "tune.bufsize 4194304" in text
    target.write_text("# my own\n")
    assert run(*words, "--overwrite").exit_code == 1
    assert target.read_text() == "# my own\n"
    if not Path(HAPROXY).exists():
        pytest.skip("haproxy is not installed")
    target.write_text(text)
    done = subprocess.run([HAPROXY, "-c", "-f", target], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_wrong_words_are_said(tmp_path: Path) -> None:
    target = tmp_path / "haproxy.cfg"
    wrong = run("--servers", "a", "-o", target)
    assert wrong.exit_code == 2 and "not HOST:PORT" in wrong.output
    silent = run("--servers", "127.0.0.1:1", "-o", target)
    assert silent.exit_code == 1 and "no server of 127.0.0.1:1 answers" in silent.output
    lost = run("--servers", "127.0.0.1:1", "-o", target, "--watch")
    assert lost.exit_code == 1 and "no HAProxy answers there" in lost.output
    other = run("--servers", "127.0.0.1:1", "-o", target, "--drain", "127.0.0.1:2")
    assert other.exit_code == 2 and "'127.0.0.1:2' is none of 127.0.0.1:1" in other.output
    both = run("--servers", "127.0.0.1:1", "-o", target, "--drain", "a:1", "--watch")
    assert both.exit_code == 2 and "--watch does nothing with --drain" in both.output
    assert list(tmp_path.iterdir()) == []
