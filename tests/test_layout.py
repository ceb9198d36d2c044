"""The rules of names and sizes that a program can check (CONTRIBUTING.md, "Names")."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

LIBRARY = ROOT / "taskstore"
ROOTS = (LIBRARY, ROOT / "cli/taskstore_cli", ROOT / "serving/taskstore_serving")
ENDINGS = ("", "s", "es", "e", "ed", "ing", "ings", "er", "ers", "or", "ors")
SHORTEST_STEM = 4
MAX_LINES = 300
MAX_MODULES = 15
HOLDS_MANY = {
    "taskstore/format/codecs",
    "taskstore/merging/methods",
}  # packages of many files of one kind
pytestmark = pytest.mark.skipif(
    not LIBRARY.is_dir(), reason="the sources are not part of an installed taskstore"
)


def stems(name: str) -> set[str]:
    """What may be left of a name when its ending is taken off."""
    found = set()
    for ending in ENDINGS:
        stem = name.removesuffix(ending)
        whole = ending != "es" or stem.endswith(("s", "x", "ch"))
        if name.endswith(ending) and whole and len(stem) >= SHORTEST_STEM:
            found.add(stem)
    return found


def clashes(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of different names that differ by an ending alone."""
    every = sorted(set(names))
    return [(a, b) for a, b in combinations(every, 2) if stems(a) & stems(b)]


def packages(root: Path) -> list[Path]:
    """`root` and all folders below it that hold modules."""
    return sorted({path.parent for path in root.rglob("*.py")})


def children(package: Path) -> Iterator[str]:
    """Names of the modules and packages directly in a package."""
    for path in package.iterdir():
        if path.suffix == ".py" and not path.stem.startswith("__"):
            yield path.stem
        elif path.is_dir() and any(path.glob("*.py")):
            yield path.name


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


EVERY_PACKAGE = [package for root in ROOTS for package in packages(root)]
OUTSIDE = [package for root in ROOTS[1:] for package in packages(root)]


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("file", "files", True),
        ("search", "searches", True),
        ("writer", "writing", True),
        ("store", "stored", True),
        ("masks", "masking", True),
        ("codings", "coder", False),  # three letters are no stem
        ("files", "filters", False),
        ("options", "options", False),
        ("card", "cards_of_tasks", False),
    ],
)
def test_what_a_clash_is(one: str, other: str, clash: bool) -> None:
    assert bool(clashes([one, other])) == clash


def test_no_two_modules_of_the_library_differ_by_an_ending() -> None:
    places: dict[str, list[str]] = {}
    for package in packages(LIBRARY):
        for name in children(package):
            places.setdefault(name, []).append(relative(package))
    found = [f"{a} ({places[a]}) and {b} ({places[b]})" for a, b in clashes(places)]
    assert not found, "rename one of each pair: " + "; ".join(found)


@pytest.mark.parametrize("package", OUTSIDE, ids=relative)
def test_no_two_names_of_a_package_differ_by_an_ending(package: Path) -> None:
    assert not clashes(children(package))


def test_no_file_is_too_long() -> None:
    lines = {
        relative(path): len(path.read_text().splitlines())
        for root in ROOTS
        for path in root.rglob("*.py")
    }
    assert {path: n for path, n in lines.items() if n > MAX_LINES} == {}


@pytest.mark.parametrize("package", EVERY_PACKAGE, ids=relative)
def test_no_package_is_too_large(package: Path) -> None:
    modules = [path for path in package.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MAX_MODULES or relative(package) in HOLDS_MANY


@pytest.mark.parametrize("package", EVERY_PACKAGE, ids=relative)
def test_every_package_says_what_it_is(package: Path) -> None:
    assert ast.get_docstring(ast.parse((package / "__init__.py").read_text()))


@pytest.mark.parametrize("root", ROOTS, ids=relative)
def test_the_layers_name_every_child(root: Path) -> None:
    """So a new package cannot slip in between the layers (`make lint` holds the layers)."""
    document: Any = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = document["tool"]["importlinter"]["contracts"]
    (layers,) = (c["layers"] for c in contracts if c.get("containers") == [root.name])
    named = [name.strip() for layer in layers for name in layer.split("|")]
    assert len(named) == len(set(named))
    assert set(named) - {"__main__"} == set(children(root))


# What types a command line, or shows one on a page.
TYPES = ("extras.py", "server.py", "ollama.py", "store/card.py", "models/readers/other_forms.py")


def said(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Strings of a module with their lines, {} for each value in them; no docstrings."""
    named = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = list(ast.walk(tree))
    seen = {
        n.body[0].value for n in nodes if isinstance(n, named) and isinstance(n.body[0], ast.Expr)
    }
    seen |= {part for n in nodes if isinstance(n, ast.JoinedStr) for part in n.values}
    for node in nodes:
        if node in seen:
            continue
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        words = [p.value if isinstance(p, ast.Constant) else "{}" for p in parts]
        if isinstance(node, ast.JoinedStr | ast.Constant):
            yield node.lineno, "".join(map(str, words))


def test_the_library_speaks_python() -> None:
    """What it says is tiers="exact", not the command's --tiers exact, but for a whole command line
    in backticks; `taskstore_cli.output.options` says it as options."""
    found = [
        f"{relative(path)}:{line}: {text}"
        for path in LIBRARY.rglob("*.py")
        if not relative(path).endswith(TYPES) and "analysis/page" not in relative(path)
        for line, text in said(ast.parse(path.read_text()))
        if re.search(r"(?<![\w-])--[a-z]", re.sub("`[^`]*`", "", text))
    ]
    assert not found
