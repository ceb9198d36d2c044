"""Tells which tasks have the same tokenizer, templates and configs, and so share a front."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

from blake3 import blake3

from taskstore.store import Store

_NOTES = {"_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype"}
_PROSE = {".md", ".txt.license", ".gitattributes", ".png", ".pdf"}


class Assets(NamedTuple):
    """What a model has beside its weights."""

    folder: Path
    key: str


def write_assets(store: Store, task: str | None, folders: Path) -> Assets:
    """Write a model's assets into a folder below `folders`; models with the same ones share it."""
    written = Path(mkdtemp(dir=folders))
    store.write_assets(task, written)
    key = assets_key(written)
    folder = folders / key
    if folder.exists():
        shutil.rmtree(written)
    else:
        written.rename(folder)
    return Assets(folder, key)


def assets_key(folder: Path) -> str:
    """Digest a folder of assets; notes on where they came from do not count."""
    state = blake3()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.suffix in _PROSE or path.name in {"LICENSE", ".gitattributes"}:
            continue
        state.update(f"{path.relative_to(folder)}\0".encode())
        state.update(blake3(_content(path)).digest())
    return state.hexdigest()


def _content(path: Path) -> bytes:
    raw = path.read_bytes()
    if path.name not in {"config.json", "generation_config.json", "tokenizer_config.json"}:
        return raw
    try:
        found = json.loads(raw)
    except ValueError:
        return raw
    if not isinstance(found, dict):
        return raw
    kept = {key: value for key, value in found.items() if key not in _NOTES}
    return json.dumps(kept, sort_keys=True).encode()
