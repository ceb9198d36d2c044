"""Write the files beside a family's models, and the headers of weight files that are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import zstandard
from blake3 import blake3

from taskstore.errors import CheckpointError
from taskstore.executors import Executor
from taskstore.format.manifest import MAX_ASSET, Asset
from taskstore.format.members import Shard
from taskstore.locations.files import read_plain
from taskstore.models import Originals, WeightFile

LEVEL, OF_WEIGHTS = 12, 1  # of zstd


class AssetWriter:
    """Writes each content once. `known`: BLAKE3 of its bytes -> how it is stored."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.known: dict[str, Asset] = {}

    def beside(self, files: Mapping[str, Path], level: int = LEVEL) -> dict[str, str]:
        """Store files beside a model's weights; path inside its folder -> hash."""
        stored = {}
        for inside, path in sorted(files.items()):
            try:
                raw = read_plain(path, MAX_ASSET)
            except OSError as error:
                raise CheckpointError(path, f"cannot be read: {error.strerror}") from None
            stored[inside] = self._put(raw, level)
        return stored

    def shards(
        self, model: Originals, executor: Executor, report: Callable[[str, int], None]
    ) -> dict[str, Shard]:
        """Store the headers of a model's weight files; reads the files for their checksums."""
        shards = {}
        digests = executor.map(_digest, model.files, range(len(model.files)))
        for file, digest in zip(model.files, digests, strict=True):
            shards[file.name] = Shard(header=self._put(file.head()), bytes=file.size, blake3=digest)
            report(file.name, file.size)
        return shards

    def index(self, model: Originals) -> dict[str, str] | None:
        """Store a model's index; its name -> hash, None where there is none."""
        return {name: self._put(read()) for name, read in model.index.items()} or None

    def _put(self, raw: bytes, level: int = LEVEL) -> str:
        """Store a content unless it is there; return its hash."""
        digest = blake3(raw).hexdigest()
        if digest not in self.known:
            frame = zstandard.ZstdCompressor(level=level).compress(raw)
            smaller = len(frame) < len(raw)
            self.known[digest] = Asset(bytes=len(raw), stored="zstd" if smaller else "raw")
            target = self._root / "assets" / digest
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(frame if smaller else raw)
        return digest


def _digest(files: Sequence[WeightFile], i: int) -> str:
    return files[i].digest()
