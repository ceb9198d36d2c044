"""What the library says in Python's terms, the command says in its options."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from taskstore_cli.main import main
from taskstore_cli.output.options import in_options

from tests.support.families import Family

SAID = [
    ("pack", 'keep it with tiers="exact"', "keep it with --tiers exact"),
    (
        "unpack",
        'packed with tiers="exact", or mask,exact',
        "packed with --tiers exact, or mask,exact",
    ),
    ("pack", "give another path or overwrite=True", "give another path or --overwrite"),
    ("unpack", "the right folder with base=FOLDER", "the right folder with --base-from FOLDER"),
    ("pack", "add masks={'a b': FILE}", "add --masks 'a b'=FILE"),
    ("add", "parents={'a': 'b'}: 'b' is no such task", "--parent a=b: 'b' is no such task"),
    ("merge", "a smaller `alpha` or another `dtype`", "a smaller --alpha or another --dtype"),
    ("merge", "tokenizer_from takes the assets", "--tokenizer-from takes the assets"),
    ("pack", "with `taskstore.locations.locks.waiting(SECONDS)`", "with --wait SECONDS"),
    ("pack", "run `git lfs pull` there", "run `git lfs pull` there"),
    ("unpack", "tokenizer_from takes the assets", "tokenizer_from takes the assets"),
    ("pack", 'runs/max_error/a=1: /tiers="x" ', 'runs/max_error/a=1: /tiers="x" '),
    ("eval", "gave nothing; it wrote: overwrite=True", "gave nothing; it wrote: overwrite=True"),
]


@pytest.mark.parametrize(("command", "said", "typed"), SAID)
def test_a_message(command: str, said: str, typed: str) -> None:
    root = click.Context(main)
    root.invoked_subcommand = command
    with root:
        assert in_options(said) == typed
    assert in_options(said) == said  # no command runs


def run(*words: object) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code != 0 and done.stderr.startswith("error: "), done.output
    return done.stderr


def test_errors_of_commands(small: Family, packed: Path, tmp_path: Path) -> None:
    base, model = small.base_path, small.paths["alpha"]
    assert "another path or --overwrite\n" in run("pack", base, model, "-o", packed)
    assert "with --tiers exact, or" in run(
        "unpack", packed, "alpha", "--exact", "-o", tmp_path / "a"
    )
    assert "without --adapter\n" in run(
        "unpack", packed, "alpha", "--adapter", "-o", tmp_path / "a"
    )
    mask = tmp_path / "a.npy"
    with_masks = ("--masks", f"b={mask}", "--method", "ties", "-o", tmp_path / "new")
    assert "'b'" in run("pack", base, f"a={model}", *with_masks)
    assert "leave --statistics out" in run(
        *("merge", base, f"a={model}", "--method", "ties", "--statistics", f"a={mask}"),
        *("-o", tmp_path / "new"),
    )
