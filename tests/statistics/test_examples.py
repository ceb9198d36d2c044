"""What `measure` takes and refuses: examples, models, options; the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.torch import load_file

from taskstore.errors import (
    BadExample,
    CheckpointError,
    InputError,
    MissingExtra,
    OutputError,
    TargetExists,
)
from taskstore.progress import Progress
from taskstore.statistics import Statistics
from taskstore.statistics.driver import measure
from taskstore.statistics.options import MeasureOptions
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
)


def test_an_example_that_is_too_long(tmp_path: Path) -> None:
    """Its prompt loses its beginning; the answer stays, unless it is too long alone."""
    folder = llama(tmp_path / "m")
    options = MeasureOptions(statistics=("hessian",), max_length=5)
    report = measure(folder, pairs(tmp_path), tmp_path / "s", options)
    model = reload(tf.LlamaForCausalLM, folder)
    parts = []
    for prompt, answer in PAIRS:
        before, after = chat(prompt, answer)
        kept = before[len(before) + len(after) - 5 :]
        logp = answer_logp(model, kept, after)
        parts.append(squared(model, logp[range(len(after)), after].sum()))
    agree(tmp_path / "s", "hessian", total(parts, 4))
    assert (report.about.truncated, report.about.max_length) == (4, 5)
    words = ("measure", folder, "--data", tmp_path / "data.jsonl", "-o", tmp_path / "t")
    code, out, err = run(*words, "--max-length", 3)
    assert (code, "hessian of m on 4 of 4 examples" in out) == (0, True)
    assert "note: 4 of 4 examples were cut to 3 tokens; give a larger --max-length" in err
    assert (
        "more than the 32 tokens that m can take"
        in run(*words, "--max-length", 33, "--overwrite")[2]
    )


def test_the_forms_of_an_example(tmp_path: Path) -> None:
    """Messages are what a prompt and an answer become; a text counts from its second token on."""
    folder = llama(tmp_path / "m")
    options = MeasureOptions(statistics=("hessian",))
    turns = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]
    for name, record in (
        ("messages", {"messages": turns}),
        ("prompt", {"prompt": "a b", "answer": "c"}),
        ("text", {"text": "a b c"}),
    ):
        measure(folder, lines(tmp_path, [record]), tmp_path / name, options)
    one, other = load_file(tmp_path / "messages"), load_file(tmp_path / "prompt")
    assert all(torch.equal(one[name], other[name]) for name in one)
    model = reload(tf.LlamaForCausalLM, folder)
    a, b, c = ids("a b c")
    logp = answer_logp(model, [a], [b, c])
    agree(tmp_path / "text", "hessian", squared(model, logp[0, b] + logp[1, c]))
    plain = llama(
        tmp_path / "plain", template=None
    )  # the answer ends with the end token all the same
    measure(plain, lines(tmp_path, [{"prompt": "a", "answer": "b"}]), tmp_path / "s", options)
    logp = answer_logp(model, [a], [b, 2])
    agree(tmp_path / "s", "hessian", squared(model, logp[0, b] + logp[1, 2]))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("{", "line 3: is no JSON"),
        ("[" * 100_000, "line 3: is no JSON"),
        ("[1]", "line 3: is no JSON object"),
        ('{"prompt": "a"}', "line 3: 'answer' is not there, or is no string"),
        ('{"prompt": 1, "answer": "b"}', "line 3: 'prompt' is not there, or is no string"),
        ('{"question": "a"}', r'line 3: is none of {"prompt", "answer"}, {"messages"} or {"text"}'),
        ('{"text": ""}', "line 3: has no token to predict"),
        ('{"text": "a"}', "line 3: has no token to predict"),
        ('{"messages": "a"}', "line 3: 'messages' is no list"),
        (
            '{"messages": [{"role": "user", "content": "a"}]}',
            "line 3: the last of 'messages' is not",
        ),
        ('{"text": "' + "a" * (4 << 20) + '"}', "line 3: is longer than 4 MiB"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path: Path, second: str, message: str) -> None:
    folder = llama(tmp_path / "m")
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "a b"}\n\n' + second + "\n")
    with pytest.raises(BadExample) as caught:
        measure(folder, data, tmp_path / "s")
    assert f"{data}, {message}" in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_of_many_lines_some_are_drawn(tmp_path: Path) -> None:
    """Each with the same chance, and only the drawn ones have to be good."""
    from taskstore.statistics import records

    path = lines(tmp_path, [{"text": str(i)} for i in range(20)])
    times = np.zeros(20)
    for seed in range(2000):
        drawn = records.read(path, 5, seed)
        assert (drawn.lines, len(drawn.records)) == (20, 5)
        assert [r.line for r in drawn.records] == sorted({r.line for r in drawn.records})
        assert all(r.value["text"] == str(r.line - 1) for r in drawn.records)
        times[[r.line - 1 for r in drawn.records]] += 1
    assert (abs(times - 500) < 100).all()  # five standard deviations


def test_a_tokenizer_that_panics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library in Rust ends in an error that is no Exception."""

    def panic(*_: object, **__: object) -> None:
        raise type("PanicException", (BaseException,), {})("index out of bounds")

    monkeypatch.setattr(tf.AutoTokenizer, "from_pretrained", panic)
    with pytest.raises(InputError, match="tokenizer of m cannot be loaded: index out of bounds"):
        measure(llama(tmp_path / "m"), pairs(tmp_path), tmp_path / "s", MeasureOptions())


def test_models_that_cannot_be_measured(tmp_path: Path) -> None:
    data, out = pairs(tmp_path), tmp_path / "s"

    def fails(model: Path, error: type[Exception], message: str, **options: Any) -> None:
        with pytest.raises(error, match=message):
            measure(model, data, out, MeasureOptions(**options))
        assert not out.exists()

    fails(tmp_path / "none", CheckpointError, "there is no such folder or file")
    good = llama(tmp_path / "m")
    fails(good, InputError, "labels 'exact' is a sum over all answers", labels="exact")
    fails(good / "model.safetensors", InputError, "measure needs the model's folder")
    (good / "tokenizer.json").unlink()
    (good / "tokenizer_config.json").unlink()
    fails(good, InputError, "the tokenizer of m cannot be loaded")
    small = llama(tmp_path / "small", vocab_size=20)
    fails(small, InputError, "its tokenizer gives token 24, the embedding has 20")
    torch.manual_seed(0)
    bare = save_model(tmp_path / "bare", tf.LlamaModel(tf.LlamaConfig(**TINY)))
    fails(bare, InputError, "bare is a LlamaModel; measure knows causal language models and")
    state = load_file(small / "model.safetensors")
    config = json.loads((small / "config.json").read_text())
    families.save(small, {k: v for k, v in state.items() if "norm" not in k}, config=config)
    fails(small, CheckpointError, "missing keys of LlamaForCausalLM: model.layers.0.input_layer")
    state["model.norm.weight"][3] = float("nan")
    families.save(small, state, config=config)
    fails(small, InputError, "tensor 'model.norm.weight' holds NaN or Inf")
    one = bert(tmp_path / "one", classes=1)
    fails(one, InputError, "one does not choose one of several classes")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter" / "adapter_model.safetensors").touch()
    fails(tmp_path / "adapter", InputError, "is a LoRA adapter; measure the whole model")


def test_labels_that_are_no_class(tmp_path: Path) -> None:
    folder = bert(tmp_path / "m")
    for label in (3, -1, True, "LABEL_3", 1.0, [1]):
        data = texts(tmp_path, lambda i, wrong=label: wrong if i == 2 else 0)  # type: ignore[misc]
        with pytest.raises(
            BadExample, match="line 3: 'label' is .*, which is no class from 0 to 2"
        ):
            measure(folder, data, tmp_path / "s", MeasureOptions(statistics=("hessian",)))


def test_nothing_is_left_and_nothing_is_overwritten(tmp_path: Path) -> None:
    folder, data, out = llama(tmp_path / "m"), pairs(tmp_path), tmp_path / "out" / "s"

    def interrupt(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(folder, data, out, progress=interrupt)
    assert list(out.parent.iterdir()) == []
    measure(folder, data, out)
    with pytest.raises(TargetExists, match="overwrite=True"):
        measure(folder, data, out)
    before = out.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        measure(folder, data, out, overwrite=True, progress=interrupt)
    assert out.read_bytes() == before
    measure(folder, data, out, MeasureOptions(statistics=("gram",)), overwrite=True)
    with Statistics(out) as found:
        assert found.kinds == ("gram",)
    for other in (folder / "model.safetensors", folder):
        with pytest.raises(OutputError, match="is not something that taskstore wrote"):
            measure(folder, data, other, overwrite=True)
    assert [p.name for p in out.parent.iterdir()] == ["s"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistics": ()}, "name none, or one twice"),
        ({"statistics": ("gram", "gram")}, "name none, or one twice"),
        ({"statistics": ("fisher", "jacobian")}, "'jacobian' is none of fisher, gram, hessian"),
        ({"labels": "true"}, "labels 'true' is none of"),
        ({"limit": 0}, "limit 0 is not a positive number"),
        ({"samples": 0}, "samples 0 is not"),
        ({"batch": -1}, "batch -1 is not"),
        ({"max_length": 1}, "max-length 1 is less than 2"),
        ({"seed": -1}, "seed -1 is not a number from"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MeasureOptions(**options)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data = bert(tmp_path / "m"), texts(tmp_path)
    words = ("measure", folder, "--data", data, "-o", tmp_path / "s")
    code, out, _ = run(*words, "--statistics", "fisher, hessian", "--limit", 2)
    assert (code, out.startswith(f"{tmp_path / 's'}: fisher (sum over all classes), hess")) == (
        0,
        1,
    )
    assert "of m on 2 of 4 examples" in out
    assert run(*words, "--overwrite", "-q")[:2] == (0, "")
    told = json.loads(run(*words, "--overwrite", "--json")[1])
    with Statistics(tmp_path / "s") as found:
        assert told["model"] == found.digest
        assert (told["path"], told["bytes"]) == (str(tmp_path / "s"), found.path.stat().st_size)
        assert set(told["statistics"]) == set(found.kinds) == {"fisher", "gram", "hessian"}
    code, _, err = run(*words)
    assert (code, "exists already" in err, err.count("\n")) == (1, True, 1)
    code, _, err = run("measure", folder, "--data", tmp_path / "none", "-o", tmp_path / "t")
    assert (code, "none cannot be read: No such file" in err) == (1, True)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"measure needs transformers, the extra hf: .*\[hf\]"):
        measure(folder, data, tmp_path / "t")
