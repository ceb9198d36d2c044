"""SPEC.md section 5, `names`: each element of a tensor has one name in the fine-tune's files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import taskstore
from taskstore.errors import FormatError
from tests.support import forge
from tests.support.families import family, options
from tests.support.forge import Document

W = "layers.0.attn.weight"  # (33, 31)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("names")
    made = family(root, 1)
    taskstore.pack(made.base_path, made.paths, root / "store", options())
    return root / "store"


def edited(store: Path, names: Document, version: int = 4) -> Path:
    def change(document: Document) -> None:
        document["version"] = version
        document["tasks"]["alpha"]["names"] = names

    forge.edit(store, change)
    return store


GOOD: dict[str, tuple[Document, dict[str, tuple[int, ...]]]] = {
    "renamed": ({"x": {"of": [W]}}, {"x": (33, 31)}),
    "cut": (
        {
            "x": {"of": [W], "start": 0, "shape": [3, 31]},
            W: {"of": [W], "start": 93, "shape": [30, 31]},
        },
        {"x": (3, 31), W: (30, 31)},
    ),
    "joined": ({"x": {"of": ["norm.weight", "scale"], "shape": [17]}}, {"x": (17,)}),
    "exchanged": (
        {"norm.weight": {"of": ["layers.0.bias"]}, "layers.0.bias": {"of": ["norm.weight"]}},
        {"norm.weight": (7,), "layers.0.bias": (16,)},
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_names_are_those_of_the_files(case: str, packed: Path, tmp_path: Path) -> None:
    names, shapes = GOOD[case]
    plain = taskstore.open(packed).state_dict("alpha")
    store = taskstore.open(edited(Path(shutil.copytree(packed, tmp_path / "s")), names))
    state = store.state_dict("alpha")
    assert {n: tuple(state[n].shape) for n in shapes} == shapes
    assert sum(v.numel() for v in state.values()) == sum(v.numel() for v in plain.values())
    for name, made in names.items():
        of = [plain[n].view(-1) for n in made["of"]]
        start = made.get("start", 0)
        got = state[name].view(-1)
        whole = torch.cat(of)
        assert got.equal(whole[start : start + got.numel()])


BAD: dict[str, Document] = {
    "of nothing": {"x": {"of": []}},
    "of a stranger": {"x": {"of": ["nope"]}},
    "twice": {"x": {"of": [W]}, "y": {"of": [W]}},
    "a hole": {"x": {"of": [W], "start": 31, "shape": [32, 31]}},
    "an end that is not named": {"x": {"of": [W], "start": 0, "shape": [32, 31]}},
    "past the end": {"x": {"of": [W], "start": 0, "shape": [34, 31]}},
    "another size": {"x": {"of": [W], "shape": [34, 31]}},
    "two with a start": {"x": {"of": ["norm.weight", "scale"], "start": 0, "shape": [17]}},
    "a name that is there": {"norm.weight": {"of": [W]}},
    "no name": {"": {"of": [W]}},
    "a control character": {"a\x07": {"of": [W]}},
}


@pytest.mark.parametrize("case", BAD)
def test_names_that_do_not_fit_are_refused(case: str, packed: Path, tmp_path: Path) -> None:
    store = edited(Path(shutil.copytree(packed, tmp_path / "s")), BAD[case])
    with pytest.raises(FormatError):
        taskstore.open(store)


def test_an_older_version_has_none(packed: Path, tmp_path: Path) -> None:
    store = edited(Path(shutil.copytree(packed, tmp_path / "s")), {"x": {"of": [W]}}, 3)
    forge.edit(store, lambda d: [task.pop("fidelity") for task in d["tasks"].values()])
    with pytest.raises(FormatError, match="has names, in a store of version 3"):
        taskstore.open(store)
