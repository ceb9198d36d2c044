"""Folders and files that are no model of ours: what they are called, and the way out."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from taskstore.errors import CheckpointError
from taskstore.models import open_checkpoint


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return str(caught.value)


def put(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()


def model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"w": torch.ones(2)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp"],
         [".distcp", "accelerate merge-weights {}/pytorch_model_fsdp_0 OUT"]),
        (["__0_0.distcp", ".metadata"], ["merge-weights {} OUT", "dcp_to_torch {} OUT.pth"]),
        (["checkpoint-5/pytorch_model_fsdp_0/__0_0.distcp", "checkpoint-10/m/__0_0.distcp"],
         ["checkpoint-10 holds", "merge-weights {}/checkpoint-10/m OUT"]),
        (["global_step5/mp_rank_00_model_states.pt", "latest"],
         ["DeepSpeed", "(cd {} && python zero_to_fp32.py . OUT)"]),
        (["actor/model_world_size_2_rank_0.pt"], ["verl.model_merger", "--local_dir {}/actor"]),
        (["iter_0000010/mp_rank_00/model_optim_rng.pt"], ["Megatron"]),
        (["iter_0000010/__0_0.distcp"], ["Megatron-Bridge"]),
        (["model-Q4_K_M.gguf"], ["GGUF", "gguf_file="]),
        (["x.nemo"], ["NeMo"]),
        (["flax_model.msgpack", "tf_model.h5"], [".msgpack", "from_flax=True"]),
        (["tf_model.h5"], ["TensorFlow", "from_tf=True"]),
        (["model.ckpt.index", "model.ckpt.data-00000-of-00001"], ["TensorFlow"]),
        (["onnx/model.onnx"], ["ONNX"]),
        (["weights.npz"], ["safetensors.numpy"]),
        (["rank0.engine"], ["compiled engine"]),
        (["consolidated.00.pth", "optimizer.pt"], ["name one file: {}/consolidated.00.pth"]),
        (["README.md"], ["holds no weights (*.safetensors"]),
    ],
)  # fmt: skip
def test_what_converts_a_folder(tmp_path: Path, files: list[str], words: list[str]) -> None:
    folder = tmp_path / "a run"
    put(folder, *files)
    said = refusal(folder)
    for word in words:
        place = shlex.quote(f"{folder}{word[word.find('{}') + 2 :].split(' ')[0]}")
        wanted = word.replace("{}" + word[word.find("{}") + 2 :].split(" ")[0], place)
        assert (wanted if "{}" in word else word) in said
    assert "optimizer" not in said


@pytest.mark.parametrize(("file", "word"), [("x.gguf", "GGUF"), ("x.msgpack", "Flax")])
def test_what_converts_a_file(tmp_path: Path, file: str, word: str) -> None:
    put(tmp_path, file)
    assert word in refusal(tmp_path / file)


def test_the_models_inside_are_named(tmp_path: Path) -> None:
    pipeline = tmp_path / "pipeline"
    put(pipeline, "model_index.json", "scheduler/config.json")
    model(pipeline / "unet")
    assert refusal(pipeline).endswith(f"name one component: {pipeline}/unet")
    for step in (100, 20):
        model(tmp_path / "run" / f"checkpoint-{step}")
    newest, older = (tmp_path / "run" / f"checkpoint-{step}" for step in (100, 20))
    assert refusal(tmp_path / "run").endswith(f"name one checkpoint: {newest}, {older}")
    actor = model(tmp_path / "ppo" / "actor")
    assert refusal(tmp_path / "ppo").endswith(f"sub-folders have them; name one folder: {actor}")
    put(tmp_path, "hub/models--acme--base/refs/main")
    assert refusal(tmp_path / "hub").endswith("hub/models--acme--base")


def test_a_config_without_weights_names_its_repository(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_name_or_path": "acme/base"}')
    assert refusal(tmp_path).endswith("hf download acme/base")


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict", "model", "module"])
def test_weights_inside_the_checkpoint_of_a_training(tmp_path: Path, name: str) -> None:
    torch.save({name: {"w": torch.ones(3)}, "epoch": 3, "optimizer": {}}, tmp_path / "v1.ckpt")
    found = open_checkpoint(tmp_path / "v1.ckpt")
    assert {name: info.shape for name, info in found.tensors.items()} == {"w": (3,)}
    found.close()
