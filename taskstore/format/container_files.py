"""Read and write the containers of one kind, split over files where they would be too large."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from taskstore.errors import FormatError
from taskstore.format.container import ContainerReader, ContainerWriter
from taskstore.format.manifest import File
from taskstore.format.names import of_stem
from taskstore.format.section import Layout, SectionReader, SectionWriter
from taskstore.locations.base import Location


def shard_names(stem: str, count: int) -> list[str]:
    """Name files: `stem.safetensors`, or the numbered names that Hugging Face uses."""
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]


def split(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Cut names, in order, so that no shard exceeds `limit` unless it holds a single tensor."""
    shards: list[list[str]] = []
    total = 0
    for name, size in sizes.items():
        if not shards or total + size > limit:
            shards.append([])
            total = 0
        shards[-1].append(name)
        total += size
    return shards


class ShardedWriter:
    """Writes sections in the order of `layouts`; files appear as they are needed."""

    def __init__(self, root: Path, stem: str, layouts: Mapping[str, Layout], limit: int) -> None:
        self._root, self._layouts = root, layouts
        bounds = {name: layout.bound for name, layout in layouts.items()}
        self._shards = split(bounds, limit)
        self.paths = shard_names(stem, len(self._shards)) if self._shards else []
        self._shard_of = {n: i for i, names in enumerate(self._shards) for n in names}
        self._open: ContainerWriter | None = None
        self._current = -1
        self._bounds = bounds

    def section(self, name: str) -> SectionWriter:
        """Start the next section; the one before must be finished."""
        index = self._shard_of[name]
        if index != self._current:
            self._close()
            names = self._shards[index]
            path = self._root / self.paths[index]
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open = ContainerWriter(path, names, sum(self._bounds[n] for n in names))
            self._current = index
        assert self._open is not None
        return SectionWriter(self._open, name, self._layouts[name])

    def _close(self) -> None:
        if self._open is not None:
            self._open.finish()
            self._open = None

    def finish(self) -> None:
        self._close()

    def abort(self) -> None:
        if self._open is not None:
            self._open.close()

    def restart(self) -> None:
        """Remove what is written, and begin at the first section again."""
        self.abort()
        for path in self.paths:
            (self._root / path).unlink(missing_ok=True)
        self._open, self._current = None, -1


class ShardedReader:
    """Reads sections of one kind, whichever file they stand in; checks files as it opens them."""

    def __init__(
        self,
        location: Location,
        stem: str,
        files: Mapping[str, File],
        layouts: Mapping[str, Layout],
    ) -> None:
        """Raises FormatError unless the files hold the sections of `layouts`, each once."""
        self.paths = of_stem(stem, files)
        self._layouts = layouts
        self._containers: list[ContainerReader] = []
        self._places: dict[str, ContainerReader] = {}
        try:
            for path in self.paths:
                self._add(ContainerReader(location, path, files[path].bytes))
            missing = set(layouts) - set(self._places)
            if missing:
                raise FormatError(f"{stem}*.safetensors lacks section {min(missing)!r}")
        except BaseException:
            self.close()
            raise

    def _add(self, container: ContainerReader) -> None:
        self._containers.append(container)
        for name in container.entries:
            if name not in self._layouts:
                raise FormatError(f"{container.label} holds {name!r}, which does not belong there")
            if name in self._places:
                raise FormatError(
                    f"{container.label} repeats {name!r} of {self._places[name].label}"
                )
            self._places[name] = container

    def section(self, name: str) -> SectionReader:
        return SectionReader(self._places[name], name, self._layouts[name])

    def holds(self, name: str) -> bool:
        return name in self._places

    def path(self, name: str) -> str:
        """Return the file that a section is in."""
        return self._places[name].label

    def close(self) -> None:
        while self._containers:
            self._containers.pop().close()
