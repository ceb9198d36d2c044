"""Masks of the published code in a store: what is rebuilt, and which files do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

import taskstore
from taskstore.errors import InputError
from taskstore.packing import revise
from taskstore.packing.changes.options import AddOptions
from taskstore.packing.options import PackOptions
from taskstore.packing.report import PackReport
from taskstore.store.verify import verify
from tests.cli.test_cli import run
from tests.conftest import real_family
from tests.support import ROOT, families, oracle
from tests.support.families import Family, State, options, same

LAMBDAS = (0.2, 0.5, 0.6)
Masks = dict[str, NDArray[np.bool_]]


def flat(state: State) -> Tensor:
    """Every tensor of a state dict in one float vector, names sorted."""
    return torch.cat([state[name].reshape(-1).float() for name in sorted(state)])


def published(base: State, tasks: Mapping[str, State], lambdas: Mapping[str, float]) -> Masks:
    """|theta_0 - theta_t| > lambda |theta_0 + tau_MTL - theta_t| over whole vectors."""
    flat_ptm = flat(base)
    flat_ft = torch.stack([flat(tasks[name]) for name in tasks])
    flat_multi = flat_ptm + (flat_ft - flat_ptm).sum(0)
    return {
        name: ((flat_ptm - row).abs() > (flat_multi - row).abs() * lambdas[name]).numpy()
        for name, row in zip(tasks, flat_ft, strict=True)
    }


def saved(path: Path, masks: Masks) -> Path:
    np.save(path, np.array({name: np.packbits(mask) for name, mask in masks.items()}))
    return path


def expected(
    base: State, tasks: Mapping[str, State], masks: Masks, merged: State
) -> dict[str, State]:
    """theta_0 + m tau_MTL in the base's dtype, tensor by tensor; theta_0 as it is where m is 0."""
    result: dict[str, State] = {}
    for task, mask in masks.items():
        rebuilt, at = State(), 0
        for name in sorted(base):
            theta0, n = base[name], base[name].numel()
            part = torch.from_numpy(mask[at : at + n]).reshape(theta0.shape)
            at += n
            if theta0.is_floating_point():
                w1 = (theta0.float() + merged[name]).to(theta0.dtype)
                rebuilt[name] = torch.where(part, w1, theta0)
            else:
                rebuilt[name] = tasks[task][name]
        assert at == mask.size
        result[task] = rebuilt
    return result


def equal(store: Path, models: Mapping[str, State]) -> bool:
    """Every model of the store, bit for bit."""
    opened = taskstore.open(store)
    for task, model in models.items():
        rebuilt = opened.state_dict(task)
        if rebuilt.keys() != model.keys() or not all(same(rebuilt[n], model[n]) for n in model):
            return False
    return True


def merged_sum(base: State, tasks: Mapping[str, State]) -> State:
    vectors = oracle.task_vectors(base, tasks)
    return {name: oracle.merged_sum(vectors, name) for name in base}


def pack(family: Family, file: Path, target: Path, **more: object) -> PackReport:
    chosen = {"lam": None, "masks": dict.fromkeys(family.tasks, file), **more}
    return taskstore.pack(family.base_path, family.paths, target, options(**chosen))


@pytest.mark.parametrize("method", ["sum", "ties"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_rebuilt(tmp_path: Path, dtype: torch.dtype, method: str) -> None:
    """Masks and multi-task vector are of the same models, so nothing is left to the store."""
    family = families.family(tmp_path, dtype=dtype)
    masks = published(family.base, family.tasks, dict(zip(family.tasks, LAMBDAS, strict=True)))
    pack(family, saved(tmp_path / "m.npy", masks), tmp_path / "store", method=method)
    vectors = oracle.task_vectors(family.base, family.tasks)
    summed = merged_sum(family.base, family.tasks)
    merged = oracle.merged_ties(vectors) if method == "ties" else summed
    assert equal(tmp_path / "store", expected(family.base, family.tasks, masks, merged))
    assert verify(taskstore.open(tmp_path / "store"), deep=True).ok


@pytest.mark.parametrize("coding", ["ulp", "rounded"])
def test_float32(tmp_path: Path, coding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = families.family(tmp_path, dtype=torch.float32)
    masks = published(family.base, family.tasks, dict(zip(family.tasks, LAMBDAS, strict=True)))
    names = dict.fromkeys(family.base, coding)
    monkeypatch.setattr("taskstore.packing.multitask.choose", lambda *_: names)
    pack(family, saved(tmp_path / "m.npy", masks), tmp_path / "store")
    merged = merged_sum(family.base, family.tasks)
    if coding == "rounded":
        merged = {name: value.to(torch.bfloat16).float() for name, value in merged.items()}
    assert equal(tmp_path / "store", expected(family.base, family.tasks, masks, merged))


def test_any_masks_of_any_lengths(tmp_path: Path) -> None:
    """Not TALL-masks at all, with tensors that start within a byte, tied ones and integers."""
    base = families.random_state(0)
    base["lm_head.weight"], base["ids"] = base["embed_tokens.weight"].clone(), torch.arange(9)
    tasks = {name: families.tuned(base, i) for i, name in enumerate(("one", "two"))}
    for state in tasks.values():
        state["lm_head.weight"] = state["embed_tokens.weight"].clone()
    family = Family(tmp_path, base, tasks)
    rng = np.random.default_rng(3)
    masks = {name: rng.random(flat(base).numel()) < 0.3 for name in tasks}
    tied = base["embed_tokens.weight"].numel()
    names = sorted(base)
    at = {n: sum(base[k].numel() for k in names[: names.index(n)]) for n in names}
    for mask in masks.values():
        first = mask[at["embed_tokens.weight"] :][:tied]
        mask[at["lm_head.weight"] :][:tied] = first
    assert at["layers.0.attn.weight"] % 8
    wanted = expected(base, tasks, masks, merged_sum(base, tasks))
    layouts: list[Callable[[str], bool]] = [
        lambda _: True,
        lambda name: name != "ids",
        lambda name: name != "lm_head.weight",
        lambda name: name not in ("ids", "lm_head.weight"),
    ]
    for i, kept in enumerate(layouts):
        parts = {
            task: np.concatenate([mask[at[n] :][: base[n].numel()] for n in names if kept(n)])
            for task, mask in masks.items()
        }
        pack(family, saved(tmp_path / "m.npy", parts), tmp_path / f"store{i}")
        assert equal(tmp_path / f"store{i}", wanted)


def test_plain_arrays_and_the_archive_level(small: Family, tmp_path: Path) -> None:
    """One .npy per task makes the same store as a dict, and the codec makes no difference."""
    masks = published(small.base, small.tasks, dict(zip(small.tasks, LAMBDAS, strict=True)))
    one = saved(tmp_path / "m.npy", masks)
    for name, mask in masks.items():
        np.save(tmp_path / f"{name}.npy", np.packbits(mask))
    pack(small, one, tmp_path / "dict")
    files = {name: tmp_path / f"{name}.npy" for name in masks}
    pack(small, one, tmp_path / "plain", masks=files)
    assert families.contents(tmp_path / "dict") == families.contents(tmp_path / "plain")
    pack(small, one, tmp_path / "archive", level="archive", tiers="mask,exact")
    found = [taskstore.open(tmp_path / name) for name in ("dict", "archive")]
    for task, state in small.tasks.items():
        masked, exact = (store.state_dict(task) for store in found)
        below = found[1].state_dict(task, tier="mask")
        assert all(same(masked[name], below[name]) for name in masked)
        assert all(same(exact[name], state[name]) for name in exact)


def test_what_is_recorded_and_reported(small: Family, tmp_path: Path) -> None:
    masks = published(small.base, small.tasks, dict(zip(small.tasks, LAMBDAS, strict=True)))
    report = pack(small, saved(tmp_path / "m.npy", masks), tmp_path / "s", lambdas={"beta": 0.5})
    manifest = taskstore.open(tmp_path / "s").manifest
    assert manifest.version == 4
    assert manifest.merge.options == {"imported": 1.0}
    assert {name: task.lam for name, task in manifest.tasks.items()} == {
        "alpha": 0, "beta": 0.5, "gamma": 0,
    }  # fmt: skip
    card = (tmp_path / "s" / "README.md").read_text().splitlines()
    rows = {line.split(" | ")[0]: line.split(" | ") for line in card}
    assert (rows["| alpha"][3], rows["| beta"][3]) == ("-", "0.5")
    merged = merged_sum(small.base, small.tasks)
    live = torch.cat(
        [
            ((small.base[n].float() + merged[n]).to(torch.bfloat16) != small.base[n]).reshape(-1)
            for n in sorted(small.base)
        ]
    ).numpy()
    idle = {task: int((mask & ~live).sum()) for task, mask in masks.items()}
    assert all(idle.values())
    counted = f"{sum(idle.values()):,} of {sum(int(m.sum()) for m in masks.values()):,} bits of the"
    listed = ", ".join(f"{task} {count:,}" for task, count in sorted(idle.items()))
    assert [w for w in report.warnings if w.startswith(counted) and w.endswith(listed)]
    for task, mask in masks.items():
        ones = sum(e.ones or 0 for e in manifest.tasks[task].tensors.values())
        assert ones == int((mask & live).sum())
    assert not any("has not moved" in warning for warning in report.warnings)


def test_masks_in_another_order_are_noticed(small: Family, tmp_path: Path) -> None:
    masks = published(small.base, small.tasks, dict(zip(small.tasks, LAMBDAS, strict=True)))
    turned = {name: np.ascontiguousarray(mask[::-1]) for name, mask in masks.items()}
    report = pack(small, saved(tmp_path / "m.npy", turned), tmp_path / "store")
    base, one = flat(small.base), flat(small.tasks["alpha"])
    still = (base == one).numpy()
    taken = int((turned["alpha"] & still).sum())
    assert taken
    said = f"alpha: its mask takes {taken:,} of {still.sum():,} weights that this fine-tune has not"
    assert any(warning.startswith(said) for warning in report.warnings)


N = sum(torch.Size(shape).numel() for shape in families.SHAPES.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"alpha": m["alpha"][:-160]}, "'alpha' has .* weights; a head or buffers"),
        (lambda m: m | {"beta": np.resize(m["beta"], N + 640)}, "'embed_tokens.weight' were in it"),
        (lambda m: m | {"beta": m["beta"][:-1023]}, "'layers.0.attn.weight' were not in it"),
        (lambda m: m | {"beta": np.append(m["beta"], True)}, "bits set past its last weight"),
        (lambda m: {"alpha": m["alpha"]}, "no mask of 'beta', only of 'alpha'; call the fine-tune"),
        (lambda m: m | {"SVHN": m["alpha"]}, "a mask of 'SVHN', which is no task of this family"),
        (lambda m: {}, "has no mask of 'alpha', only of none"),
        (lambda m: m | {"beta": m["beta"][:0]}, "has 0 to 0 bits"),
    ],
)
def test_masks_that_do_not_fit(
    small: Family, tmp_path: Path, change: Callable[[Masks], Masks], message: str
) -> None:
    masks = published(small.base, small.tasks, dict(zip(small.tasks, LAMBDAS, strict=True)))
    with pytest.raises(InputError, match=message):
        pack(small, saved(tmp_path / "m.npy", change(masks)), tmp_path / "store")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.npy"]


def test_one_mask_for_two_tasks(small: Family, tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.zeros((N + 7) // 8, np.uint8))
    with pytest.raises(InputError, match="one mask, for more than one task"):
        pack(small, tmp_path / "m.npy", tmp_path / "store")
    with pytest.raises(InputError, match="no mask is given for task 'beta'"):
        pack(small, tmp_path / "m.npy", tmp_path / "store", masks={"alpha": tmp_path / "m.npy"})
    with pytest.raises(InputError, match="masks is given for 'delta', which is no task"):
        pack(small, tmp_path / "m.npy", tmp_path / "store", masks={"delta": tmp_path / "m.npy"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("norm.weight"), "'two' has no 'norm.weight', BF16 .16. in the base"),
        (
            lambda s: s.update({"embed_tokens.weight": torch.ones(42, 16, dtype=torch.bfloat16)}),
            r"has 'embed_tokens.weight' as BF16 \[42, 16\], BF16 \[40, 16\] in the base",
        ),
        (lambda s: s.update({"norm.weight": torch.ones(3)}), r"another shape .*norm.weight.*\[3\]"),
    ],
)
def test_models_without_the_bases_tensors(
    tmp_path: Path, change: Callable[[State], object], message: str
) -> None:
    base = families.random_state(0)
    tasks = {name: families.tuned(base, i) for i, name in enumerate(("one", "two"))}
    change(tasks["two"])
    family = Family(tmp_path, base, tasks)
    masks = {name: np.zeros(N, bool) for name in tasks}
    with pytest.raises(InputError, match=message):
        pack(family, saved(tmp_path / "m.npy", masks), tmp_path / "store")


def test_tensors_that_only_a_task_has(tmp_path: Path) -> None:
    base = families.random_state(0)
    tasks = {name: families.tuned(base, i) for i, name in enumerate(("one", "two"))}
    masks = published(base, tasks, {"one": 0.3, "two": 0.4})
    wanted = expected(base, tasks, masks, merged_sum(base, tasks))
    tasks["two"]["head.weight"] = torch.ones(3, 10)
    family = Family(tmp_path, base, tasks)
    pack(family, saved(tmp_path / "m.npy", masks), tmp_path / "store")
    wanted["two"]["head.weight"] = torch.ones(3, 10)
    assert equal(tmp_path / "store", wanted)


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    masks = {"a": tmp_path / "m.npy"}
    with pytest.raises(InputError, match="lsq makes another; add method=.sum"):
        PackOptions(masks=masks)
    with pytest.raises(InputError, match="does nothing with tiers exact, only with mask"):
        PackOptions(masks=masks, method="sum", tiers="exact")


def test_a_task_more_would_change_the_vector(small: Family, tmp_path: Path) -> None:
    masks = published(small.base, small.tasks, dict(zip(small.tasks, LAMBDAS, strict=True)))
    pack(small, saved(tmp_path / "m.npy", masks), tmp_path / "store", tiers="mask,exact")
    with pytest.raises(InputError, match="came from a file.*taskstore retier"):
        revise.add(
            taskstore.open(tmp_path / "store"),
            {"more": small.paths["alpha"]},
            AddOptions(repack=True),
        )


def test_the_command(small: Family, tmp_path: Path) -> None:
    masks = published(small.base, small.tasks, dict(zip(small.tasks, LAMBDAS, strict=True)))
    file = saved(tmp_path / "m.npy", masks)
    np.save(tmp_path / "alpha.npy", np.packbits(masks["alpha"]))
    words = ("pack", small.base_path, *small.paths.values(), "-o", tmp_path / "store")
    done = run(*words, "--masks", file)
    assert done.exit_code == 2
    assert "add --method sum" in done.output
    assert not (tmp_path / "store").exists()
    done = run(*words, "--masks", file, "--method", "sum", "--quiet")
    assert done.exit_code == 0, done.output
    wanted = expected(small.base, small.tasks, masks, merged_sum(small.base, small.tasks))
    assert equal(tmp_path / "store", wanted)
    named = [w for n in ("beta", "gamma") for w in ("--masks", f"{n}={file}")]
    more = ("--masks", f"alpha={tmp_path / 'alpha.npy'}", *named, "--method", "sum", "--overwrite")
    done = run(*words, *more, "--lambda", "gamma=0.6")
    assert done.exit_code == 0, done.output
    assert equal(tmp_path / "store", wanted)
    done = run(*words, "--masks", file, *more)
    assert done.exit_code == 2
    assert "task name 'alpha' has two --masks" in done.output


def real(root: Path, names: list[str]) -> tuple[State, dict[str, State]]:
    states = [load_file(root / name / "model.safetensors") for name in ("base", *names)]
    return states[0], dict(zip(names, states[1:], strict=True))


def check_real(root: Path, lambdas: Mapping[str, float], scratch: Path) -> Masks:
    base, tasks = real(root, sorted(lambdas))
    masks = published(base, tasks, lambdas)
    file = saved(scratch / "TALL_mask.npy", masks)
    chosen = PackOptions(method="sum", masks=dict.fromkeys(tasks, file), lambdas=lambdas)
    paths = {name: root / name for name in tasks}
    report = taskstore.pack(root / "base", paths, scratch / "store", chosen)
    assert not any("has not moved" in warning for warning in report.warnings)
    wanted = expected(base, tasks, masks, merged_sum(base, tasks))
    assert equal(scratch / "store", wanted)
    return masks


@pytest.mark.slow
def test_the_example_family(tmp_path: Path) -> None:
    root = ROOT / "examples" / "family"
    lambdas = {"english": 0.2, "german": 0.4, "roman": 0.5, "spanish": 0.6}
    check_real(root, lambdas, tmp_path)


@pytest.mark.slow
def test_lm6(tmp_path: Path) -> None:
    """Masks as dense as another computation found, which rounded otherwise."""
    root = real_family("lm6")
    reference = json.loads((root / "tall_ref.json").read_text())["tall"]
    masks = check_real(root, {name: r["lambda"] for name, r in reference.items()}, tmp_path)
    for name, mask in masks.items():
        assert mask.mean() == pytest.approx(reference[name]["density"], abs=0.006), name
