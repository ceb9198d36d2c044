"""A command that scores models, written on the spot."""

from __future__ import annotations

import sys
from pathlib import Path

from click.testing import CliRunner
from taskstore_cli.main import main


def script(folder: Path, text: str) -> str:
    """A command line that runs this program on {model} and {task}."""
    path = folder / "eval it.py"
    path.write_text("import json, os, sys, time\nmodel, task = sys.argv[1:3]\n" + text)
    return f"{sys.executable} '{path}' {{model}} {{task}}"


def run(*words: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a taskstore command."""
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.exit_code, done.stdout, done.stderr
