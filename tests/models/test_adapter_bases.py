"""Adapters and the bases that they name; folders that hold several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import taskstore
from taskstore.errors import CheckpointError
from taskstore.merging import MergeOptions, merge
from taskstore.models import open_checkpoint
from tests.support.broken import one_line
from tests.support.families import options, save

Q = "model.layers.0.q_proj"
HASH, OTHER = "c" * 40, "d" * 40
HUB = f"hub/models--meta-llama--Llama-3.1-8B/snapshots/{HASH}"
STATE = {f"{Q}.weight": torch.arange(64.0).reshape(8, 8) / 64, "model.norm.weight": torch.ones(8)}


def adapter(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True)
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}
    (folder / "adapter_config.json").write_text(json.dumps(plain))
    state = {f"base_model.model.{Q}.lora_A.weight": torch.ones(2, 8),
             f"base_model.model.{Q}.lora_B.weight": torch.ones(8, 2)}  # fmt: skip
    save_file(state, folder / "adapter_model.safetensors")
    return folder


def base_at(root: Path, where: str, **config: object) -> Path:
    folder = save(root / where, STATE)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return folder


def notes(base: Path, task: Path) -> tuple[str, ...]:
    opened = open_checkpoint(base)
    found = open_checkpoint(task, "t", opened)
    found.close()
    opened.close()
    return found.notes


LLAMA, INSTRUCT = "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct"
SAME = [
    (HUB, {}, LLAMA), (HUB, {}, LLAMA.lower()), (HUB, {}, "unsloth/Llama-3.1-8B-bnb-4bit"),
    ("Llama-3.1-8B", {}, LLAMA), ("Llama-3.1-8B", {}, "/data/models/Llama-3.1-8B/"),
    ("base", {"_name_or_path": LLAMA}, LLAMA), ("base", {}, None),
    (HUB, {}, f"/root/.cache/{HUB}"), ("base", {}, ""), ("base", {}, 7),
]  # fmt: skip
OTHERS = [
    (HUB, {}, INSTRUCT), ("Llama-3.1-8B", {}, INSTRUCT), ("base", {}, INSTRUCT),
    ("base", {"_name_or_path": LLAMA}, INSTRUCT), ("base", {}, "/data/x"),
    (HUB, {}, f"/x/models--a--b/snapshots/{OTHER}"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "config", "named"), SAME)
def test_the_same_base(
    where: str, config: dict[str, object], named: object, tmp_path: Path
) -> None:
    task = adapter(tmp_path / "adapter", base_model_name_or_path=named)
    assert notes(base_at(tmp_path, where, **config), task) == ()


@pytest.mark.parametrize(("where", "config", "named"), OTHERS)
def test_another_base_is_said(
    where: str, config: dict[str, object], named: str, tmp_path: Path
) -> None:
    task = adapter(tmp_path / "adapter", base_model_name_or_path=named)
    (said,) = notes(base_at(tmp_path, where, **config), task)
    assert "was trained on" in said
    assert "and the base given is" in said


def test_a_folder_that_was_moved_is_the_same_base(tmp_path: Path) -> None:
    base = base_at(tmp_path, "anything")
    (tmp_path / "link").symlink_to(base)
    task = adapter(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "link"))
    assert notes(base, task) == ()


def test_pack_and_merge_say_it(tmp_path: Path) -> None:
    base, task = base_at(tmp_path, HUB), adapter(tmp_path / "a", base_model_name_or_path=INSTRUCT)
    report = taskstore.pack(base, {"t": task}, tmp_path / "store", options())
    assert any(w.startswith("t: ") and INSTRUCT in w for w in report.warnings)
    merged = merge(base, {"t": task}, tmp_path / "merged", MergeOptions(method="linear"))
    assert INSTRUCT in merged.notes["t"]


@pytest.mark.parametrize("config", [
    {"base_model_name_or_path": LLAMA, "revision": OTHER},
    {"base_model_name_or_path": f"/x/models--meta-llama--Llama-3.1-8B/snapshots/{OTHER}"},
])  # fmt: skip
def test_another_revision_is_refused(config: dict[str, object], tmp_path: Path) -> None:
    task = adapter(tmp_path / "adapter", **config)
    with pytest.raises(CheckpointError) as caught:
        notes(base_at(tmp_path, HUB), task)
    one_line(caught.value, "revision dddddddddddd", "revision cccccccccccc", "give that revision")
    assert notes(base_at(tmp_path, "Llama-3.1-8B"), task) == ()  # whose revision nobody knows


def test_other_shapes_name_the_base_that_was_meant(tmp_path: Path) -> None:
    base = save(tmp_path / "base", {f"{Q}.weight": torch.ones(16, 16)})
    task = adapter(tmp_path / "adapter", base_model_name_or_path=INSTRUCT)
    with pytest.raises(CheckpointError) as caught:
        notes(base, task)
    one_line(caught.value, "do not make [16, 16]", f"it was trained on '{INSTRUCT}'")


@pytest.mark.parametrize("packed", [
    {f"{Q}.weight": torch.ones(32, 1, dtype=torch.uint8), "model.norm.weight": torch.ones(8)},
    {f"{Q}.weight": torch.ones(8, 8).to(torch.float8_e4m3fn), f"{Q}.weight_scale": torch.ones(1)},
    {f"{Q}.qweight": torch.ones(1, 8, dtype=torch.int32), f"{Q}.scales": torch.ones(1, 8)},
], ids=["bnb", "fp8", "gptq"])  # fmt: skip
def test_a_quantised_base(packed: dict[str, torch.Tensor], tmp_path: Path) -> None:
    base, task = save(tmp_path / "base", packed), adapter(tmp_path / "adapter")
    with pytest.raises(CheckpointError) as caught:
        notes(base, task)
    one_line(caught.value, f"layer '{Q}'", "quantised", "give the 16-bit model")


def test_a_folder_of_adapters(tmp_path: Path) -> None:
    base = base_at(tmp_path, "base")
    for name in ("billing", "legal"):
        adapter(tmp_path / "all" / name)
    (tmp_path / "all" / "notes").mkdir()
    with pytest.raises(CheckpointError) as caught:
        notes(base, tmp_path / "all")
    one_line(caught.value, "2 adapters and no model", f"billing={tmp_path}/all/billing", "legal=")


def test_an_adapter_with_others_below_it(tmp_path: Path) -> None:
    """PEFT puts `default` in the folder itself, and each other adapter in a folder of its name."""
    base, task = base_at(tmp_path, "base"), adapter(tmp_path / "all")
    adapter(task / "legal")
    (said,) = notes(base, task)
    assert "other adapters are left out: legal" in said
    taskstore.pack(base, {"t": task}, tmp_path / "store", options(tiers="exact"))
    out = taskstore.open(tmp_path / "store").unpack("t", tmp_path / "out")
    assert not (out / "legal").exists()


def test_the_weights_of_an_adapter_by_their_file(tmp_path: Path) -> None:
    base, task = base_at(tmp_path, "base"), adapter(tmp_path / "adapter")
    opened = open_checkpoint(base)
    found = open_checkpoint(task / "adapter_model.safetensors", "t", opened)
    assert found.tensors.keys() == opened.tensors.keys()
    found.close()
    opened.close()


Weights = dict[str, torch.Tensor]
FACTORS: Weights = {"A.default.weight": torch.ones(2, 8), "B.default.weight": torch.ones(8, 2)}
UNMERGED: dict[str, tuple[str, Weights]] = {
    "a model saved with its adapter": (
        "model.safetensors",
        {f"base_model.model.{Q}.base_layer.weight": STATE[f"{Q}.weight"],
         **{f"base_model.model.{Q}.lora_{side}": w for side, w in FACTORS.items()}}),
    "weights of an adapter alone": (
        "weights.safetensors", {f"base_model.model.{Q}.lora_A.weight": torch.ones(2, 8)}),
    "words of diffusers": (
        "pytorch_lora_weights.safetensors",
        {"unet.down.attn.to_q.lora.down.weight": torch.ones(2, 8)}),
    "words of kohya": (
        "some.safetensors", {"lora_unet_down_attn_to_q.lora_up.weight": torch.ones(8, 2)}),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNMERGED)
def test_factors_that_are_not_merged(kind: str, tmp_path: Path) -> None:
    base = base_at(tmp_path, "base")
    file, state = UNMERGED[kind]
    (tmp_path / "t").mkdir()
    save_file(state, tmp_path / "t" / file)
    for given in (tmp_path / "t", tmp_path / "t" / file):
        with pytest.raises(CheckpointError) as caught:
            notes(base, given)
        one_line(caught.value, "factors of a LoRA adapter", "merge_and_unload()")


def test_a_base_that_has_such_factors_itself(tmp_path: Path) -> None:
    state = {**STATE, f"{Q}.lora_A.speech.weight": torch.ones(2, 8)}
    assert notes(save(tmp_path / "base", state), save(tmp_path / "task", state)) == ()


def test_an_adapter_without_its_config(tmp_path: Path) -> None:
    base, task = base_at(tmp_path, "base"), adapter(tmp_path / "adapter")
    (task / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        notes(base, task)
    one_line(caught.value, "an adapter_model and no adapter_config.json")


@pytest.mark.parametrize("kind", ["OFT", "LOHA", "ADALORA", "VERA", "BOFT", None, 3])
def test_kinds_that_are_not_merged_here(kind: object, tmp_path: Path) -> None:
    base, task = base_at(tmp_path, "base"), adapter(tmp_path / "adapter", peft_type=kind)
    with pytest.raises(CheckpointError) as caught:
        notes(base, task)
    one_line(caught.value, repr(kind), "merge it with PEFT first", "merge_and_unload()")


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "XLORA"])
def test_kinds_that_change_no_weight(kind: str, tmp_path: Path) -> None:
    base, task = base_at(tmp_path, "base"), adapter(tmp_path / "adapter", peft_type=kind)
    with pytest.raises(CheckpointError) as caught:
        notes(base, task)
    one_line(caught.value, kind, "changes no weight of its base")


def test_names_of_newer_modules(tmp_path: Path) -> None:
    """Files keep the names of an older transformers; the adapter was made with a newer one's."""
    pytest.importorskip("transformers.conversion_mapping")
    state = {f"language_model.model.{Q[6:]}.weight": STATE[f"{Q}.weight"]}
    base = save(tmp_path / "base", state)
    llava = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}
    (base / "config.json").write_text(json.dumps(llava))
    task = adapter(tmp_path / "adapter")
    old = f"base_model.model.{Q}"
    factors = {f"{old.replace('model.layers', 'model.language_model.layers')}.lora_{s}.weight": w
               for s, w in (("A", torch.ones(2, 8)), ("B", torch.ones(8, 2)))}  # fmt: skip
    save_file(factors, task / "adapter_model.safetensors")
    opened = open_checkpoint(base)
    found = open_checkpoint(task, "t", opened)
    assert found.tensors.keys() == opened.tensors.keys()
    name = next(iter(state))
    assert not (found.read(name, 0, 64) == opened.read(name, 0, 64)).any()
    found.close()
    opened.close()
