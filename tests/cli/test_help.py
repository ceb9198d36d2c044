"""Commands and options in groups, old spellings, and what `--help` says of them."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from taskstore_cli.arguments.command import OPTION_GROUPS, Command, Option
from taskstore_cli.main import PARTS, Part, main
from taskstore_cli.output.options import flag

from tests.support.families import Family

ROOT = Path(__file__).parents[2]
# Options of no group: how a command speaks, and what serve starts.
GENERAL = {"--json", "--quiet", "--verbose", "--help", "--log-format", "--print-command"}


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], terminal_width=79)


def test_every_command_stands_in_one_group() -> None:
    listed = [command.name for part in PARTS for command in part.commands]
    assert sorted(map(str, listed)) == sorted(main.commands)
    said = run("--help").output
    for part in PARTS:
        assert f"\n{part.title} ({part.page}):\n  $ {part.example}\n" in said
    assert "Other commands" not in said and "...\n" not in said.partition("Options:")[2]
    assert max(map(len, said.splitlines())) <= 79


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.title)
def test_the_example_of_a_group_is_a_command_of_it(part: Part) -> None:
    program, name = part.example.split()[:2]
    assert program == "taskstore"
    assert name in [command.name for command in part.commands]
    if (ROOT / "docs").is_dir():
        assert (ROOT / part.page).is_file()


@pytest.mark.parametrize("name", sorted(main.commands))
def test_options_stand_in_groups(name: str) -> None:
    command = main.commands[name]
    assert isinstance(command, Command)
    said = run(name, "--help").output
    grouped = {word for words in OPTION_GROUPS.values() for word in words}
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    assert {flag(p) for p in options} - grouped <= GENERAL
    titles = [line[:-1] for line in said.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == [t for t in (*OPTION_GROUPS, "General") if t in titles]
    assert f"Usage: taskstore {name} " in said
    assert max(map(len, said.splitlines())) <= 79


def test_groups_name_no_option_twice_and_none_that_is_gone() -> None:
    listed = [word for words in OPTION_GROUPS.values() for word in words]
    there = {flag(param) for command in main.commands.values() for param in command.params}
    assert len(listed) == len(set(listed))
    assert set(listed) <= there


def test_one_word_means_one_thing() -> None:
    """An option that several commands have takes the same kind of value in all of them."""
    kinds: dict[str, set[str]] = {}
    for command in main.commands.values():
        for param in command.params:
            if isinstance(param, click.Option):
                kind = "flag" if param.is_flag else type(param.type).__name__
                kinds.setdefault(flag(param), set()).add(kind)
    differing = {word: found for word, found in kinds.items() if len(found) > 1}
    assert set(differing) <= {"--tier"}  # of serve: also auto, and what it was before


OLD = [
    ("pack", "--residual", "--rest-bits"),
    ("pack", "--base", "--base-mode"),
    ("retier", "--residual", "--rest-bits"),
    ("tune", "--grid", "--lambda"),
    ("measure", "--statistics", "--kinds"),
    ("merge", "--minimize", "--minimise"),
    ("serve", "--residual", "--tier"),
    ("serve", "--masks", "--masks-on"),
]


@pytest.mark.parametrize(("name", "old", "new"), OLD)
def test_old_spellings_work_and_are_not_shown(name: str, old: str, new: str) -> None:
    command = main.commands[name]
    option = next(p for p in command.params if flag(p) == new)
    assert isinstance(option, Option) and old in option.also
    said = run(name, "--help").output
    assert f"  {new} " in said and f"  {old} " not in said
    parser = command.make_parser(click.Context(command))
    value = [] if option.is_flag else ["x"]
    assert parser.parse_args([old, *value])[0] == parser.parse_args([new, *value])[0]


def test_the_tier_of_serve_as_it_was_called() -> None:
    option = next(p for p in main.commands["serve"].params if flag(p) == "--tier")
    convert = option.type.convert
    assert [convert(word, option, None) for word in ("0", "1", "auto")] == ["mask", "rest", "auto"]


def test_density_is_an_option_of_the_method(small: Family, tmp_path: Path) -> None:
    words = ["merge", small.base_path, small.paths["alpha"], "--method=ties", "--json"]
    found = [
        json.loads(run(*words, "-o", tmp_path / f"m{i}", *given).stdout)["options"]
        for i, given in enumerate((["--density=0.3"], ["--option=density=0.3"]))
    ]
    assert found[0] == found[1] and found[0]["density"] == 0.3
    twice = run(*words, "-o", tmp_path / "m", "--density=0.3", "--option=density=0.2")
    assert twice.exit_code == 2 and "is given twice" in twice.stderr
