"""What is public at the root: what it loads, and what it says to arguments of a wrong type."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import taskstore
from taskstore.errors import InputError
from taskstore.public import check_fields, public

WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a list of fine-tunes": (
        lambda s: taskstore.pack("base", ["a", "b"]),  # type: ignore[call-arg, arg-type]
        "finetunes is ['a', 'b'] (list), not a dict: name -> a path",
    ),
    "a path of fine-tunes": (
        lambda s: taskstore.pack("base", Path("runs"), "out"),  # type: ignore[arg-type]
        "finetunes is PosixPath('runs') (PosixPath), not a dict: name -> a path",
    ),
    "a fine-tune that is none": (
        lambda s: taskstore.pack("base", {"a": None}, "out"),  # type: ignore[dict-item]
        "finetunes['a'] is None, not a path",
    ),
    "options as a dict": (
        lambda s: taskstore.pack("base", {"a": "x"}, "out", {"lam": 1}),  # type: ignore[arg-type]
        "options is {'lam': 1} (dict), not a PackOptions or None",
    ),
    "no such tier": (
        lambda s: taskstore.PackOptions(tiers="foo"),
        "'foo' is none of auto, mask, rest,",
    ),
    "tiers as a list": (
        lambda s: taskstore.PackOptions(tiers=["mask"]),  # type: ignore[arg-type]
        "tiers is ['mask'] (list), not a string",
    ),
    "a threshold in words": (
        lambda s: taskstore.PackOptions(lam="0.4"),  # type: ignore[arg-type]
        "lam is '0.4' (str), not a number or None",
    ),
    "thresholds of no task": (
        lambda s: taskstore.PackOptions(lambdas=[0.4]),  # type: ignore[arg-type]
        "lambdas is [0.4] (list), not a dict: name -> a number",
    ),
    "no such level": (
        lambda s: taskstore.PackOptions(level="best"),  # type: ignore[arg-type]
        "level is 'best' (str), not 'speed' or 'archive'",
    ),
    "no such place of the base": (
        lambda s: taskstore.PackOptions(base="nowhere"),  # type: ignore[arg-type]
        "base is 'nowhere' (str), not 'embed' or 'reference'",
    ),
    "an integer as a method": (
        lambda s: taskstore.MergeOptions(3),  # type: ignore[arg-type]
        "method is 3 (int), not a string",
    ),
    "two assets": (
        lambda s: taskstore.MergeOptions("ties", tokenizer_from="a", assets_from="b"),
        "tokenizer_from takes the assets, too",
    ),
    "a number of a store": (
        lambda s: taskstore.open(3),  # type: ignore[arg-type]
        "path is 3 (int), not a path",
    ),
    "one task as a string": (
        lambda s: taskstore.remove(s, "alpha"),
        "tasks is 'alpha' (str), not a list of strings",
    ),
    "a fine-tune to add": (
        lambda s: taskstore.add(s, "runs/17"),  # type: ignore[arg-type]
        "finetunes is 'runs/17' (str), not a dict: name -> a path",
    ),
    "a task of a number": (
        lambda s: taskstore.open(s).tensor(1, "w"),  # type: ignore[arg-type]
        "task is 1 (int), not a string or None",
    ),
    "jobs in words": (
        lambda s: taskstore.verify(s, jobs="two"),  # type: ignore[arg-type]
        "jobs is 'two' (str), not a whole number or None",
    ),
    "progress in words": (
        lambda s: taskstore.verify(s, progress="yes"),  # type: ignore[arg-type]
        "progress is 'yes' (str), not a function or True or False",
    ),
    "a path to attach": (
        lambda s: taskstore.attach(nn.Linear(1, 1), s),  # type: ignore[arg-type]
        "(PosixPath), not a Store",
    ),
    "models of a store as folders": (
        lambda s: taskstore.merge(s, {"a": "x"}, "out", "ties"),
        "is a store: give the names of its tasks, or None",
    ),
    "models without names": (
        lambda s: taskstore.merge("base", ["a"], "out", "ties"),
        "base is no store: give the models as a dict",
    ),
    "a command without a model": (
        lambda s: taskstore.tune("base", {"a": "x"}, "out", "eval.py"),
        "the command 'eval.py' does not say where {model} goes",
    ),
}


@pytest.mark.parametrize("call", WRONG)
def test_a_wrong_argument_is_told_in_the_words_of_python(call: str, packed: Path) -> None:
    given, wanted = WRONG[call]
    with pytest.raises(InputError) as error:
        given(packed)
    assert wanted in str(error.value)
    assert "--" not in str(error.value)


def test_what_is_right_passes_and_what_is_missing_is_pythons_own_error(packed: Path) -> None:
    half, count = np.float32(0.5), np.int64(1 << 18)
    check_fields(taskstore.PackOptions(lam=1, lambdas={"a": half}, chunk=count))  # type: ignore
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'target'"):
        taskstore.pack("base", {"a": "x"})  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'deeper'"):
        taskstore.verify(packed, deeper=True)  # type: ignore[call-arg]


def test_types_that_only_type_checkers_import_are_left_alone() -> None:
    @public
    def f(a: Unknown, *more: int, b: float = 1.0, **rest: int) -> tuple[Any, ...]:  # type: ignore[name-defined]  # noqa: F821
        return a, more, b, rest

    assert f("x", 3, b=2, c=4) == ("x", (3,), 2, {"c": 4})
    with pytest.raises(InputError, match="b is True"):
        f(1, b=True)


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("numpy", "torch", "tqdm", "transformers", "taskstore.native")
    code = (
        "import sys, taskstore\n"
        "assert set(taskstore.__all__) == set(dir(taskstore))\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_every_name_at_the_root_is_there_and_says_what_it_is() -> None:
    for name in taskstore.__all__:
        assert getattr(taskstore, name) is not None
        assert name.startswith("__") or getattr(taskstore, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'pakc'"):
        _ = taskstore.pakc


def test_logging_is_silent_until_it_is_asked_for(
    small: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("taskstore")
    assert any(isinstance(handler, logging.NullHandler) for handler in logger.handlers)
    with caplog.at_level(logging.INFO, "taskstore"):
        taskstore.pack(small.base_path, small.paths, tmp_path / "store")
        taskstore.unpack(tmp_path / "store", "beta", tmp_path / "beta")
        taskstore.verify(tmp_path / "store")
    said = [record.getMessage() for record in caplog.records]
    assert any("packing 3 fine-tunes" in line and "tiers " in line for line in said)
    assert any(line.startswith("packed") and "smaller" in line for line in said)
    assert any("writing 'beta'" in line for line in said)
    assert all(record.name.startswith("taskstore.") for record in caplog.records)
