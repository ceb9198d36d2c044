"""Status 2 for every wrong value and wrong usage, in the look that all errors have."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from taskstore_cli.main import main
from taskstore_cli.output.options import flag

from tests.support.families import Family

EVAL = "--eval=x {model}"
# Enough for a command to come to its options' values.
BEFORE = {
    "pack": ["base", "a=model", "-o", "new"],
    "tune": ["base", "a=model", "-o", "new", EVAL],
    "unpack": ["store", "a", "-o", "new"],
    "load": ["store", "a"],
    "eval": ["store", EVAL],
    "add": ["store", "a=model"],
    "replace": ["store", "a=model"],
    "rename": ["store", "a", "b"],
    "copy": ["store", "a", "-o", "new"],
    "remove": ["store", "a"],
    "retier": ["store", "--tiers=exact", "-o", "new"],
    "merge": ["base", "a=model", "--method=ties", "-o", "new"],
    "measure": ["model", "--data=data", "-o", "new"],
    "report": ["store", "-o", "new"],
    "methods": [],
}
NUMBERS = (click.types.IntParamType, click.types.FloatParamType)


def run(*words: str) -> click.testing.Result:
    return CliRunner().invoke(main, list(words))


def is_refused(words: list[str], because: str = "") -> None:
    done = run(*words)
    assert (done.exit_code, done.stdout) == (2, ""), (words, done.output)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, (words, done.stderr)
    assert because in done.stderr, (words, done.stderr)
    assert done.stderr[7:8] == done.stderr[7:8].lower() and not done.stderr.endswith(".\n")


@pytest.mark.parametrize("name", sorted(main.commands))
def test_values_of_every_option(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers and choices that are none, numbers out of range, options without a value, and twice
    no option at all."""
    monkeypatch.chdir(tmp_path)
    before = BEFORE.get(name, ["store"])
    is_refused([name, *before, "--no-such-option"], "no such option")
    for param in main.commands[name].params:
        if not isinstance(param, click.Option):
            continue
        word = flag(param)
        if not (param.is_flag or param.count):
            is_refused([name, *before, word], "requires an argument")
        if isinstance(param.type, (click.Choice, *NUMBERS)) and not param.count:
            is_refused([name, *before, f"{word}=nonsense"], "nonsense")
        if isinstance(param.type, (click.IntRange, click.FloatRange)) and not param.count:
            is_refused([name, *before, f"{word}=-1"], "-1")
        if param.is_flag:
            is_refused([name, *before, f"{word}=yes"], "does not take a value")
    assert not list(tmp_path.iterdir())


WRONG = [
    ("pack", "--lambda=x", "'x' is not a number"),
    ("pack", "--lambda=b=0.3", "'b', which is no task"),
    ("pack", "--lambda=-1", "lambda"),
    ("pack", "--lambda=nan", "lambda"),
    ("pack", "--rest-bits=many", "--rest-bits 'many' is not a number"),
    ("pack", "--rest-bits=99", "99"),
    ("pack", "--tiers=masks", "masks"),
    ("pack", "--method=nothing", "no merge method 'nothing'"),
    ("pack", "--option=k", "is not K=V"),
    ("pack", "--option=density=x", "'x' is not a number"),
    ("pack", "--option=nothing=1", "nothing"),
    ("pack", "--density=2 --method=ties", "density"),
    ("pack", "--max-memory=lots", "'lots' is not a size"),
    ("pack", "--max-memory=1kB", "too little"),
    ("pack", "--target=0.9", "belong together"),
    ("pack", "--target=2 --eval=x{model}", "no share of a score"),
    ("pack", "--max-error=Z", "Z"),
    ("pack", "--max-error=-1", "-1"),
    ("tune", "--lambda=low", "is not a list of numbers"),
    ("tune", "--lambda=-1", "lambda"),
    ("tune", "--eval=x", "{model}"),
    ("tune", "--timeout=0", "time limit"),
    ("tune", "--timeout=nan", "time limit"),
    ("unpack", "--base", "name one TASK"),
    ("unpack", "--shard-size=x", "is not a size"),
    ("unpack", "--exact --tier=mask", "contradict"),
    ("load", "--base", "name one TASK"),
    ("load", "--repeat=2", "does nothing without --time"),
    ("eval", "--eval=x", "{model}"),
    ("eval", "--timeout=-5", "time limit"),
    ("retier", "--drop-exact", "--drop-exact does nothing"),
    ("retier", "--tiers=nothing", "nothing"),
    ("merge", "--alpha=x", "--alpha"),
    ("merge", "--weight=a=x", "'a=x' is not a number"),
    ("merge", "--weight=b=1", "'b'"),
    ("merge", "--alpha=0.1,0.2", "needs --eval"),
    ("merge", "--minimise", "does nothing without --eval"),
    ("merge", "--method=average --density=0.2", "density"),
    ("merge", "--config=x.yaml", "leave out"),
    ("measure", "--kinds=all", "all"),
    ("measure", "--kinds=", "statistics"),
    ("measure", "--limit=0", "limit"),
    ("measure", "--batch=0", "batch"),
    ("measure", "--samples=0", "samples"),
    ("measure", "--max-length=0", "length"),
    ("measure", "--max-memory=x", "is not a size"),
    ("methods", "nothing", "no merge method 'nothing'"),
]


@pytest.mark.parametrize(("name", "words", "because"), WRONG)
def test_wrong_values(
    name: str,
    words: str,
    because: str,
    small: Family,
    packed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    places: dict[str, object] = {"base": small.base_path, "model": small.base_path, "store": packed}
    places |= {"a=model": f"a={small.paths['alpha']}", "a": "alpha", "data": small.base_path}
    given = [str(places.get(word, word)) for word in BEFORE[name]]
    is_refused([name, *given, *words.split()], because)
    assert not list(tmp_path.iterdir())


def test_a_size_that_is_wrong_is_named_before_the_store_is_read() -> None:
    is_refused(["unpack", "nowhere", "a", "-o", "new", "--shard-size", "-1"])


@pytest.mark.parametrize("words", [[], ["nonsense"], ["--nonsense"], ["pack"], ["pack", "base"]])
def test_usage_of_the_program(words: list[str]) -> None:
    done = run(*words)
    assert done.exit_code == 2
    if words:
        is_refused(words, f"; see `taskstore{' pack' if 'pack' in words else ''} --help`")
