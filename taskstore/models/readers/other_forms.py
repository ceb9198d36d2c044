"""Say what a folder or a file without weights of ours is, and what makes a model of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from taskstore.format import json_text
from taskstore.models.readers import index

_MOST = 8  # folders and files in an error
_SEEN = 4096  # entries of a folder that are looked at
_STATES = ("optimizer", "scheduler", "rng_state", "random_states")
_DCP = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
# pattern of a path, at most one folder deep -> what it is, what converts it
FORMS = (
    (r"(iter_\d+|release|mp_rank_\d+.*)/.*|latest_checkpointed_iteration\.txt|"
     r"model_optim_rng\.pt", "a Megatron checkpoint (mp_rank...)",
     "convert it with Megatron's tools/checkpoint/convert.py or Megatron-Bridge"),
    (r".*\.distcp", "a distributed checkpoint (.distcp, of FSDP or Megatron)",
     "gather it: accelerate merge-weights {parent} OUT, or " + _DCP + " {parent} OUT.pth"),
    (r"global_step\d+/.*(_states\.pt|\.pt)|zero_pp_rank_.*|mp_rank_\d+_model_states\.pt",
     "a DeepSpeed checkpoint (global_step..., parts of every rank)",
     "gather it: (cd {run} && python zero_to_fp32.py . OUT)"),
    (r"(.*/)?model_world_size_\d+_rank_\d+\.pt", "a checkpoint of FSDP by ranks (verl)",
     "gather it: python -m verl.model_merger merge --backend fsdp --local_dir {parent} "
     "--target_dir OUT"),
    (r".*\.gguf", "GGUF, whose weights are mostly quantised",
     'name the original model, or: python -c \'from transformers import AutoModelForCausalLM as M; '
     'M.from_pretrained("FOLDER", gguf_file="FILE.gguf").save_pretrained("OUT")\''),
    (r".*\.nemo|model_weights\.ckpt|weights/common\.pt", "a NeMo checkpoint (.nemo)",
     "convert it with NeMo's export to Hugging Face: nemo llm export (target hf)"),
    (r".*\.msgpack", "Flax weights (.msgpack)",
     "convert them with a transformers before 5: from_pretrained(FOLDER, from_flax=True), then "
     "save_pretrained"),
    (r".*\.h5|.*\.keras|saved_model\.pb|.*\.ckpt\.(index|meta|data-.*)|.*\.tflite",
     "TensorFlow weights (.h5, .ckpt.index)",
     "convert them with a transformers before 5: from_pretrained(FOLDER, from_tf=True), then "
     "save_pretrained"),
    (r".*\.onnx(_data)?", "an ONNX graph (.onnx)", "name the model that it was exported from"),
    (r".*\.npz", "arrays of numpy or MLX (.npz)",
     "write them as safetensors: safetensors.numpy.save_file(dict(numpy.load(FILE)), OUT)"),
    (r".*\.(engine|plan|mlmodel|mlpackage|mlmodelc)(/.*)?", "a compiled engine",
     "name the model that it was built from"),
)  # fmt: skip


def of_file(path: Path) -> str:
    """Say what a single file is that no reader takes."""
    for pattern, what, way in FORMS:
        if re.fullmatch(pattern, path.name):
            return f"is {what}; {_typed(way, path.parent, path.parent)}"
    return "is neither a safetensors file nor a PyTorch weight file"


def of_folder(folder: Path, has_model: Callable[[Path], bool]) -> str:
    """Say what a folder without weights holds, after `holds`; `has_model`: whether another has."""
    inside = sorted(islice(folder.iterdir(), _SEEN))
    if (folder / "model_index.json").is_file():
        parts = _with(inside, has_model)
        return "a pipeline (model_index.json), not one model; " + _choices(parts, "component")
    repositories = [p for p in inside if p.is_dir() and p.name.startswith("models--")]
    if repositories:
        return "a cache of the hub; " + _choices(repositories, "repository")
    if steps := [p for p in _with(inside, has_model) if re.fullmatch(r"checkpoint-\d+", p.name)]:
        steps.sort(key=_step, reverse=True)
        return "checkpoints of a training and no model; " + _choices(steps, "checkpoint")
    steps = [p for p in inside if p.is_dir() and re.fullmatch(r"checkpoint-\d+", p.name)]
    if steps:
        newest = max(steps, key=_step)
        return f"checkpoints of a training; {newest.name} holds {of_folder(newest, has_model)}"
    paths = _one_deep(inside)
    for pattern, what, way in FORMS:
        for path in paths:
            if re.fullmatch(pattern, path.relative_to(folder).as_posix()):
                return f"no weights but {what}; {_typed(way, folder, path.parent)}"
    loose = [p for p in inside if p.is_file() and p.suffix in (".pt", ".pth", ".ckpt")]
    if loose := [p for p in loose if not index.is_state(p)]:
        return "weights under a name of their own; " + _choices(loose, "file")
    if parts := _with(inside, has_model):
        return "no weights, but sub-folders have them; " + _choices(parts, "folder")
    return "no weights (*.safetensors or pytorch_model.bin)" + _wanted(folder)


def _wanted(folder: Path) -> str:
    """Name the repository of a config without weights, where it says which it is."""
    try:
        source = json_text.read(folder / "config.json", folder).get("_name_or_path")
    except (OSError, ValueError, AttributeError):
        return ""
    known = isinstance(source, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", source, re.ASCII)
    return f"; its config names {source}: hf download {source}" if known else ""


def _with(folders: Iterable[Path], has_model: Callable[[Path], bool]) -> list[Path]:
    return [p for p in folders if p.is_dir() and not p.name.startswith(".") and has_model(p)]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1][:18])


def _one_deep(inside: Iterable[Path]) -> list[Path]:
    found = []
    for path in inside:
        if path.name.startswith(_STATES):
            continue
        if path.is_dir() and not path.is_symlink():
            found += sorted(islice(path.iterdir(), _SEEN))
        else:
            found.append(path)
    return found


def _choices(paths: list[Path], what: str) -> str:
    names = ", ".join(shlex.quote(str(path)) for path in paths[:_MOST])
    more = f" and {len(paths) - _MOST} more" if len(paths) > _MOST else ""
    return f"name one {what}: {names}{more}" if paths else f"no {what} has weights"


def _typed(way: str, folder: Path, parent: Path) -> str:
    run = folder.parent if folder.name.startswith("global_step") else folder
    quoted = {"run": shlex.quote(str(run)), "parent": shlex.quote(str(parent))}
    return re.sub(r"\{(run|parent)\}", lambda m: quoted[m[1]], way)
