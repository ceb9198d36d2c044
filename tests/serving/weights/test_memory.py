"""What a family takes while it is learned and while it lives, measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from taskstore_serving.weights.family import LiveFamily
from torch import Tensor, nn

import taskstore
from taskstore import devices
from taskstore.errors import NotEnoughMemory
from taskstore.swap import memory as swap_memory
from tests.serving.weights.test_family import Fused
from tests.support import families

LAYERS, SIDE = 6, 2048  # matrices of 8 MB, two in a layer
SHAPES = {f"layers.{i}.{name}.weight": (SIDE, SIDE) for i in range(LAYERS) for name in "ab"}
MB = 1 << 20


class Plain(nn.Module):
    """Every tensor by its name, rows of a layer fused."""

    def __init__(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        for name in {name[:-9] for name in shapes}:
            rows = sum(shape[0] for other, shape in shapes.items() if other.startswith(name))
            weight = torch.full((rows, SIDE), 0.5, dtype=torch.bfloat16)
            self.register_parameter(name.replace(".", "_"), nn.Parameter(weight, False))

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        written = set()
        for name, weight in weights:
            own, first = name[:-9].replace(".", "_"), 0 if name.endswith(".a.weight") else SIDE
            getattr(self, own).data[first : first + SIDE].copy_(weight)
            written.add(own)
        return written


def resident(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) << 10


def measure(store: taskstore.Store, small: taskstore.Store, residual: int) -> dict[str, Any]:
    LiveFamily(Fused(), small, small.tasks, residual=residual)  # compiles, and fills pools
    model = Plain(SHAPES)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    family = LiveFamily(model, store, ["one"], residual=residual)
    peak = resident("VmHWM") - before
    family.verify_all()
    kept = resident("VmRSS") - before
    family.add("two")
    added = resident("VmRSS") - before - kept
    family.remove("two")
    removed = resident("VmRSS") - before - kept
    sizes = family.state()["memory"]
    return {"peak": peak, "kept": kept, "added": added, "removed": removed, **sizes}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`store`, of 100 MB a model, and a `little` one."""
    root = tmp_path_factory.mktemp("memory")
    base = families.random_state(0, shapes=SHAPES)
    tasks = {name: families.tuned(base, i) for i, name in enumerate(("one", "two"))}
    big = families.Family(root / "big", base, tasks)
    small = families.family(root / "small", 2)
    for family, name in ((big, "store"), (small, "little")):
        options = taskstore.PackOptions(tiers="mask,rest", residual=2.0, jobs=2, lam=0.4)
        taskstore.pack(family.base_path, family.paths, root / name, options)
    return root


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("residual", [0, 1])
def test_never_more_than_live_d_masks_and_a_layer(stores: Path, residual: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(stores), str(residual)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"},  # glibc keeps nothing back
    )
    found = json.loads(done.stdout.splitlines()[-1])
    layer = 2 * SIDE * SIDE * 2
    beside_live = sum(found[use] for use in ("delta", "base", "masks", "vectors") if use in found)
    assert found["live"] == LAYERS * layer
    assert found["peak"] < beside_live + layer + layer // 2 + 24 * MB, found
    assert found["kept"] < beside_live + 24 * MB, found
    one = found["masks"] + found.get("vectors", 0)
    assert found["added"] - found["removed"] > 0.9 * one, found


def test_what_does_not_fit_is_refused_by_its_parts_before_it_is_allocated(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = taskstore.open(packed)
    monkeypatch.setattr(devices, "free_memory", lambda device: 1 << 12)
    monkeypatch.setattr(swap_memory, "blank", None)
    model = Fused()
    with pytest.raises(NotEnoughMemory, match=r"GB wanted \(D .*, masks .*\).* fewer tasks"):
        LiveFamily(model, store, store.tasks)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    both = [taskstore.open(root / name) for name in ("store", "little")]
    print(json.dumps(measure(both[0], both[1], int(sys.argv[2]))))
