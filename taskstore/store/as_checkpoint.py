"""Open a model of a store as a checkpoint, so that it can be packed or merged again."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.executors import Executor, threads
from taskstore.format.digests import model_digest
from taskstore.format.dtypes import ITEMSIZE
from taskstore.locations.remote.mirror import address_of
from taskstore.locations.scratch import scratch
from taskstore.models import Checkpoint, TensorInfo
from taskstore.models.family import Family
from taskstore.models.spelling import padded
from taskstore.store import original_files
from taskstore.store.assets import write_weights_beside
from taskstore.store.base import BaseSource, ReferencedBase
from taskstore.store.proof import Proof
from taskstore.store.rebuild import ModelReader
from taskstore.store.store import Store

Bits = NDArray[Any]


class StoredReader:
    """Decodes what is asked for, chunk by chunk; each thread keeps the last chunk that it had.

    Every chunk goes into its tensor's checksum too.
    """

    def __init__(self, model: ModelReader, executor: Executor) -> None:
        self._model, self._executor = model, executor
        self._proof = Proof(model, 2 * executor.jobs + 1)
        self.recorded = model.tensors
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(t.dtype, t.shape) for name, t in model.tensors.items()
        }
        self._local = threading.local()

    def read(self, name: str, start: int, stop: int) -> Bits:
        pieces = [bits for _, bits in self._pieces(name, start, stop)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [self._empty(name)])

    def read_into(self, name: str, start: int, out: Bits) -> None:
        for at, bits in self._pieces(name, start, start + out.size):
            out[at - start : at - start + bits.size] = bits

    def _empty(self, name: str) -> Bits:
        return np.empty(0, f"<u{ITEMSIZE[self.tensors[name].dtype]}")

    def _pieces(self, name: str, start: int, stop: int) -> Iterator[tuple[int, Bits]]:
        """Yield (first element, bits) for every chunk that [start, stop) touches."""
        position = 0
        for k, size in enumerate(self._sizes(name)):
            begin, end = max(start, position), min(stop, position + size)
            if begin < end:
                bits = self._decoded(name, k)
                yield begin, bits[begin - position : end - position]
            position += size
            if position >= stop:
                return

    def _sizes(self, name: str) -> list[int]:
        """Count the elements of every chunk of a tensor."""
        if getattr(self._local, "name", None) != name:
            self._local.name, self._local.k = name, -1
            self._local.sizes = self._model.chunk_sizes(name)
        found: list[int] = self._local.sizes
        return found

    def _decoded(self, name: str, k: int) -> Bits:
        if self._local.k != k:
            bits = self._model.chunk(name, k)
            self._proof.add(name, k, bits)
            self._local.k, self._local.bits = k, bits
        found: Bits = self._local.bits
        return found

    def prove(self) -> None:
        """Raise ChecksumMismatch unless every tensor that was read is the recorded one."""
        self._proof.finish(self._executor)

    def close(self) -> None:
        self._model.close()


@contextmanager
def open_family(
    store: Store, tasks: list[str], executor: Executor, target: Path | None = None
) -> Iterator[Family]:
    """Open the base and some tasks of a store, as if their folders were there.

    What is read of them is trusted once `Family.prove` has returned. Their configs and tokenizers
    are written beside `target`; None: where temporary files go.
    """
    with ExitStack() as stack:
        here = target if target is not None and address_of(target) is None else None
        folder = stack.enter_context(scratch(here or store.path, small=here is None))
        source = stack.enter_context(store.open_base(executor))
        store.have(store.files_of(None, *tasks))

        def opened(task: str | None, folder: Path) -> Checkpoint:
            return stack.enter_context(closing(_model(store, task, source, folder, executor)))

        models = [opened(task, folder / str(i)) for i, task in enumerate(tasks)]
        if isinstance(source, ReferencedBase):
            base = source.checkpoint
        else:
            base = opened(None, folder / "base")
        again = opened_again, (open_family, store, tasks)
        yield Family(base, tuple(padded(base, model) for model in models), again=again)


def opened_again(
    opens: Callable[..., AbstractContextManager[Family]], store: Store, *more: Any
) -> Family:
    """Open a family of a store in another process, which keeps it open while it has it."""
    stack = ExitStack()
    family = stack.enter_context(opens(store, *more, threads(1)))
    weakref.finalize(family, stack.close)
    return family


def _model(
    store: Store, task: str | None, base: BaseSource, folder: Path, executor: Executor
) -> Checkpoint:
    """Open a task, or the carried base (None); write its other files to `folder`."""
    manifest = store.manifest
    recorded = manifest.base if task is None else manifest.tasks[task]
    reader = StoredReader(ModelReader(store.location, manifest, task, base), executor)
    return Checkpoint(
        task or manifest.base.name,
        Path(manifest.base.name if task is None else manifest.tasks[task].origin or task),
        reader,
        _assets(store, task, folder),
        (),
        recorded.original_bytes,
        recorded.source,
        recorded.revision,
        original_files.stored(store.path, manifest, task),
        reader.prove,
        (manifest.tasks[task].names or {}) if task is not None else {},
        beside=_beside(store, task, folder.with_name(f"{folder.name}-weights")),
        left_out=tuple(recorded.left_out or ()),
        digest=model_digest({name: t.blake3 for name, t in reader.recorded.items()}),
    )


def _beside(store: Store, task: str | None, folder: Path) -> dict[str, Path]:
    written = write_weights_beside(store.path, store.manifest, task, {}, folder)
    return {path.relative_to(folder).as_posix(): path for path in written}


def _assets(store: Store, task: str | None, folder: Path) -> dict[str, Path]:
    folder = store.write_assets(task, folder).resolve()
    return {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
