"""Names in a card stay names, whatever stands in them; commands can be pasted into a shell."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import taskstore
from taskstore.format.names import plain
from taskstore.store.card import cell, code, yaml
from tests.support.families import Family, options

NAMES = [
    "two words", "it's", "a`id`", "a|b", "$(id)", "a;id", "](x) [y", "<img src=x>", '"q"', "_x_",
    "__init__", "&lt;", "www.a.b", "~~x~~", "a && b", "#1", "*", "!", "%s", "{0}",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_quoted_for_the_shell(small: Family, tmp_path: Path, name: str) -> None:
    taskstore.pack(small.base_path, {name: small.paths["alpha"]}, tmp_path / "s", options())
    lines = (tmp_path / "s" / "README.md").read_text().splitlines()
    (command,) = [line for line in lines if line.startswith("    taskstore unpack FAMILY ")][:1]
    shown = subprocess.run(
        ["sh", "-c", command.replace("taskstore", "printf '%s\\n'", 1)],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert shown == ["unpack", "FAMILY", name, "-o", name] == shlex.split(command)[1:]
    (row,) = [line for line in lines if line.startswith(f"| {cell(name)} |")]
    head = next(line for line in lines if line.startswith("| task |"))
    assert len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"(?<!\\)\|", head))


@given(st.text())
def test_a_name_is_text(name: str) -> None:
    """Without its backslashes it is the name; what has none cannot be markup."""
    shown = cell(name)
    assert re.sub(r"\\([^A-Za-z0-9\s])", r"\1", shown) == plain(name)
    bare = re.sub(r"\\[^A-Za-z0-9\s]", "x", shown)
    assert not re.search(r"[\\|`*\[\]<>#~&@\n]|www\.|://", bare)
    assert not re.search(r"(^|[^A-Za-z0-9])_|_($|[^A-Za-z0-9])", bare)


@pytest.mark.parametrize("command", ["a `b` {model}", "``", "x ``y`` `", "a\nb", "<b>|</b>"])
def test_a_command_is_one_code_span(command: str) -> None:
    """CommonMark: a span ends at a run of as many backticks as it began with."""
    shown = code(command)
    fence = re.match("`+", shown)
    assert fence is not None
    inside = shown[len(fence[0]) : -len(fence[0])]
    assert fence[0] not in re.findall("`+", inside)
    assert inside.split() == command.split()


def test_hub_ids() -> None:
    assert yaml("org/model-1.5_b") == "org/model-1.5_b"
    assert yaml("a: b\n- c") == '"a: b\\n- c"'
    assert yaml("- x") == '"- x"'
