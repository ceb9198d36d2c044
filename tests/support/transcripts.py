"""Runs what a page shows, and compares what comes out with what the page says comes out.

    python -m tests.support.transcripts README.md docs/tutorial.md     compare
    python -m tests.support.transcripts --update                       write new outputs, all pages

Blocks of ```console are run line by line ("$ command", then its output), blocks of ```pycon as
Python sessions. All blocks of a page share a folder in which `examples/` is the repository's. A
block in an HTML comment is run and not shown. Other blocks (```sh, ```python, indented) are only
read.

A command has to fail where its output holds a line "error: ...", and only there. Lines are compared
word for word, whatever the white space; sizes, times and factors match any of their kind, other
numbers with a point match within 2 in 100. A line "..." stands for any lines.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from taskstore_cli.main import main as command

from tests.support import ROOT

FENCE = re.compile(r"^```(console|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SIZE, TIME, FACTOR = r"[\d,.]+ ?[kMGT]?i?B(?:/s)?", r"[\d.]+ ?(?:ns|us|ms|s|min)", r"[\d.]+x"
KINDS = {f"<{i}>": re.compile(rf"(?<![\w.]){k}\b") for i, k in enumerate((SIZE, TIME, FACTOR))}
DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+")
NEAR = 0.02
SHELL = frozenset("|&;<>$*")  # what needs a shell
ANY = "..."
# the lines of work that takes over ten seconds, which hang on the machine
PROGRESS = re.compile(r": [\d,.]+ \S+ of [\d,.]+ \S+ \(\d+%\)")
HOME = "/data"  # what a page calls the folder that it runs in


@dataclass
class Step:
    """One command or expression; `shown` is what the page says of its output."""

    kind: str
    source: str
    shown: list[str]


def pages() -> list[Path]:
    """Every page that shows something that can be run."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if page.is_file() and FENCE.search(page.read_text())]


def steps(kind: str, block: str) -> list[Step]:
    """The steps of a block, whose texts one after another are the block again."""
    if kind == "pycon":
        examples = doctest.DocTestParser().get_examples(block)
        return [Step(kind, e.source, e.want.splitlines()) for e in examples]
    found: list[Step] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(Step(kind, line[2:], []))
        elif found and not found[-1].shown and found[-1].source.endswith("\\"):
            found[-1].source += "\n" + line
        else:
            found[-1].shown.append(line)
    return found


def written(steps: list[Step]) -> str:
    """A block that holds these steps."""
    lines: list[str] = []
    for step in steps:
        if step.kind == "console":
            lines += ["$ " + step.source, *step.shown]
            continue
        first, *more = step.source.splitlines()
        lines += [">>> " + first, *("... " + line for line in more), *step.shown]
    return "".join(line.rstrip() + "\n" for line in lines)


def near(shown: str, seen: str) -> bool:
    """Within a fiftieth, or one in the last place, which another machine's sums may move."""
    a, b, last = float(shown), float(seen), 10.0 ** -len(shown.split(".")[1])
    return abs(a - b) <= max(NEAR * max(abs(a), abs(b)), 1.001 * last)


def same_line(shown: str, seen: str) -> bool:
    a, b = " ".join(shown.split()), " ".join(seen.split())
    for kind, pattern in KINDS.items():
        a, b = pattern.sub(kind, a), pattern.sub(kind, b)
    numbers = zip(DECIMAL.findall(a), DECIMAL.findall(b), strict=False)
    return all(near(x, y) for x, y in numbers) and DECIMAL.sub("<>", a) == DECIMAL.sub("<>", b)


def same(shown: list[str], seen: list[str]) -> bool:
    """Whether an output is what a page shows."""
    if not shown:
        return not seen
    if shown[0].strip() == ANY:
        return any(same(shown[1:], seen[i:]) for i in range(len(seen) + 1))
    return bool(seen) and same_line(shown[0], seen[0]) and same(shown[1:], seen[1:])


def renewed(shown: list[str], seen: list[str]) -> list[str]:
    """What to show of `seen`: as many lines before and after "..." as were shown."""
    places = [i for i, line in enumerate(shown) if line.strip() == ANY]
    if not places:
        return seen
    head, tail = places[0], len(shown) - places[-1] - 1
    return [*seen[:head], shown[places[0]], *seen[max(head, len(seen) - tail) :]]


class Session:
    """Runs the steps of one page in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "__main__"}
        (folder / "examples").symlink_to(ROOT / "examples")
        commands = folder / ".commands"
        commands.mkdir()
        for name, words in {"taskstore": " -m taskstore_cli", "python": ""}.items():
            path = commands / name
            path.write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
            path.chmod(0o755)
        self.environ = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "COLUMNS": "100"}

    def output(self, step: Step) -> list[str]:
        """What a step prints, and its status where that says something else."""
        if step.kind == "pycon":
            return self._evaluated(step.source)
        plain = step.source.startswith("taskstore ") and not SHELL & set(step.source)
        status, printed = self._called(step.source) if plain else self._shelled(step.source)
        seen = printed.replace(str(self.folder), HOME).rstrip().splitlines()
        seen = [one for one in seen if not PROGRESS.search(one)]
        failed = any(line.startswith(("error:", "Error:")) for line in seen)
        return seen if bool(status) == failed else [*seen, f"(status {status})"]

    def _called(self, line: str) -> tuple[int, str]:
        """Call the command in this process: starting one takes longer than most commands."""
        words = shlex.split(line.replace("\\\n", " "))
        with contextlib.chdir(self.folder):
            done = CliRunner().invoke(command, words[1:], env=self.environ, prog_name="taskstore")
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output

    def _shelled(self, line: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.environ, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def _evaluated(self, source: str) -> list[str]:
        out = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(out):
            try:
                exec(compile(source, "<page>", "single"), self.names)
            except Exception as error:
                print(traceback.format_exception_only(error)[-1])
        return out.getvalue().replace(str(self.folder), HOME).rstrip().splitlines()


def differences(page: Path, folder: Path, *, update: bool = False) -> Iterator[str]:
    """Run a page; yield what is not as it says, or write it into the page."""
    session, text = Session(folder), page.read_text()
    found: list[str] = []

    def run(block: re.Match[str]) -> str:
        done = steps(block[1], block[2])
        changed = False
        for step in done:
            seen = session.output(step)
            if not same(step.shown, seen):
                changed, shown = True, "\n".join(step.shown)
                found.append(f"{step.source}\n--- shown\n{shown}\n--- seen\n" + "\n".join(seen))
                step.shown = renewed(step.shown, seen)
        return f"```{block[1]}\n{written(done)}```" if changed else block[0]

    with warnings.catch_warnings():
        new = FENCE.sub(run, text)
    if update and new != text:
        page.write_text(new)
    yield from found


def main(words: list[str]) -> int:
    """Compare or update the pages that are named, or all."""
    update = "--update" in words
    named = [Path(word).resolve() for word in words if word != "--update"]
    count = 0
    for page in named or pages():
        with tempfile.TemporaryDirectory() as folder:
            for difference in differences(page, Path(folder), update=update):
                count += 1
                print(f"{page.relative_to(ROOT)}: {difference}\n")
    return 0 if update or not count else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
