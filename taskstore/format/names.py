"""Check names that enter a store, so that none leaves its folder on any file system."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

from taskstore.errors import BadName

MANIFEST = "taskstore.json"
CARD = "README.md"
MAX_NAME = 128
MAX_TENSOR_NAME = 1024
BASE = "base"
MULTITASK = "multitask"
# Tiers in the order in which they build on each other, and the stems of their files.
TIER_FILES: Mapping[str, str] = {"mask": "masks", "rest": "rest", "exact": "exact"}


def has_control(text: str) -> bool:
    """Find control or formatting characters, line separators, lone surrogates."""
    if text.isascii():
        return not text.isprintable()
    return any(unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs") for c in text)


def plain(text: str) -> str:
    """Put a question mark for each character that `has_control` objects to."""
    return "".join("?" if has_control(c) else c for c in text) if has_control(text) else text


def check_task_name(name: str) -> None:
    """Raise BadName unless `name` can be a task: a model's name in an API, such as org/name:tag."""
    problem = None
    if not name or len(name) > MAX_NAME:
        problem = f"must have 1 to {MAX_NAME} characters"
    elif has_control(name):
        problem = "holds a control character"
    elif "\\" in name:
        problem = "must not hold a backslash"
    elif name[0] in ".-" or name != name.strip() or name.endswith("."):
        problem = "must not start with '.' or '-', end with '.', or have spaces around it"
    if problem:
        raise BadName("task name", name, f"{problem}; give another as NAME=MODEL")


def folder_of(task: str) -> str:
    """Return the name of a task's folder: `/` and `:` stand in no folder's name."""
    return task.replace("/", "--").replace(":", "--")


def check_distinct(names: Iterable[str]) -> None:
    """Raise BadName where the folders of two tasks are equal, but for case or normal form."""
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", folder_of(name)).casefold()
        if key in seen:
            raise BadName(
                "task name", name, f"is given twice ({seen[key]!r}); name one as NAME=MODEL"
            )
        seen[key] = name


def check_path(path: str, kind: str = "path") -> None:
    """Raise BadName unless `path` is a plain relative path that stays in its folder."""
    parts = path.split("/")
    if (
        not path
        or len(path) > 1024
        or any(part in ("", ".", "..") for part in parts)
        or any(c in path for c in "\\:")
        or has_control(path)
    ):
        raise BadName(kind, path, "is not a plain relative path")


INDEXES = (".safetensors.index.json", ".bin.index.json")
WEIGHT_FILES = (".safetensors", ".bin", *INDEXES)


def check_asset_path(path: str) -> None:
    """Raise BadName unless a file of that name may lie beside a model's weights."""
    check_path(path, "asset")
    if path.lower().endswith(WEIGHT_FILES):
        raise BadName("asset", path, "would stand for weights")


PICKLES = (".bin", ".pt", ".pth")
MAIN = ("model", "pytorch_model", "diffusion_pytorch_model", "adapter_model")


def check_beside_path(path: str) -> None:
    """Raise BadName unless weights of that name may lie beside a model's own.

    A loader must not take them for the model: so says the name of a file that is in no sub-folder.
    """
    check_path(path, "weight file")
    low, inside = path.lower(), "/" in path
    good = (".safetensors", *PICKLES, *(INDEXES if inside else ()))
    main = not inside and (low.startswith(MAIN) or low.endswith(INDEXES))
    if main or not low.endswith(good) or path.split("/")[-1].startswith("."):
        raise BadName("weight file", path, "cannot lie beside a model's own weights")


def check_shard_name(name: str) -> None:
    """Raise BadName unless a weight file may have that name in a model's folder."""
    _check_weights(name, ".safetensors")


def check_index_name(name: str) -> None:
    """Raise BadName unless an index of weight files may have that name."""
    _check_weights(name, INDEXES[0])


def _check_weights(name: str, suffix: str) -> None:
    check_path(name, "weight file")
    if "/" in name or name.startswith(".") or not name.endswith(suffix):
        raise BadName("weight file", name, f"is not a plain file name that ends in {suffix}")


def check_tensor_name(name: str) -> None:
    """Raise BadName for a tensor name that no safetensors file should hold."""
    long = len(name) > MAX_TENSOR_NAME
    if not name or long or has_control(name) or name == "__metadata__":
        raise BadName(
            "tensor name", name[:MAX_TENSOR_NAME], "is empty, too long or holds a control character"
        )


def stem_of(tier: str, folder: str) -> str:
    """Return the stem of the files of a tier; `folder`: the task's, or the name of a new task."""
    return f"tasks/{folder_of(folder)}/{TIER_FILES[tier]}"


def private_of(folder: str) -> str:
    return f"tasks/{folder_of(folder)}/private"


def adapter_of(folder: str) -> str:
    return f"tasks/{folder_of(folder)}/adapter"


def stems_of(folder: str) -> tuple[str, ...]:
    """Return the stems of a task's own files: the tiers', the private one, the adapter's."""
    tiers = (stem_of(tier, folder) for tier in TIER_FILES)
    return (*tiers, private_of(folder), adapter_of(folder))


def stems_up_to(tier: str | None, folder: str) -> list[str]:
    """Return the stems that a task is rebuilt from beside the base's, up to a tier (None: all)."""
    tiers = list(TIER_FILES)
    tiers = tiers if tier is None else tiers[: tiers.index(tier) + 1]
    own = [private_of(folder), adapter_of(folder)]
    return [*own, MULTITASK, *(stem_of(one, folder) for one in tiers)]


def by_stem(files: Iterable[str]) -> dict[str, list[str]]:
    """Return stem -> the listed files of it, in the order of their numbers, for all at once."""
    found: dict[str, list[str]] = {}
    for path in sorted(files):
        folder, slash, name = path.rpartition("/")
        if name.endswith(".safetensors"):
            stem = name.removesuffix(".safetensors").split("-", 1)[0]
            found.setdefault(f"{folder}{slash}{stem}", []).append(path)
    return found


def of_stem(stem: str, files: Iterable[str]) -> list[str]:
    """Return the listed files of one stem, in the order of their numbers."""
    return sorted(
        path
        for path in files
        if path == f"{stem}.safetensors"
        or (path.startswith(f"{stem}-") and path.endswith(".safetensors"))
    )
