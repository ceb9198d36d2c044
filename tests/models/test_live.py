"""What `load_model` refuses, and in what words; that it works is in tests/swap/test_models.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

import taskstore
from taskstore.errors import CheckpointError, InputError, MissingExtra
from taskstore.store import Store
from tests.support import families, tiny_models
from tests.support.modules import state_of

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


Config = dict[str, Any]


def _llama() -> families.State:
    return state_of(tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL)).bfloat16())


def _store(
    root: Path,
    change: Callable[[Config], None] = lambda _: None,
    base: families.State | None = None,
    own: dict[str, str] | None = None,
) -> Store:
    """A small Llama family with a changed config; `own` are files that only the task has."""
    config = json.loads(tf.LlamaConfig(**SMALL).to_json_string())
    config |= {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
    change(config)
    base = base or _llama()

    def save(folder: Path, state: families.State, files: dict[str, str]) -> Path:
        more = own or {}
        return families.save(folder, state, config=config, files=files | more)

    family = families.Family(root, base, {"one": families.tuned(base, 1)}, save)
    taskstore.pack(family.base_path, family.paths, root / "store", families.options())
    return taskstore.open(root / "store")


def test_the_generation_config_comes_along(tmp_path: Path) -> None:
    assert _store(tmp_path / "a").load_model("one").generation_config.max_new_tokens is None
    text = '{"max_new_tokens": 7, "eos_token_id": 5}'
    loaded = _store(tmp_path / "b", own={"generation_config.json": text}).load_model("one")
    assert (loaded.generation_config.max_new_tokens, loaded.generation_config.eos_token_id) == (
        7,
        5,
    )


def test_mixed_dtypes_stay_as_they_are(tmp_path: Path) -> None:
    """A config says one dtype; each tensor keeps the one that it is stored in, where told so."""
    base = {n: v.float() if "norm" in n else v for n, v in _llama().items()}
    store = _store(tmp_path, base=base)
    loaded = store.load_model("one", dtype="stored")
    live = loaded.state_dict()
    for name, value in store.state_dict("one").items():
        assert families.same(value, live[name])
    with taskstore.attach(loaded, store) as attached:
        attached.swap(None)
        attached.verify()


def test_a_config_that_names_no_class_of_transformers(tmp_path: Path) -> None:
    def unknown(config: dict[str, Any]) -> None:
        config["architectures"] = ["SpecialForCausalLM"]

    store = _store(tmp_path / "a", unknown)
    with pytest.raises(InputError, match="task 'one' is a SpecialForCausalLM, which transformers"):
        store.load_model("one")

    def strange(config: dict[str, Any]) -> None:
        config["model_type"] = "no such type"

    store = _store(tmp_path / "b", strange)
    with pytest.raises(InputError, match=r"transformers cannot read the config.json of task 'one'"):
        store.load_model("one")


def test_code_in_a_store_is_not_run(tmp_path: Path) -> None:
    def remote(config: dict[str, Any]) -> None:
        config["model_type"] = "custom"
        config["auto_map"] = {"AutoConfig": "custom.Config", "AutoModel": "custom.Model"}

    store = _store(tmp_path, remote)
    way = r"has code of its own \(custom.py\); read that, then load it with trust_remote_code=True"
    with pytest.raises(InputError, match=f"task 'one' is a LlamaForCausalLM, which {way}"):
        store.load_model("one")


def test_code_that_a_store_does_not_need_is_not_asked_for(tmp_path: Path) -> None:
    """Models that transformers took over later still name the code that they came with."""

    def remote(config: dict[str, Any]) -> None:
        config["auto_map"] = {"AutoModelForCausalLM": "someone/llama--custom.Model"}

    loaded = _store(tmp_path / "a", remote).load_model("one")
    assert type(loaded) is tf.LlamaForCausalLM

    def other(config: dict[str, Any]) -> None:
        remote(config)
        config["architectures"] = ["LlamaWithMore"]

    with pytest.raises(
        InputError, match=r"a LlamaWithMore, .* \(custom.py of someone/llama on the"
    ):
        _store(tmp_path / "b", other).load_model("one")


def test_a_store_without_a_config(tmp_path: Path) -> None:
    store = _store(tmp_path)
    assets = store.manifest.tasks["one"].assets
    del assets["config.json"]
    with pytest.raises(InputError, match=r"task 'one' has no config.json; use state_dict"):
        store.load_model("one")


def test_a_class_that_wants_more_than_the_store_has(tmp_path: Path) -> None:
    def deeper(config: dict[str, Any]) -> None:
        config["num_hidden_layers"] = 2
        config.pop("layer_types", None)

    store = _store(tmp_path, deeper)
    with pytest.raises(CheckpointError, match=r"LlamaForCausalLM: missing keys: model.layers.1"):
        store.load_model("one")


def test_without_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _store(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"transformers, the extra hf: .*\[hf\]"):
        store.load_model("one")


def test_options_go_to_from_pretrained(tmp_path: Path) -> None:
    loaded = _store(tmp_path).load_model("one", attn_implementation="eager", dtype=torch.float32)
    assert loaded.config._attn_implementation == "eager"
    assert loaded.dtype == torch.float32


def test_assets_alone(small: families.Family, packed: Path, tmp_path: Path) -> None:
    store = taskstore.open(packed)
    folder = store.write_assets("beta", tmp_path / "files")
    assert (folder / "own.txt").read_text() == "beta"
    assert not list(folder.glob("*.safetensors"))
    taskstore.pack(
        small.base_path, small.paths, tmp_path / "ref", families.options(base="reference")
    )
    folder = taskstore.open(tmp_path / "ref").write_assets(None, tmp_path / "base")
    assert (folder / "tokenizer.json").exists()


def test_a_tokenizer_comes_with_its_template_and_a_name(tmp_path: Path) -> None:
    tiny_models.save_tokenizer(tmp_path / "tokenizer")
    files = {p.name: p.read_text() for p in (tmp_path / "tokenizer").iterdir()}
    store = _store(tmp_path / "family", own=files)
    tokenizer = store.load_tokenizer("one", padding_side="left")
    chat = [{"role": "user", "content": "a b"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "user a b <eos> \n assistant "
    assert (tokenizer.name_or_path, tokenizer.padding_side) == ("one", "left")
    assert [tokenizer.decode(i) for i in tokenizer("a b")["input_ids"]] == ["a", "b"]


def test_no_tokenizer_and_one_with_code_of_its_own_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot build the tokenizer of task 'one'"):
        _store(tmp_path / "none").load_tokenizer("one")
    code = {
        "tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["own.Own", null]}}',
        "own.py": "raise SystemExit('was run')",
    }
    with pytest.raises(InputError, match="cannot build the tokenizer of task 'one'"):
        _store(tmp_path / "code", own=code).load_tokenizer("one")


@pytest.mark.parametrize("start", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_a_model_that_a_wrapper_saved(start: str, tmp_path: Path) -> None:
    """Unpacked under the names of its files; as a model it is what the wrapper held."""
    base = _llama()
    own = {start + name: value * 1.125 for name, value in base.items()}
    made = families.Family(tmp_path, base, {"t": own})
    config = tf.LlamaConfig(**SMALL, architectures=["LlamaForCausalLM"], dtype="bfloat16")
    for folder in (made.base_path, made.paths["t"]):
        config.save_pretrained(folder)
    store = tmp_path / "s"
    taskstore.pack(made.base_path, made.paths, store, families.options(tiers="exact"))
    assert set(taskstore.open(store).state_dict("t")) == set(own)
    state = state_of(taskstore.open(store).load_model("t"))
    assert all(torch.equal(state[name], own[start + name]) for name in base)
