"""Every maker against every forged section: nothing is made from bytes that no checksum proves.

A forged section decodes to other values, and its file's checksum was made to fit, as by whoever
repairs the checksum in place of the file.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import taskstore
from taskstore.analysis.overlap import measure
from taskstore.errors import FormatError, UnknownWeights
from taskstore.format.manifest import Score
from taskstore.merging.from_store import merge_store
from taskstore.merging.options import MergeOptions
from taskstore.packing.changes.options import AddOptions
from taskstore.packing.changes.tasks import remove
from taskstore.packing.revise import add, record, retier
from taskstore.store.verify import verify
from tests.support import families, forge
from tests.support.families import contents, options
from tests.support.modules import Named, holds

W, HEAD = "layers.1.mlp.weight", "head.weight"
PARTS = {  # part -> its file, a section of it, the chunks of that
    "base": ("base.safetensors", W, 4),
    "multitask": ("multitask.safetensors", W, 4),
    "mask": ("tasks/alpha/masks.safetensors", W, 4),
    "rest": ("tasks/alpha/rest.safetensors", W, 4),
    "exact": ("tasks/alpha/exact.safetensors", W, 4),
    "private": ("tasks/alpha/private.safetensors", HEAD, 3),
}
ASSET = b'{"model_type": "tset"}'
MASKS, TENSORS = ("base", "multitask", "mask"), tuple(PARTS)
ALL = (*TENSORS, "asset")
REPACK = AddOptions(repack=True)


@dataclass(frozen=True)
class Given:
    """A forged store and the whole one, another fine-tune, and where to write."""

    store: taskstore.Store
    whole: taskstore.Store
    finetune: Path
    out: Path


def _merge(method: str) -> Maker:
    return lambda given: merge_store(given.store, given.out, MergeOptions(method))


def _attach(tier: str, task: str) -> Maker:
    """To a module that holds a task as it should be."""

    def attach(given: Given) -> None:
        state = given.whole.state_dict(task, tier=tier)
        module = Named(state)
        try:
            taskstore.attach(module, given.store, tier=tier).close()
        finally:
            assert holds(module, state)

    return attach


Maker = Callable[[Given], object]
MAKERS: dict[str, tuple[Maker, tuple[str, ...]]] = {  # maker -> the parts that it decodes
    "add": (lambda given: add(given.store, {"new": given.finetune}), ("base",)),
    "add --repack": (lambda given: add(given.store, {"new": given.finetune}, REPACK), ALL),
    "retier": (lambda given: retier(given.store, options()), ALL),
    "retier elsewhere": (lambda given: retier(given.store, options(), given.out), ALL),
    "merge": (_merge("average"), ("base", "multitask", "mask", "rest", "exact", "asset")),
    "merge as it stands": (_merge("sum"), (*MASKS, "asset")),
    "merge by consensus": (_merge("consensus"), (*MASKS, "asset")),
    "unpack": (lambda given: given.store.unpack("alpha", given.out), ALL),
    "unpack all": (lambda given: given.store.unpack_all(given.out), ALL),
    "state_dict": (lambda given: given.store.state_dict("alpha"), TENSORS),
}
MAKERS |= {
    f"attach {tier} to {task}": (_attach(tier, task), parts)
    for task in ("alpha", "beta")
    for tier, parts in {
        "mask": (*MASKS, "private"),
        "rest": (*MASKS, "rest", "private"),
        "exact": (*MASKS, "rest", "exact", "private"),
    }.items()
}
CASES = [(maker, part) for maker, (_, parts) in MAKERS.items() for part in parts]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> families.Family:
    """Every task has a head of its own; of float32, whose codecs decode whatever is below."""
    base = families.random_state(0, torch.float32)
    tasks = {name: families.tuned(base, i) for i, name in enumerate(("alpha", "beta", "gamma"))}
    for i, state in enumerate(tasks.values()):
        state[HEAD] = families.random_state(i, torch.float32, {HEAD: (3, 200)})[HEAD]
    return families.Family(tmp_path_factory.mktemp("family"), base, tasks)


@pytest.fixture(scope="module")
def whole(family: families.Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that has every part; never written to."""
    target = tmp_path_factory.mktemp("whole") / "store"
    paths = {name: family.paths[name] for name in ("alpha", "beta")}
    taskstore.pack(family.base_path, paths, target, options(tiers="mask,rest,exact"))
    return target


def forged(whole: Path, folder: Path, part: str) -> taskstore.Store:
    """A copy of the store with one part forged; its files are as the manifest records them."""
    path = folder / "store"
    shutil.copytree(whole, path)
    if part == "asset":
        forge.forge_asset(path, asset_of(path), ASSET)
    else:
        forge.swap_chunks(path, *PARTS[part])
    return taskstore.open(path)


def asset_of(store: Path) -> str:
    """The hash of a file that only alpha has."""
    digest: str = forge.load(store)["tasks"]["alpha"]["assets"]["own.txt"]
    return digest


def named(message: str, store: Path, part: str) -> None:
    """The message is one line with the tensor, the model, the file and the way out."""
    file, tensor = f"assets/{asset_of(store)}", ""
    if part != "asset":
        file, tensor, _ = PARTS[part]
        assert f"tensor {tensor!r} of " in message
        assert "task 'alpha'" in message or part in ("base", "multitask")
    assert file in message
    assert "restore" in message
    assert "\n" not in message


@pytest.mark.parametrize(("maker", "part"), CASES)
def test_nothing_is_made_of_a_forged_part(
    maker: str, part: str, whole: Path, family: families.Family, tmp_path: Path
) -> None:
    store = forged(whole, tmp_path, part)
    before = contents(store.path)
    with pytest.raises(FormatError, match="is damaged") as caught:
        MAKERS[maker][0](
            Given(store, taskstore.open(whole), family.paths["gamma"], tmp_path / "out")
        )
    named(str(caught.value), store.path, part)
    assert contents(store.path) == before
    assert contents(tmp_path / "out") == {}
    assert [path.name for path in tmp_path.iterdir() if path.name != "out"] == ["store"]


@pytest.mark.parametrize("part", ALL)
def test_verify_finds_a_forged_part(part: str, whole: Path, tmp_path: Path) -> None:
    store = forged(whole, tmp_path, part)
    assert verify(store).ok == (part != "asset")  # what an asset holds needs no rebuilding
    problems = verify(store, deep=True).problems
    assert problems
    for problem in problems:
        named(problem, store.path, part)


@pytest.mark.parametrize("part", ALL)
def test_linked_files_stay_as_provable_as_they_were(part: str, whole: Path, tmp_path: Path) -> None:
    """`remove` and `record` decode nothing: what was damaged is still found."""
    store = forged(whole, tmp_path, part)
    found = verify(store, deep=True).problems
    left = record(remove(store, ["beta"]), "test", {"alpha": Score(rebuilt=0.5)})
    about_beta = [problem for problem in found if "task 'beta'" in problem]
    assert verify(left, deep=True).problems == [one for one in found if one not in about_beta]


def test_makers_take_the_whole_store(whole: Path, family: families.Family, tmp_path: Path) -> None:
    """So that a refusal above is for what was forged."""
    for i, (maker, _) in enumerate(MAKERS.values()):
        path = tmp_path / str(i)
        shutil.copytree(whole, path)
        stores = taskstore.open(path), taskstore.open(whole)
        maker(Given(*stores, family.paths["gamma"], tmp_path / f"out{i}"))


def test_overlap_counts_only_recorded_files(whole: Path, tmp_path: Path) -> None:
    """Without the base nothing is rebuilt: files and the number of ones are what is proved."""
    path = tmp_path / "store"
    shutil.copytree(whole, path)
    measure(taskstore.open(path))
    masks = path / "tasks/alpha/masks.safetensors"
    raw = masks.read_bytes()
    masks.write_bytes(raw[:-80] + bytes([raw[-80] ^ 1]) + raw[-79:])
    with pytest.raises(FormatError, match=r"tasks/alpha/masks.safetensors is damaged"):
        measure(taskstore.open(path))


def test_attach_without_proof_is_told_by_verify(whole: Path, tmp_path: Path) -> None:
    store = forged(whole, tmp_path, "mask")
    module = Named(taskstore.open(whole).state_dict("beta", tier="mask"))
    with taskstore.attach(module, store, tier="mask", prove=False) as attached:
        attached.verify()
        attached.swap("alpha")
        with pytest.raises(UnknownWeights, match=W):
            attached.verify()
