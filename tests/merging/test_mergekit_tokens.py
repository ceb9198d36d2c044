"""A recipe's tokenizer_source: rows follow tokens by their texts, beside a plain computation."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from taskstore.errors import InputError
from taskstore.merging.mergekit.assembled import Assembled
from taskstore.merging.mergekit.recipe import read
from taskstore.merging.search.origins import Folders, Origin

COMMON = ["<unk>", "</s>", *(f"w{i}" for i in range(12))]
WORDS: Mapping[str, list[str]] = {
    "base": [*COMMON, "b0", "b1", "x0"],
    "one": ["<unk>", *COMMON[:0:-1], "x0", "a0", "both"],
    "two": [*COMMON[2:], "<unk>", "</s>", "both", "b1", "c0", "c1"],
}
WEIGHTS = {"one": 0.5, "two": 0.25}
WIDTH, EMBED, HEAD = 6, "model.embed_tokens.weight", "lm_head.weight"
LAYERS = [f"model.layers.{i}.mlp.weight" for i in range(2)]
TA = "merge_method: task_arithmetic\nbase_model: base\ndtype: float32\n"
MODELS = "models:\n" + "".join(
    f"  - {{model: {name}, parameters: {{weight: {w}}}}}\n" for name, w in WEIGHTS.items()
)
CUT = (
    "merge_method: passthrough\nslices:\n"
    "  - {sources: [{model: base, layer_range: [0, 1]}]}\n"
    "  - {sources: [{model: two, layer_range: [0, 2]}]}\n"
)
State = dict[str, Tensor]


def added(token: str, number: int, **settings: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": number, "content": token, **plain, **settings}


def tokenizer(words: Sequence[str], *more: Mapping[str, Any], kind: str = "WordLevel") -> str:
    model = {"type": kind, "vocab": {word: n for n, word in enumerate(words)}}
    merges = {"merges": ["b 0", ["b0", "more"]]} if kind == "BPE" else {}
    return json.dumps({"version": "1.0", "added_tokens": [*more], "model": model | merges})


def write(folder: Path, state: State, text: str | None, **config: Any) -> None:
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "model.safetensors")
    sizes = {"model_type": "llama", "num_hidden_layers": 2, "vocab_size": len(state[EMBED])}
    (folder / "config.json").write_text(json.dumps(sizes | config))
    (folder / "tokenizer.json").unlink(missing_ok=True)
    if text is not None:
        (folder / "tokenizer.json").write_text(text)


@pytest.fixture
def states(tmp_path: Path) -> dict[str, State]:
    """Three models; the base's weights have three rows more than it has tokens."""
    random = torch.Generator().manual_seed(5)
    rows = {word: torch.randn(2, WIDTH, generator=random) for w in WORDS.values() for word in w}
    layers = {name: torch.randn(8, WIDTH, generator=random) for name in LAYERS}
    made: dict[str, State] = {}
    for name, words in WORDS.items():
        both = torch.stack([rows[word] for word in words] + [torch.zeros(2, WIDTH)] * 3)
        both = both if name == "base" else both[:-3]
        state = {EMBED: both[:, 0].contiguous(), HEAD: both[:, 1].contiguous(), **layers}
        made[name] = {
            n: t + 0.01 * torch.randn(t.shape, generator=random) for n, t in state.items()
        }
        eos = words.index("</s>")
        write(tmp_path / name, made[name], tokenizer(words), eos_token_id=eos)
    return made


def origin(folder: Path, text: str) -> tuple[Origin, Any]:
    (folder / "merge.yaml").write_text(text)
    recipe = read(folder / "merge.yaml")
    made: Origin = Assembled(recipe)
    if not recipe.slices:
        made = Folders(recipe.base, recipe.models, recipe.notes, recipe.view)
    return made, replace(recipe.options, jobs=1, unrelated=True)


def merged(folder: Path, text: str, **changes: Any) -> tuple[State, dict[str, Any], list[str]]:
    """Tensors, config and the result's tokens by row."""
    models, options = origin(folder, text)
    models.merge(folder / "out", replace(options, overwrite=True, **changes))
    file = json.loads((folder / "out/tokenizer.json").read_text())
    tokens = {**file["model"]["vocab"], **{a["content"]: a["id"] for a in file["added_tokens"]}}
    config = json.loads((folder / "out/config.json").read_text())
    return (
        load_file(folder / "out/model.safetensors"),
        config,
        sorted(tokens, key=tokens.__getitem__),
    )


def row(states: Mapping[str, State], tensor: str, name: str, token: str) -> Tensor:
    """A model's row of a token; of the base, of the only model, or the mean, where it lacks it."""
    having = {n: states[n][tensor][WORDS[n].index(token)] for n in WORDS if token in WORDS[n]}
    usual = having.get("base", torch.stack(list(having.values())).mean(0))
    return having.get(name, usual)


@pytest.mark.parametrize(
    ("source", "tokens"),
    [
        ("tokenizer_source: union", [*WORDS["base"], "a0", "both", "c0", "c1"]),
        ("tokenizer: {}", [*WORDS["base"], "a0", "both", "c0", "c1"]),
        ("tokenizer_source: base", WORDS["base"]),
        ("tokenizer: {source: two}", WORDS["two"]),
    ],
)
def test_rows_follow_their_tokens(
    states: dict[str, State], tmp_path: Path, source: str, tokens: list[str]
) -> None:
    found, config, order = merged(tmp_path, TA + MODELS + source, chunk=7)
    assert order == tokens
    assert config["vocab_size"] == len(tokens) == len(found[EMBED])
    assert config["eos_token_id"] == tokens.index("</s>")
    for tensor in (EMBED, HEAD):
        for number, token in enumerate(tokens):
            base = row(states, tensor, "base", token)
            expected = base.clone()
            for name, weight in WEIGHTS.items():
                expected += weight * (row(states, tensor, name, token) - base)
            torch.testing.assert_close(found[tensor][number], expected, rtol=1e-6, atol=1e-6)
    whole, _, _ = merged(tmp_path, TA + MODELS + source)
    assert all(torch.equal(whole[name], found[name]) for name in found)


def test_rows_of_tokens_that_the_recipe_gives(states: dict[str, State], tmp_path: Path) -> None:
    """Of another token, of a number, of a model, zeros; forced or where a model lacks the token."""
    given = (
        "  tokens:\n"
        "    new: {source: {kind: model_token, model: two, token: c1}}\n"
        "    a0: {source: {kind: zero}}\n"
        "    both: {source: two, force: true}\n"
        "    w3: {source: {kind: model_token, model: base, token_id: 5}, force: true}\n"
    )
    found, config, tokens = merged(
        tmp_path, TA + MODELS + "tokenizer:\n  source: union\n" + given, chunk=7
    )
    assert tokens == [*WORDS["base"], "a0", "both", "c0", "c1", "new"]
    assert config["vocab_size"] == len(tokens) == len(found[EMBED])
    for tensor in (EMBED, HEAD):
        c1, both, two_w3 = (row(states, tensor, "two", token) for token in ("c1", "both", "w3"))
        a0 = row(states, tensor, "one", "a0")
        w3 = states["base"][tensor][5]
        for token, value in {"new": c1, "a0": 0.5 * a0, "both": both, "w3": w3}.items():
            torch.testing.assert_close(found[tensor][tokens.index(token)], value)
        assert not torch.equal(two_w3, w3)


def test_rows_are_filled_up_to_a_multiple_by_their_mean(
    states: dict[str, State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskstore.merging.mergekit.rows.FEW", 4)
    plain, _, tokens = merged(tmp_path, TA + MODELS + "tokenizer: {source: union}")
    text = TA + MODELS + "tokenizer: {source: union, pad_to_multiple_of: 8}"
    found, config, same = merged(tmp_path, text, chunk=7)
    assert same == tokens
    assert config["vocab_size"] == len(found[EMBED]) == 24 > len(tokens)
    for tensor in (EMBED, HEAD):
        mean = plain[tensor].mean(0).expand(24 - len(tokens), -1)
        torch.testing.assert_close(found[tensor], torch.cat([plain[tensor], mean]))


def test_a_base_of_its_own_tokens_is_filled_up_too(
    states: dict[str, State], tmp_path: Path
) -> None:
    found, config, tokens = merged(
        tmp_path, TA + MODELS + "tokenizer: {source: base, pad_to_multiple_of: 16}"
    )
    assert (len(tokens), len(found[EMBED]), config["vocab_size"]) == (17, 32, 32)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("tokens: {a0: {force: true}}", "tokenizer.tokens.'a0' has no source"),
        ("tokens: {a0: {source: {kind: mean}}}", "is of kind 'mean'; it can be zero"),
        ("tokens: {a0: {source: three}}", "is 'three', which is none of the models"),
        ("tokens: [a0]", "tokenizer.tokens is ['a0'], not a mapping of texts"),
        ("tokens: {a0: {source: {kind: model_token, model: one}}}",
         "not one of token and token_id"),
        ("tokens: {a0: {source: base}}", "token 'a0': base has no row for 'a0'"),
        ("tokens: {n: {source: {kind: model_token, model: one, token_id: 99}}}",
         "token 'n': one has no row for 99"),
        ("pad_to_multiple_of: 0", "pad_to_multiple_of is 0, not a whole number from 1"),
        ("pad_to_multiple_of: 1.5", "is 1.5, not a whole number from 1"),
    ],
)  # fmt: skip
def test_tokens_that_cannot_be_given_are_refused(
    states: dict[str, State], tmp_path: Path, given: str, words: str
) -> None:
    with pytest.raises(InputError) as caught:
        models, options = origin(tmp_path, TA + MODELS + f"tokenizer: {{source: union, {given}}}")
        models.merge(tmp_path / "out", options)
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_gradient_moves_rows_too(states: dict[str, State], tmp_path: Path) -> None:
    plain, _, _ = merged(tmp_path, TA + MODELS + "tokenizer_source: union")
    varied = MODELS.replace("weight: 0.5", "weight: [0.5, 0.5]")
    found, _, _ = merged(tmp_path, TA + varied + "tokenizer_source: union")
    assert all(torch.equal(plain[name], found[name]) for name in plain)


def test_a_stack_of_layers_has_the_tokens_of_all_its_models(
    states: dict[str, State], tmp_path: Path
) -> None:
    found, config, tokens = merged(tmp_path, CUT + "tokenizer_source: union")
    assert tokens == [*WORDS["base"], "both", "c0", "c1"]
    assert config["num_hidden_layers"] == 3
    for tensor, name in ((EMBED, "base"), (HEAD, "two")):
        for number, token in enumerate(tokens):
            mine, zero = WORDS[name], torch.zeros(WIDTH)
            own = states[name][tensor][mine.index(token)] if token in mine else zero
            assert torch.equal(found[tensor][number], own), (tensor, token)


def test_without_a_base_the_mean_stands_for_what_a_model_lacks(
    states: dict[str, State], tmp_path: Path
) -> None:
    text = "merge_method: linear\n" + MODELS.replace("models:\n", "models:\n  - {model: base, "
           "parameters: {weight: 1}}\n") + "tokenizer_source: union"  # fmt: skip
    found, _, tokens = merged(tmp_path, text)
    base, two = (states[n][EMBED][WORDS[n].index("b1")] for n in ("base", "two"))
    expected = (base + 0.5 * (base + two) / 2 + 0.25 * two) / 1.75
    torch.testing.assert_close(found[EMBED][tokens.index("b1")], expected)


def test_added_tokens_keep_their_settings_and_come_last(
    states: dict[str, State], tmp_path: Path
) -> None:
    special = added("both", len(WORDS["one"]) - 1, special=True)
    (tmp_path / "one/tokenizer.json").write_text(tokenizer(WORDS["one"][:-1], special))
    (tmp_path / "base/tokenizer_config.json").write_text('{"added_tokens_decoder": {}}')
    _, _, tokens = merged(tmp_path, TA + MODELS + "tokenizer_source: union")
    assert tokens == [*WORDS["base"], "a0", "c0", "c1", "both"]
    file = json.loads((tmp_path / "out/tokenizer.json").read_text())
    assert file["added_tokens"][-1] == added("both", len(tokens) - 1, special=True)
    settings = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert settings["added_tokens_decoder"][str(len(tokens) - 1)]["special"] is True


def test_tokens_past_the_weights_are_left_out(states: dict[str, State], tmp_path: Path) -> None:
    words = [*WORDS["base"], "p0", "p1", "p2", "b0more"]
    write(tmp_path / "base", states["base"], tokenizer(words, kind="BPE"))
    _, _, tokens = merged(tmp_path, TA + MODELS + "tokenizer_source: base")
    assert tokens == words[:-1]
    file = json.loads((tmp_path / "out/tokenizer.json").read_text())
    assert file["model"]["merges"] == ["b 0"]  # b0more has no row, so nothing may make it


def test_models_without_any_tokenizer_are_merged_by_number(
    states: dict[str, State], tmp_path: Path
) -> None:
    for name, state in states.items():
        write(tmp_path / name, state | {EMBED: state[EMBED][:14], HEAD: state[HEAD][:14]}, None)
    models, options = origin(tmp_path, TA + MODELS + "tokenizer_source: base")
    models.merge(tmp_path / "out", options)
    found = load_file(tmp_path / "out/model.safetensors")
    base = states["base"][HEAD][:14]
    parts = [w * (states[name][HEAD][:14] - base) for name, w in WEIGHTS.items()]
    torch.testing.assert_close(found[HEAD], base + sum(parts))


def test_another_process_reads_the_same_rows(states: dict[str, State], tmp_path: Path) -> None:
    models, options = origin(tmp_path, TA + MODELS + "tokenizer_source: union")
    with models.opened(tmp_path / "out", options) as family:
        copy = pickle.loads(pickle.dumps(family))
        for own, other in zip((family.base, *family.tasks), (copy.base, *copy.tasks), strict=True):
            assert own.tensors == other.tensors
            assert (own.read(EMBED, 3, 120) == other.read(EMBED, 3, 120)).all()


def test_a_search_tells_recipes_of_other_tokenizers_apart(
    states: dict[str, State], tmp_path: Path
) -> None:
    keys = [
        origin(tmp_path, TA + MODELS + f"tokenizer_source: {source}")[0].key(["one"])
        for source in ("base", "union", "base")
    ]
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize(
    ("files", "source", "words"),
    [
        ({"two/tokenizer.json": None, "two/tokenizer.model": "x"}, "union", "two has "
         "tokenizer.model, and no tokenizer.json that can be read; save it as a fast tokenizer"),
        ({"two/tokenizer.json": "{"}, "base", "two has a tokenizer.json that cannot be read"),
        ({"two/tokenizer.json": "[]"}, "base", "two has no vocabulary in its tokenizer.json"),
        ({"two/tokenizer.json": tokenizer(["a", "\ud800"])}, "base", "that is no text"),
        ({"two/tokenizer.json": tokenizer(["a"], {"id": 3})}, "base", "added token without text"),
        ({"two/tokenizer.json": tokenizer([], {"id": "3", "content": "a"})}, "base",
         'two has the number "3" for token "a"'),
        ({"base/tokenizer.json": tokenizer(COMMON, added("far", 16))}, "base", "numbers have gaps"),
        ({"base/tokenizer.json": tokenizer(COMMON, added("far", 99))}, "base", "base has 1 tokens "
         'past its 20 rows ("far"), and they can be taken out of BPE only, not of WordLevel'),
        ({"base/tokenizer.json": None}, "union", "base has no tokenizer, and other models"),
        ({f"{name}/tokenizer.json": None for name in WORDS}, "union", "no model has a tokenizer"),
        ({"base/tokenizer.json": tokenizer(COMMON, added("both", 14, special=True)),
          "one/tokenizer.json": tokenizer(COMMON, added("both", 14))}, "union",
         'one has "both" as a plain added token, which is a special one elsewhere'),
        ({"two/config.json": '{"vocab_size": 9}'}, "base", "two is F32 [18, 6], not floats with a "
         "row for each of the 9 tokens"),
    ],
)  # fmt: skip
def test_refused(
    states: dict[str, State],
    tmp_path: Path,
    files: dict[str, str | None],
    source: str,
    words: str,
) -> None:
    for path, text in files.items():
        if text is None:
            (tmp_path / path).unlink()
        else:
            (tmp_path / path).write_text(text)
    models, options = origin(tmp_path, TA + MODELS + f"tokenizer_source: {source}")
    with pytest.raises(InputError) as error:
        models.merge(tmp_path / "out", options)
    assert words in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_tensor_that_may_be_of_the_vocabulary(states: dict[str, State], tmp_path: Path) -> None:
    for name, state in states.items():
        bias = {"final_logits_bias": torch.zeros(1, len(state[EMBED]))}
        write(tmp_path / name, state | bias, tokenizer(WORDS[name]))
    models, options = origin(tmp_path, TA + MODELS + "tokenizer_source: union")
    with pytest.raises(InputError, match="final_logits_bias of base.*leave tokenizer_source out"):
        models.merge(tmp_path / "out", options)
