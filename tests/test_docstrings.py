"""The examples in the docstrings of all that is public run, in a folder with the example family."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import taskstore
from tests.support import ROOT

pytestmark = pytest.mark.xdist_group("docstrings")  # one example goes on where another ends
EXAMPLES = ROOT / "examples"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FUNCTIONS = [name for name in taskstore.__all__ if inspect.isfunction(getattr(taskstore, name))]
METHODS = [f"Store.{name}" for name in ("summary", "load_model", "load_tokenizer")]


def run(name: str) -> int:
    """Run the examples of `taskstore.NAME` in the current folder; return how many there are."""
    owner, _, method = name.partition(".")
    found: Any = getattr(taskstore, owner)
    if method:
        found = getattr(found, method)
    space = {"taskstore": taskstore, "Path": Path}
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(found) or "", space, name, None, 0)
    said: list[str] = []
    failed = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append).failed
    assert not failed, "".join(said)
    return len(test.examples)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples start from: the family, and the stores that the one of `pack` makes."""
    place = tmp_path_factory.mktemp("examples")
    (place / "family").symlink_to(EXAMPLES / "family")
    before = os.getcwd()
    os.chdir(place)
    try:
        assert run("pack")
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder, with examples/evaluate.py to import; another library has that name, too."""
    monkeypatch.chdir(folder)
    spec = importlib.util.spec_from_file_location("evaluate", EXAMPLES / "evaluate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "evaluate", module)


@pytest.mark.parametrize("name", [*(n for n in FUNCTIONS if n != "pack"), "Store", *METHODS])
@pytest.mark.usefixtures("there")
def test_the_examples_of_a_docstring_run(name: str) -> None:
    assert run(name), f"the docstring of taskstore.{name} shows no example"
