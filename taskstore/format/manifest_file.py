"""Read the manifest of a store's folder."""

from __future__ import annotations

from pathlib import Path

from taskstore.errors import FormatError
from taskstore.format.manifest import MAX_BYTES, Manifest, from_bytes
from taskstore.format.names import MANIFEST, WEIGHT_FILES
from taskstore.locations.files import read_regular


def _way_out(path: Path) -> str:
    """Say what to do with a model."""
    model = path.name.endswith(WEIGHT_FILES) or any(path.glob("*config.json"))
    return (
        "; it is a model: make a store with `taskstore pack BASE MODEL... -o STORE`"
        if model
        else ""
    )


def read(folder: Path) -> Manifest:
    """Read the manifest of a store folder; checks its size and its checksum."""
    path = folder / MANIFEST
    try:
        raw = read_regular(path, MAX_BYTES, folder)
    except FileNotFoundError:
        what = "there is no such folder" if not folder.exists() else f"it holds no {MANIFEST}"
        raise FormatError(f"{folder} is not a taskstore store: {what}{_way_out(folder)}") from None
    except NotADirectoryError:
        what = f"it is not a folder{_way_out(folder)}"
        raise FormatError(f"{folder} is not a taskstore store: {what}") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read as a manifest: {error.strerror}") from None
    return from_bytes(raw)
