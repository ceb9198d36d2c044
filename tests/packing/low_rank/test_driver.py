"""Rests below two bits, from the pack to every way out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import taskstore
from taskstore.errors import FormatError
from taskstore.format.names import MANIFEST
from taskstore.store.verify import verify
from tests.golden.make_v6_factored import of_low_rank
from tests.support import families, forge
from tests.support.families import contents, options, same
from tests.support.forge import Document

SHAPES = {
    "model.embed.weight": (150, 200),
    "model.conv.weight": (40, 3, 5, 7),
    "model.norm.weight": (200,),
    "model.thin.weight": (300, 2),
    "model.row.weight": (1, 300),
}
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> families.Family:
    base = families.random_state(0, request.param, shapes=SHAPES)
    tasks = {name: of_low_rank(base, seed) for seed, name in enumerate(("one", "two"))}
    return families.Family(tmp_path_factory.mktemp("factored"), base, tasks)


def packed(family: families.Family, target: Path, **changes: object) -> taskstore.Store:
    how = {"tiers": "rest", "residual": 0.5, "chunk": 1 << 12, **changes}
    taskstore.pack(family.base_path, family.paths, target, options(**how))
    return taskstore.open(target)


def test_every_way_out_gives_the_same(family: families.Family, tmp_path: Path) -> None:
    """Unpacked, loaded by tensor, swapped in place and back."""
    store = packed(family, tmp_path / "s")
    assert store.manifest.version == 6
    kinds = {name: entry.codec for name, entry in store.manifest.tasks["one"].tensors.items()}
    assert [name for name, codec in kinds.items() if codec] == [*SHAPES][:2][::-1]
    assert verify(store, deep=True).ok
    module = torch.nn.Module()
    for name, w in family.base.items():
        module.register_buffer(name.replace(".", "_"), w.clone())
    prefix = {name.replace(".", "_"): name for name in family.base}
    states = {task: store.state_dict(task) for task in store.tasks}
    with taskstore.attach(module, store, prefix=prefix) as attached:
        for task in (*store.tasks, *store.tasks[::-1]):
            attached.swap(task)
            attached.verify()
            live = {prefix[name]: w for name, w in module.state_dict().items()}
            assert all(same(live[name], w) for name, w in states[task].items())
    for task, state in states.items():
        store.unpack(task, tmp_path / task)
        back = load_file(tmp_path / task / "model.safetensors")
        assert all(same(back[name], w) for name, w in state.items())
        tau = (
            family.tasks[task]["model.embed.weight"].float()
            - family.base["model.embed.weight"].float()
        )
        e = state["model.embed.weight"].float() - family.tasks[task]["model.embed.weight"].float()
        assert e.norm() < 0.45 * tau.norm()


def test_jobs_and_memory_change_no_byte(family: families.Family, tmp_path: Path) -> None:
    packed(family, tmp_path / "one", jobs=1)
    packed(family, tmp_path / "many", jobs=6, max_memory=1 << 27)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


@pytest.mark.parametrize("bits", [0.3, 0.7, 1.5])
def test_the_rate_is_about_what_was_asked_for(bits: float, tmp_path: Path) -> None:
    base = families.random_state(0, torch.float32, shapes={"w": (500, 600)})
    family = families.Family(tmp_path, base, {"one": of_low_rank(base, 1)})
    store = packed(family, tmp_path / "s", residual=bits, chunk=1 << 18)
    size = sum(f.bytes for path, f in store.manifest.files.items() if "rest" in path)
    assert 0.9 * bits < 8 * size / 300_000 < 1.05 * bits + 0.05


def test_two_bits_and_more_are_as_before(family: families.Family, tmp_path: Path) -> None:
    store = packed(family, tmp_path / "s", residual=2.0)
    assert store.manifest.version == 4


def test_an_archive_above_it(family: families.Family, tmp_path: Path) -> None:
    store = packed(family, tmp_path / "s", tiers="rest,exact")
    for task, state in family.tasks.items():
        assert all(same(w, state[name]) for name, w in store.state_dict(task).items())


def _coded(document: Document, codec: str) -> None:
    document["tasks"]["one"]["tensors"]["model.embed.weight"]["codec"] = codec


@pytest.mark.parametrize("codec", ["levels", "sparse", "strides"])
def test_no_other_codec(family: families.Family, tmp_path: Path, codec: str) -> None:
    packed(family, tmp_path / "s")
    forge.edit(tmp_path / "s", lambda document: _coded(document, codec))
    with pytest.raises(FormatError, match="cannot be coded by"):
        taskstore.open(tmp_path / "s")


def test_no_older_version_has_it(family: families.Family, tmp_path: Path) -> None:
    packed(family, tmp_path / "s")
    forge.edit(tmp_path / "s", lambda document: document.update(version=5))
    with pytest.raises(FormatError, match="cannot be coded by 'factored'"):
        taskstore.open(tmp_path / "s")


def test_a_tensor_without_weights(tmp_path: Path) -> None:
    base = {"w": torch.ones(100, 100), "none": torch.zeros(0, 80)}
    tasks = {"one": {"w": torch.ones(100, 100) * 1.5, "none": torch.zeros(0, 80)}}
    family = families.Family(tmp_path, base, tasks)
    store = packed(family, tmp_path / "s", residual=0.1)
    assert np.isfinite(store.state_dict("one")["w"].numpy()).all()
    assert MANIFEST in contents(tmp_path / "s")
