"""`fw`: the steps of a plain loop over whole models in float64, and a loss that falls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from taskstore.errors import OptionError
from taskstore.merging import MergeOptions, merge
from taskstore.merging.search import frank_wolfe
from taskstore.merging.search.frank_wolfe import Steps, walk
from taskstore.merging.search.origins import Folders
from tests.support import tiny_models
from tests.support.evaluators import run

PLAIN = MergeOptions("average", jobs=1)


class Made:
    """A tiny language model, three fine-tunes of it, and the same examples for each."""

    def __init__(self, root: Path) -> None:
        self.base = tiny_models.llama(root / "base", dtype=torch.float32)
        model: Any = tf.LlamaForCausalLM.from_pretrained(self.base)
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.paths = {}
        for seed, name in enumerate("abc"):
            drawn = torch.Generator().manual_seed(seed)
            for key, p in model.named_parameters():
                noise = torch.randn(p.shape, generator=drawn)
                p.data.copy_(start[key] + 0.2 * p.std() * noise)
            self.paths[name] = tiny_models.save_model(root / name, model)
        (root / "data").mkdir()
        self.data = dict.fromkeys("abc", tiny_models.pairs(root / "data"))
        self.start = start


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("fw"))


def mean_loss(model: Any) -> Any:
    parts = []
    for prompt, answer in tiny_models.PAIRS:
        before, after = tiny_models.chat(prompt, answer)
        logp = tiny_models.answer_logp(model, before, after)
        parts.append(-logp.gather(1, torch.tensor(after)[:, None]).sum())
    return torch.stack(parts).mean()


def test_the_steps_of_a_plain_loop(made: Made, tmp_path: Path) -> None:
    """From `ties`, whole models in float64; each tensor goes where its own gradient says."""
    out = tmp_path / "out"
    with Folders(made.base, made.paths).opened(out, PLAIN) as family:
        found = walk(family, out, PLAIN, made.data, Steps(3))
    merge(made.base, made.paths, tmp_path / "first", MergeOptions("ties", dtype="F32", jobs=1))
    tasks = [load_file(path / "model.safetensors") for path in made.paths.values()]
    model: Any = tf.LlamaForCausalLM.from_pretrained(tmp_path / "first").double().eval()
    losses, moved = [], 0
    for t in range(3):
        model.zero_grad()
        loss = mean_loss(model)
        torch.autograd.backward(loss)
        losses.append(float(loss.detach()))
        for name, p in model.named_parameters():
            cosines = [float((p.grad * task[name]).sum() / task[name].double().norm())
                       for task in tasks]  # fmt: skip
            s = int(np.argmin(cosines))
            if cosines[s] < 0:
                moved += 1
                p.data += 2 / (t + 2) * (tasks[s][name].double() - p.data)
    assert moved > 10
    assert found.losses == pytest.approx(losses, rel=1e-4)
    ours = load_file(out / "model.safetensors")
    for name, p in model.named_parameters():
        assert torch.linalg.norm(ours[name] - p.data) <= 1e-5 * torch.linalg.norm(p.data), name
    assert "3 steps towards fine-tunes" in (out / "README.md").read_text()


def test_classifiers_take_short_steps(tmp_path: Path) -> None:
    """From `sum` with alpha 0.3; each runs with a head of its own, which is not merged."""
    paths = {}
    for name, classes in (("base", 3), ("one", 2), ("two", 4)):
        paths[name] = tiny_models.bert(tmp_path / name, classes)
    base = load_file(paths["base"] / "model.safetensors")
    rng = torch.Generator().manual_seed(3)
    for name in ("one", "two"):
        state = load_file(paths[name] / "model.safetensors")
        for key, value in state.items():
            if not key.startswith("classifier"):
                state[key] = base[key] + 0.05 * torch.randn(value.shape, generator=rng)
        save_file(state, paths[name] / "model.safetensors", {"format": "pt"})
    (tmp_path / "data").mkdir()
    data = dict.fromkeys(("one", "two"), tiny_models.texts(tmp_path / "data", lambda i: i % 2))
    models = {name: paths[name] for name in ("one", "two")}
    with Folders(paths["base"], models).opened(tmp_path / "out", PLAIN) as family:
        found = walk(family, tmp_path / "out", PLAIN, data, Steps(4))
    assert len(found.losses) == 4
    assert found.losses[-1] < found.losses[0]
    assert (found.report.method, found.report.models) == ("sum", ["one", "two"])
    with (
        Folders(paths["base"], models).opened(tmp_path / "no", PLAIN) as family,
        pytest.raises(OptionError, match="'two' has no examples"),
    ):
        walk(family, tmp_path / "no", PLAIN, {"one": data["one"]}, Steps(1))


def test_the_command(made: Made, tmp_path: Path) -> None:
    words = ("merge", made.base, *made.paths.values(), "--method", "fw", "-o", tmp_path / "out")
    given = [f"--examples={name}={path}" for name, path in made.data.items()]
    code, shown, err = run(*words, *given, "--option", "steps=1", "--json")
    assert code == 0, err
    assert len(json.loads(shown)["losses"]) == 1
    for more, message in (
        ([], "'a' has no examples"),
        ([*given, "--option", "stps=1"], "method 'fw' takes steps and step, not 'stps'"),
        ([*given, "--option", "steps=0"], "0 steps lead nowhere"),
        ([*given, "--eval", "x {model}"], "leave --eval out"),
        ([given[0], given[0]], "give NAME=FILE once"),
    ):
        code, _, err = run(*words[:-1], tmp_path / "none", *more)
        assert code in (1, 2)
        assert message in err
    code, _, err = run(*words[:-4], "--method", "sum", *given, "-o", tmp_path / "none")
    assert "--examples does nothing without --method fw" in err
    assert frank_wolfe.LANGUAGE[0] == "ties"
