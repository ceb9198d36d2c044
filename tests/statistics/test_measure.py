"""Fisher and Hessian of tiny models against the same sums written as their definitions read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from taskstore_cli.output.console import size
from torch import Tensor

from taskstore.errors import (
    BadExample,
    InputError,
)
from taskstore.models import open_checkpoint
from taskstore.statistics import Statistics
from taskstore.statistics.driver import measure
from taskstore.statistics.options import MeasureOptions
from tests.conftest import real_family
from tests.support import families
from tests.support.evaluators import run
from tests.support.tiny_models import (
    PAIRS,
    TINY,
    agree,
    answer_logp,
    bert,
    chat,
    ids,
    lines,
    llama,
    pairs,
    reload,
    save_model,
    squared,
    texts,
    total,
    vit,
)


def test_what_is_printed_is_what_json_says(tmp_path: Path) -> None:
    """The line has each figure of the JSON that it speaks of, and notes are its warnings."""
    limits = ("--limit", 3, "--max-length", 4, "--statistics", "fisher,hessian")
    words = ("measure", llama(tmp_path / "m"), "--data", pairs(tmp_path), *limits, "-o")
    code, out, err = run(*words, tmp_path / "json", "--json")
    assert code == 0 and not err
    told = json.loads(out)
    assert (told["examples"], told["lines"], told["name"]) == (3, 4, "m") and told["truncated"]
    assert told["bytes"] == (tmp_path / "json").stat().st_size
    code, out, err = run(*words, tmp_path / "text")
    figures = f"m on {told['examples']} of {told['lines']} examples, {size(told['bytes'])}"
    kinds = f"fisher (y drawn from the model), hessian of {figures}"
    assert (code, out) == (0, f"{tmp_path / 'text'}: {kinds}\n")
    assert err == f"note: {told['warnings'][0]}\n" and "3 of 3 examples" in err


def test_hessian_of_a_language_model(tmp_path: Path) -> None:
    folder = llama(tmp_path / "m")
    out = tmp_path / "s"
    options = MeasureOptions(statistics=("hessian", "fisher"), labels="data")
    report = measure(folder, pairs(tmp_path), out, options)
    model = reload(tf.LlamaForCausalLM, folder)
    parts = []
    for prompt, answer in PAIRS:
        before, after = chat(prompt, answer)
        logp = answer_logp(model, before, after)
        parts.append(squared(model, -logp[range(len(after)), after].sum()))
    agree(out, "hessian", total(parts, 4))
    agree(out, "fisher", total(parts, 4))
    assert (report.about.labels, report.about.samples, report.passes) == ("data", 0, 1)
    assert report.about.positions == sum(len(a + b) for a, b in (chat(*pair) for pair in PAIRS))


def test_sampled_fisher_of_a_language_model(tmp_path: Path) -> None:
    """Its mean over many draws is the sum over positions and over the whole vocabulary."""
    folder = llama(tmp_path / "m", num_hidden_layers=1)
    out = tmp_path / "s"
    options = MeasureOptions(statistics=("fisher",), samples=300)
    report = measure(folder, pairs(tmp_path), out, options)
    model = reload(tf.LlamaForCausalLM, folder)
    parts = []
    for prompt, answer in PAIRS:
        logp_AV = answer_logp(model, *chat(prompt, answer))
        parts += [
            {n: g * logp.exp().item() for n, g in squared(model, logp).items()}
            for logp in logp_AV.flatten()
        ]
    found = load_file(out)
    for name, wanted in total(parts, 4).items():
        difference = (found[f"fisher/{name}"] - wanted).norm() / wanted.norm()
        assert difference < 0.25, (name, difference)
    assert (report.about.labels, report.about.samples) == ("sampled", 300)


def test_exact_fisher_of_a_classifier(tmp_path: Path) -> None:
    """Labels are not needed for it; a Hessian needs them."""
    folder = bert(tmp_path / "m")
    out = tmp_path / "s"
    data = lines(tmp_path, [{"text": p} for p, _ in PAIRS])
    report = measure(folder, data, out, MeasureOptions(statistics=("fisher",)))
    model = reload(tf.BertForSequenceClassification, folder)
    parts = []
    for prompt, _ in PAIRS:
        p = model(input_ids=torch.tensor([ids(prompt)])).logits[0].softmax(-1)
        parts += [
            {n: g * p[y].item() for n, g in squared(model, p[y].log()).items()} for y in range(3)
        ]
    agree(out, "fisher", total(parts, 4))
    assert report.about.labels == "exact"
    with pytest.raises(BadExample, match=r"data.jsonl, line 1: 'label' is null, which is no class"):
        measure(folder, data, tmp_path / "h", MeasureOptions(statistics=("hessian",)))


def test_hessian_of_a_classifier(tmp_path: Path) -> None:
    folder = bert(tmp_path / "m")
    data = texts(tmp_path, lambda i: i % 3 if i % 2 else f"LABEL_{i % 3}")
    measure(folder, data, tmp_path / "s", MeasureOptions(statistics=("hessian",)))
    model = reload(tf.BertForSequenceClassification, folder)
    parts = []
    for i, (prompt, _) in enumerate(PAIRS):
        logits = model(input_ids=torch.tensor([ids(prompt)])).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([i % 3]))
        parts.append(squared(model, loss))
    agree(tmp_path / "s", "hessian", total(parts, 4))


def test_tied_weights(tmp_path: Path) -> None:
    """The file has the embedding alone: its statistics are of the sum of both uses."""
    folder = llama(tmp_path / "m", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    measure(folder, pairs(tmp_path), tmp_path / "s")
    model = reload(tf.LlamaForCausalLM, folder)
    parts = []
    for prompt, answer in PAIRS:
        before, after = chat(prompt, answer)
        logp = answer_logp(model, before, after)
        parts.append(squared(model, logp[range(len(after)), after].sum()))
    wanted = total(parts, 4)
    assert "lm_head.weight" not in wanted
    agree(tmp_path / "s", "hessian", wanted)
    with Statistics(tmp_path / "s") as found:
        assert found.about.shared == ("model.embed_tokens.weight",)
    both = load_file(folder / "model.safetensors")
    both["lm_head.weight"] = both["model.embed_tokens.weight"].clone()
    families.save(folder, both, config=json.loads((folder / "config.json").read_text()))
    measure(folder, pairs(tmp_path), tmp_path / "two")
    one, two = load_file(tmp_path / "s"), load_file(tmp_path / "two")
    for kind in ("fisher", "hessian", "gram"):
        name = f"{kind}/model.embed_tokens.weight"
        assert torch.equal(two[name], one[name])
        assert torch.equal(two[f"{kind}/lm_head.weight"], one[name])


def test_fused_experts_are_taken_apart(tmp_path: Path) -> None:
    """The file has a tensor per expert, the module one for all of a layer."""
    sizes = {**TINY, "num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 1}
    torch.manual_seed(3)
    folder = save_model(tmp_path / "m", tf.MixtralForCausalLM(tf.MixtralConfig(**sizes)))
    model = reload(tf.MixtralForCausalLM, folder)
    options = MeasureOptions(statistics=("hessian",))
    measure(folder, pairs(tmp_path), tmp_path / "s", options)
    stored = load_file(folder / "model.safetensors")
    found = load_file(tmp_path / "s")
    assert {f"hessian/{name}" for name in stored} == set(found)
    experts = [name for name in stored if ".experts." in name]
    assert len(experts) >= 12
    parts = []
    for prompt, answer in PAIRS:
        before, after = chat(prompt, answer)
        logp = answer_logp(model, before, after)
        parts.append(squared(model, logp[range(len(after)), after].sum()))
    live = {name: p for name, p in model.named_parameters() if ".experts." in name}
    fused = total(parts, 4)
    for name in experts:
        place = [(k, i) for k, p in live.items() for i in range(4) if _inside(stored[name], p[i])]
        (whole, expert) = place[0]
        rows = _rows(stored[name], live[whole][expert])
        wanted = fused[whole][expert][rows]
        torch.testing.assert_close(found[f"hessian/{name}"], wanted, rtol=1e-4, atol=1e-9)


def _inside(part: Tensor, whole: Tensor) -> bool:
    return part.shape[1] == whole.shape[1] and bool((whole.detach() == part[0]).all(1).any())


def _rows(part: Tensor, whole: Tensor) -> slice:
    start = int((whole.detach() == part[0]).all(1).nonzero()[0])
    return slice(start, start + len(part))


def test_images(tmp_path: Path) -> None:
    folder = vit(tmp_path / "m")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4))
    data = lines(tmp_path, [{"image": x.tolist(), "label": i % 2} for i, x in enumerate(pixels)])
    report = measure(folder, data, tmp_path / "s")
    assert (report.about.labels, report.about.positions) == ("exact", 0)
    model = reload(tf.ViTForImageClassification, folder)
    x = torch.from_numpy((pixels / 255 - 0.5) / 0.25).float()[:, None]
    parts = []
    for one in x:
        p = model(pixel_values=one[None]).logits[0].softmax(-1)
        parts += [
            {n: g * p[y].item() for n, g in squared(model, p[y].log()).items()} for y in range(2)
        ]
    stored = load_file(folder / "model.safetensors")  # under other names than the module's
    live = {
        name: next(n for n, p in model.named_parameters() if torch.equal(p, value))
        for name, value in stored.items()
    }
    found = total(parts, 3)
    agree(tmp_path / "s", "fisher", {name: found[inside] for name, inside in live.items()})
    for wrong, message in (
        ([[1, 2], [3, 4]], r"'image' is \[2, 2, 1\] where the model takes \(4, 4, 1\)"),
        ([[1.0, 2, 3, 256]] * 4, "pixels that are not from 0 to 255"),
        ([[float("nan")] * 4] * 4, "pixels that are not from 0 to 255"),
        ([[1, 2], [3]], "no nested list of pixels"),
        ("cat.png", "no nested list of pixels"),
    ):
        data = lines(tmp_path, [{"image": wrong, "label": 0}])
        with pytest.raises(BadExample, match=message):
            measure(folder, data, tmp_path / "t")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"m has no preprocessor_config.json"):
        measure(folder, data, tmp_path / "t")


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    folder = llama(tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"][0] = torch.inf
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"m: tensor 'model.norm.weight' holds NaN or Inf, so no"):
        measure(folder, pairs(tmp_path), tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_real_family(tmp_path: Path) -> None:
    family = real_family("lm6")
    data = family / "data" / "langid.val.jsonl"
    words = ("measure", family / "langid", "--data", data, "-o", tmp_path / "s", "--limit", 8)
    code, out, err = run(*words, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["examples"], told["lines"], told["truncated"]) == (8, 400, 0)
    checkpoint = open_checkpoint(family / "langid")
    with Statistics(tmp_path / "s") as found:
        assert found.kinds == ("fisher", "hessian", "gram")
        found.check_model("langid", checkpoint.tensors, told["model"])
        for name, info in checkpoint.tensors.items():
            assert found.read("fisher", name, 0, info.numel).max() > 0
            assert found.read("hessian", name, 0, info.numel).max() > 0
        for name in found.tensors("gram"):
            gram_II = found.gram(name).astype(np.float64)
            assert np.allclose(gram_II, gram_II.T, rtol=1e-4, atol=1e-6 * gram_II.max())
            assert np.linalg.eigvalsh(gram_II).min() > -1e-4 * np.trace(gram_II)
    checkpoint.close()


def test_the_seed_decides(tmp_path: Path) -> None:
    folder, data = llama(tmp_path / "m"), pairs(tmp_path)
    for name, seed, batch in (("a", 1, 8), ("b", 1, 1), ("c", 2, 8)):
        options = MeasureOptions(statistics=("fisher",), seed=seed, limit=3, batch=batch)
        measure(folder, data, tmp_path / name, options)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    a, c = load_file(tmp_path / "a"), load_file(tmp_path / "c")
    assert not torch.equal(a["fisher/lm_head.weight"], c["fisher/lm_head.weight"])
