"""What the library gives an executor: functions of modules, units and results of plain data."""

from __future__ import annotations

import ast
import io
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import taskstore
from taskstore.analysis import overlap
from taskstore.executors import Threads
from taskstore.locations.files import LocalFile
from taskstore.merging import MergeOptions, merge
from taskstore.store.verify import verify
from tests.support import ROOT
from tests.support.families import Family, options
from tests.support.modules import Named

EXECUTORS = ("taskstore/executors.py", "taskstore/locations/remote/claims.py")  # hand functions on


def calls_of_map(tree: ast.Module) -> Iterator[ast.Call]:
    """`executor.map(function, shared, units)`; other kinds of `map` take other arguments."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr == "map" and len(node.args) == 3:
            yield node


def functions_of(tree: ast.Module) -> dict[str, ast.FunctionDef | None]:
    """Functions at the top of a module; None for names that it imports."""
    found: dict[str, ast.FunctionDef | None] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: None for alias in node.names}
    return found


def wrong_work(tree: ast.Module) -> list[str]:
    """Work that is no function of a module with two parameters."""
    functions, wrong = functions_of(tree), []
    for call in calls_of_map(tree):
        first = call.args[0]
        name = first.id if isinstance(first, ast.Name) else ""
        function = functions.get(name)
        two = function is None or len(function.args.args) == 2
        if name not in functions or not two:
            wrong.append(f"line {call.lineno}: {ast.unparse(first)}")
    return wrong


@pytest.mark.parametrize(
    ("source", "right"),
    [
        ("def f(s, u): ...\ndef g(e): e.map(f, 1, [2])", True),
        ("from a import f\ndef g(e): e.map(f, 1, [2])", True),
        ("def g(e): e.map(lambda s, u: u, 1, [2])", False),
        ("def g(e):\n def f(s, u): ...\n e.map(f, 1, [2])", False),
        ("def g(e, f): e.map(f, 1, [2])", False),
        ("def g(self, e): e.map(self.f, 1, [2])", False),
        ("def f(u): ...\ndef g(e): e.map(f, 1, [2])", False),
    ],
)
def test_what_wrong_work_is(source: str, right: bool) -> None:
    assert (wrong_work(ast.parse(source)) == []) == right


@pytest.mark.skipif(
    not (ROOT / "taskstore").is_dir(),
    reason="the sources are not part of an installed taskstore",
)
def test_all_work_is_a_function_of_a_module() -> None:
    """An executor elsewhere can import that; a closure it cannot."""
    wrong, calls = {}, 0
    for root in ("taskstore", "cli", "serving"):
        for path in sorted((ROOT / root).rglob("*.py")):
            if path.relative_to(ROOT).as_posix() in EXECUTORS:
                continue
            tree = ast.parse(path.read_text())
            calls += len(list(calls_of_map(tree)))
            if found := wrong_work(tree):
                wrong[path.relative_to(ROOT).as_posix()] = found
    assert not wrong
    assert calls >= 10


class Carrier(pickle.Pickler):
    """Carries plain data; an open file, whose number means nothing elsewhere, is none."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, LocalFile):
            raise TypeError(f"work holds an open file: {obj.path.name}")
        return NotImplemented


def carried(work: Any) -> Any:
    buffer = io.BytesIO()
    Carrier(buffer).dump(work)
    return pickle.loads(buffer.getvalue())


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Work whose function, units and results were pickled on their way; its names."""
    seen, real = set[str](), Threads.map

    def send(self: Threads, function: Any, shared: Any, units: Iterable[Any]) -> Iterator[Any]:
        seen.add(f"{function.__module__}.{function.__qualname__}")
        return map(carried, real(self, carried(function), shared, map(carried, units)))

    monkeypatch.setattr(Threads, "map", send)
    return seen


@pytest.mark.parametrize("level", ["speed", "archive"])
def test_units_of_stores_are_plain_data(
    small: Family, tmp_path: Path, sent: set[str], level: str
) -> None:
    """Packed, checked and unpacked by copies of them."""
    chosen = options(tiers="mask,rest,exact", level=level, residual=2)
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", chosen)
    store = taskstore.open(tmp_path / "s")
    assert verify(store, deep=True).problems == []
    store.unpack("alpha", tmp_path / "alpha")
    assert (tmp_path / "alpha/model.safetensors").read_bytes() == (
        small.paths["alpha"] / "model.safetensors"
    ).read_bytes()
    homes = {name.rsplit(".", 1)[0] for name in sent}
    assert homes >= {
        "taskstore.packing.block_coder",
        "taskstore.packing.multitask",
        "taskstore.store.blocks",
        "taskstore.store.verify",
    }


def test_units_of_merges_are_plain_data(small: Family, tmp_path: Path, sent: set[str]) -> None:
    merge(small.base_path, small.paths, tmp_path / "m", MergeOptions("ties"))
    homes = {name.rsplit(".", 1)[0] for name in sent}
    assert homes >= {"taskstore.merging.job", "taskstore.merging.merged_blocks"}


@pytest.mark.parametrize("level", ["speed", "archive"])
def test_units_of_overlap_are_plain_data(
    small: Family, tmp_path: Path, sent: set[str], level: str
) -> None:
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", options(level=level))
    sent.clear()
    found = overlap.measure(taskstore.open(tmp_path / "s"), vectors=True)
    assert {tensor.name for tensor in found.tensors} >= {"layers.0.attn.weight"}
    homes = {name.rsplit(".", 1)[0] for name in sent}
    assert homes >= {"taskstore.analysis.overlap.counting"}


def test_units_of_swaps_are_plain_data(packed: Path, small: Family, sent: set[str]) -> None:
    """All but live memory, which is where it is."""
    module = Named(small.base)
    with taskstore.attach(module, taskstore.open(packed)) as family:
        family.swap("alpha")
        assert family.verify().task == "alpha"
    homes = {name.rsplit(".", 1)[0] for name in sent}
    assert homes >= {"taskstore.swap.from_store", "taskstore.swap.identify"}


def test_units_of_searches_are_plain_data(small: Family, tmp_path: Path, sent: set[str]) -> None:
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", options(tiers="auto"))
    homes = {"sample.take", "sample.rest_sums", "sample.rest_bytes", "mask_trial._of_run"}
    assert {f"taskstore.packing.auto.{name}" for name in homes} <= sent
