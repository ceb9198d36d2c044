"""Small families on disk, made from a seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from taskstore.packing.options import PackOptions

State = dict[str, Tensor]
CHUNK = 256  # small, so that small tensors have several chunks
SHAPES: Mapping[str, tuple[int, ...]] = {
    "embed_tokens.weight": (40, 16),
    "layers.0.attn.weight": (33, 31),
    "layers.0.bias": (7,),
    "layers.1.mlp.weight": (16, 64),
    "norm.weight": (16,),
    "scale": (),
}


def options(**changes: object) -> PackOptions:
    """Options with small chunks; masks with a method and lambda that are not the defaults."""
    masked = "mask" in str(changes.get("tiers", "mask"))
    own = {"lam": 0.4, "method": "sum"} if masked else {}
    return PackOptions(**{"chunk": CHUNK, "jobs": 2, **own, **changes})  # type: ignore[arg-type]


def random_state(
    seed: int, dtype: torch.dtype = torch.bfloat16, shapes: Mapping[str, tuple[int, ...]] = SHAPES
) -> State:
    """Normal weights, standard deviation 0.02."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=generator) * 0.02).to(dtype)
        for name, shape in shapes.items()
    }


def tuned(base: State, seed: int, scale: float = 0.004, dtype: torch.dtype | None = None) -> State:
    """A fine-tune: each float weight moved by a heavy-tailed step; the rest as it is."""
    generator = torch.Generator().manual_seed(1000 + seed)
    result = {}
    for name, weight in base.items():
        if not weight.is_floating_point():
            result[name] = weight.clone()
            continue
        noise = torch.randn(weight.shape, generator=generator)
        moved = weight.float() + scale * noise * noise.abs()
        result[name] = moved.to(dtype or weight.dtype)
    return result


def save(
    folder: Path,
    state: State,
    *,
    config: Mapping[str, object] | None = None,
    files: Mapping[str, str] | None = None,
    shards: int = 1,
) -> Path:
    """A Hugging Face folder with `shards` weight files."""
    folder.mkdir(parents=True, exist_ok=True)
    if shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        names = list(state)
        place: dict[str, str] = {}
        for i in range(shards):
            file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
            part = {name: state[name] for name in names[i::shards]}
            save_file(part, folder / file, metadata={"format": "pt"})
            place |= dict.fromkeys(part, file)
        index = {"metadata": {"total_size": 0}, "weight_map": place}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "test"}))
    for name, text in (files or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


class Family:
    """A base and its fine-tunes, in memory and on disk."""

    def __init__(
        self,
        root: Path,
        base: State,
        tasks: Mapping[str, State],
        saver: Callable[..., Path] = save,
    ) -> None:
        self.base, self.tasks = base, dict(tasks)
        files = {"tokenizer.json": '{"shared": true}'}
        self.base_path = saver(root / "base", base, files=files)
        self.paths = {
            name: saver(root / name, state, files={**files, "own.txt": name})
            for name, state in tasks.items()
        }


def family(
    root: Path,
    tasks: int = 3,
    dtype: torch.dtype = torch.bfloat16,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
) -> Family:
    """A plain family: every tensor in every model."""
    base = random_state(0, dtype, shapes)
    names = ["alpha", "beta", "gamma", "delta", "epsilon"][:tasks]
    return Family(root, base, {name: tuned(base, i) for i, name in enumerate(names)})


def rich_states() -> tuple[State, dict[str, State]]:
    """A base and three tasks: tied, grown, private, empty and integer tensors."""
    base = random_state(0)
    base["lm_head.weight"] = base["embed_tokens.weight"].clone()
    base["ids"] = torch.arange(9)
    tasks = {name: tuned(base, i) for i, name in enumerate(("one", "two", "three"))}
    for state in tasks.values():
        state["lm_head.weight"] = state["embed_tokens.weight"].clone()
    rows = torch.full((2, 16), 0.5, dtype=torch.bfloat16)
    for key in ("embed_tokens.weight", "lm_head.weight"):
        tasks["two"][key] = torch.cat([tasks["two"][key], rows])
    tasks["three"]["head.weight"] = torch.ones(3, 10)
    tasks["three"]["empty"] = torch.ones(0, 4)
    return base, tasks


def bits(tensor: Tensor) -> Tensor:
    """Raw bytes, for comparisons that tell -0.0 from 0.0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def same(a: Tensor, b: Tensor) -> bool:
    """Equal dtype, shape and bits."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def contents(folder: Path) -> dict[str, bytes]:
    """Path inside the folder -> bytes, of every file."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
