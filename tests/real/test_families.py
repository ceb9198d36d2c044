"""The shared families, packed as a user would; skipped where they are not there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import taskstore
from taskstore.analysis.page import write_page
from taskstore.packing.options import PackOptions
from taskstore.store import Store
from taskstore.store.verify import verify
from tests.conftest import evaluator, real_family
from tests.support import oracle
from tests.support.families import State, same

pytestmark = pytest.mark.slow
LM6 = {
    "isodate": 0.5,
    "jsonfield": 0.6,
    "langid": 0.4,
    "mansec": 0.2,
    "pycall": 0.6,
    "section": 0.3,
}
VISION4 = {"digits": 0.5, "fashion": 0.6, "letters": 0.6, "rotation": 0.4}  # best on validation


def packed_family(name: str, lambdas: Mapping[str, float], scratch: Path) -> Store:
    """A shared family at the lambdas that validation chose."""
    root = real_family(name)
    paths = {task: root / task for task in lambdas}
    taskstore.pack(
        root / "base", paths, scratch / "store", PackOptions(lambdas=lambdas, method="sum")
    )
    return taskstore.open(scratch / "store")


@pytest.fixture(scope="module")
def lm6(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return packed_family("lm6", LM6, tmp_path_factory.mktemp("lm6"))


@pytest.fixture(scope="module")
def vision4(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return packed_family("vision4", VISION4, tmp_path_factory.mktemp("vision4"))


def rebuilt_in_torch(root: Path, store: Store) -> Iterator[tuple[str, State]]:
    """task -> what plain torch makes of the whole family."""
    base = load_file(root / "base" / "model.safetensors")
    tasks = {task: load_file(root / task / "model.safetensors") for task in store.tasks}
    vectors = oracle.task_vectors(base, tasks)
    merged = {name: oracle.merged_sum(vectors, name) for name in base}
    codecs = {name: t.multitask for name, t in store.manifest.tensors.items()}
    for task in store.tasks:
        lam = store.manifest.tasks[task].lam
        yield task, {
            name: oracle.rebuild(
                base[name], vectors[task][name], merged[name], lam,
                rounded=codecs[name] == "rounded",
            )
            for name in base
        } | {name: tasks[task][name] for name in tasks[task] if name not in base}  # fmt: skip


def test_lm6_reaches_its_size(lm6: Store) -> None:
    summary = lm6.summary()
    parameters = summary.parameters
    assert parameters == 6_951_168
    assert summary.bits_per_parameter <= 26.8
    assert 8 * summary.multitask_bytes / parameters <= 10.3
    assert 8 * summary.base_bytes / parameters <= 10.7
    assert summary.ratio >= 4.1


def test_lm6_masks_at_one_lambda(tmp_path: Path) -> None:
    """At 0.4 for all; half-full masks, as some tuned lambdas give, have one bit of entropy."""
    root = real_family("lm6")
    paths = {task: root / task for task in LM6}
    summary = taskstore.pack(
        root / "base", paths, tmp_path / "s", PackOptions(lam=0.4, method="sum")
    ).summary
    assert 8 * summary.masks_bytes / summary.parameters / 6 <= 0.95
    assert summary.bits_per_parameter <= 26.5


def test_lm6_equals_the_reference_computation(lm6: Store) -> None:
    for task, expected in rebuilt_in_torch(real_family("lm6"), lm6):
        rebuilt = lm6.state_dict(task)
        assert rebuilt.keys() == expected.keys()
        assert all(same(rebuilt[name], expected[name]) for name in expected), task


def test_lm6_has_the_reference_densities(lm6: Store) -> None:
    """Published figures count bits that cannot matter; ours are cleared, so they are lower."""
    reference = json.loads((real_family("lm6") / "tall_ref.json").read_text())["tall"]
    for task in lm6.summary().tasks:
        wanted = reference[task.name]["density"]
        assert wanted - 0.012 < task.density <= wanted + 0.001, task.name


def test_lm6_verifies_deep(lm6: Store) -> None:
    report = verify(lm6, deep=True)
    assert report.ok
    assert report.tensors == 7 * 74


def test_lm6_base_comes_back_byte_for_byte(lm6: Store, tmp_path: Path) -> None:
    lm6.unpack(None, tmp_path / "base")
    root = real_family("lm6") / "base"
    for path in root.iterdir():
        assert (tmp_path / "base" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("family", ["lm6", "vision4"])
def test_transformers_loads_what_comes_out(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """And the tensors that it holds are the rebuilt ones."""
    from transformers import AutoModelForCausalLM, AutoModelForImageClassification, AutoTokenizer

    store: Store = request.getfixturevalue(family)
    task = store.tasks[0]
    store.unpack(task, tmp_path / task)
    auto = AutoModelForCausalLM if family == "lm6" else AutoModelForImageClassification
    model = auto.from_pretrained(tmp_path / task, dtype="auto")
    state = model.state_dict()
    assert all(torch.equal(state[name], t) for name, t in store.state_dict(task).items())
    if family == "lm6":
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / task)
        assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # eval.py's files
def test_masks_keep_twice_of_what_the_sum_keeps_of_the_hardest_task(tmp_path: Path) -> None:
    """isodate on 100 validation items: 0.54 of 0.94 (docs/fidelity.md); the sum's best is 0.26."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    root = real_family("lm6")
    paths = {task: root / task for task in LM6}
    taskstore.pack(root / "base", paths, tmp_path / "store", PackOptions(tiers="mask"))
    store = taskstore.open(tmp_path / "store")
    assert (store.manifest.merge.method, store.manifest.tasks["isodate"].lam) == ("lsq", 0.45)
    folder = store.unpack("isodate", tmp_path / "isodate")
    module = evaluator("lm6")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    items = module.load(str(root / "data"), "isodate", "val", 100)
    assert module.run(model, AutoTokenizer.from_pretrained(folder), items) / 0.94 > 0.45


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # eval.py's files
def test_lm6_keeps_the_accuracy_of_the_reference(lm6: Store, tmp_path: Path) -> None:
    """The rebuilt weights are the reference's, so its score on one task must come back."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lm6.unpack("mansec", tmp_path / "m")
    module, root = evaluator("lm6"), real_family("lm6")
    items = module.load(str(root / "data"), "mansec", "test", 0)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.bfloat16)
    model.eval()
    score = module.run(model, AutoTokenizer.from_pretrained(tmp_path / "m"), items)
    reference = json.loads((root / "tall_ref.json").read_text())["tall"]["mansec"]["test"]
    assert abs(score - reference) <= 0.02  # bf16 logits move with the batch and the machine


def test_vision4_equals_the_plain_computation(vision4: Store) -> None:
    for task, expected in rebuilt_in_torch(real_family("vision4"), vision4):
        rebuilt = vision4.state_dict(task)
        assert rebuilt.keys() == expected.keys()
        assert all(same(rebuilt[name], expected[name]) for name in expected), task


def test_vision4_keeps_its_heads_and_its_accuracy(vision4: Store, tmp_path: Path) -> None:
    from transformers import ViTForImageClassification

    root, module = real_family("vision4"), evaluator("vision4")
    for task in VISION4:
        vision4.unpack(task, tmp_path / task)
        images, labels = module.load(str(root / "data"), task, "test", 500)
        scores = []
        for folder in (root / task, tmp_path / task):
            model: Any = ViTForImageClassification.from_pretrained(folder)
            model.eval()
            scores.append(module.run(model, images, labels))
        kept = load_file(tmp_path / task / "model.safetensors")["classifier.weight"]
        assert same(kept, load_file(root / task / "model.safetensors")["classifier.weight"])
        assert scores[1] >= 0.85 * scores[0], (task, scores)


def test_lm6_as_an_archive(tmp_path: Path) -> None:
    """Six heavy fine-tunes bit for bit, the files too, in less than half of their 16 bits."""
    root = real_family("lm6")
    paths = {task: root / task for task in LM6}
    options = PackOptions(tiers="exact")
    summary = taskstore.pack(root / "base", paths, tmp_path / "store", options).summary
    assert summary.bits_per_parameter_and_task < 7.4
    store = taskstore.open(tmp_path / "store")
    for task, path in paths.items():
        store.check_exact(task)
        folder = store.unpack(task, tmp_path / task)
        for file in sorted(path.iterdir()):
            if file.is_file():
                assert (folder / file.name).read_bytes() == file.read_bytes(), file


@pytest.mark.parametrize("family", ["lm6", "vision4"])
def test_similarities_are_those_of_the_fine_tunes(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Of the report as it is written; rebuilt from masks they were 0.29 for 0.02."""
    store, root = request.getfixturevalue(family), real_family(family)
    base = load_file(root / "base" / "model.safetensors")
    tasks = {task: load_file(root / task / "model.safetensors") for task in store.tasks}
    shown = write_page(store, tmp_path / "report.html").facts["vectors"]
    rows = [
        torch.cat([vector.flatten().double() for vector in vectors.values()])
        for vectors in oracle.task_vectors(base, tasks).values()
    ]
    gram = torch.tensor([[float(a @ b) for b in rows] for a in rows])
    norms = gram.diagonal().sqrt()
    assert shown["norms"] == pytest.approx(norms.tolist(), rel=1e-4)
    for found, expected in zip(shown["cosines"], gram / norms / norms[:, None], strict=True):
        assert found == pytest.approx(expected.tolist(), abs=1e-4)
