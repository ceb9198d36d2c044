"""An open store, and every model in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskstore import extras
from taskstore.errors import InputError
from taskstore.executors import threads
from taskstore.format import manifest_file
from taskstore.format.names import folder_of
from taskstore.locations.base import PathLike
from taskstore.progress import Callback, silent
from taskstore.public import public
from taskstore.store import summary
from taskstore.store.contents import StoreContents
from taskstore.store.summary import Summary

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from taskstore.devices import Device
    from taskstore.store.verify import VerifyReport

_log = logging.getLogger(__name__)


@public
def open(path: PathLike, *, base: PathLike | None = None) -> Store:
    """Open a store, at a path or an address. `base`: where a base is that it only references.

    Reads the manifest alone. Raises FormatError, NewerVersion or ChecksumMismatch.

    >>> store = taskstore.open("numerals")
    >>> store.tasks
    ['english', 'german', 'roman', 'spanish']
    """
    return Store(path, base)


def opened(store: Store | PathLike) -> Store:
    """Return a store that is open, or open the one at a path."""
    return store if isinstance(store, Store) else open(store)


@public
def unpack(
    store: Store | PathLike,
    task: str | None,
    target: PathLike,
    *,
    tier: str | None = None,
    overwrite: bool = False,
    jobs: int | None = None,
    shard_bytes: int | None = None,
    adapter: bool = False,
    progress: Callback = silent,
) -> Path:
    """Write a task of a store (None: the base) as a Hugging Face folder, every tensor checked.

    `tier` None is the best that the task has. Weight files are those that were packed, byte for
    byte, where the store keeps them; `shard_bytes` cuts them anew. `adapter`: the PEFT adapter that
    the task was, byte for byte, without `tier` and `shard_bytes`. Raises UnknownTask, InputError,
    FormatError, ChecksumMismatch or OutputError; the target then is as it was before.

    >>> taskstore.unpack("numerals", "roman", "rebuilt")
    PosixPath('rebuilt')
    """
    return opened(store).unpack(
        task,
        target,
        tier=tier,
        overwrite=overwrite,
        jobs=jobs,
        shard_bytes=shard_bytes,
        adapter=adapter,
        progress=progress,
    )


class Store(StoreContents):
    """One packed family: a collection of its tasks' names. Thread-safe: every call opens what it
    reads.

    >>> store = taskstore.open("numerals")
    >>> len(store), "roman" in store, list(store)
    (4, True, ['english', 'german', 'roman', 'spanish'])
    """

    def __len__(self) -> int:
        return len(self.manifest.tasks)

    def __contains__(self, task: object) -> bool:
        return task in self.manifest.tasks

    def __iter__(self) -> Iterator[str]:
        return iter(self.tasks)

    def __repr__(self) -> str:
        return f"<taskstore.Store {str(self.where)!r}: {len(self)} task{'s' * (len(self) != 1)}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: a row per task, at its best tier."""
        shown = self.summary()
        sizes = f"{shown.store_bytes / 1e6:,.1f} MB for {shown.original_bytes / 1e6:,.1f} MB"
        rows = [("task", "tier", "fidelity", "score", "bits/parameter")]
        for task in shown.tasks:
            tier, bits = task.tiers[-1] if task.tiers else "-", f"{task.bits_per_parameter:.2f}"
            rows.append((task.name, tier, task.fidelity.words, task.scored(), bits))
        cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
        head = f"<caption>{escape(f'{self.where}: {sizes}')}</caption>"
        return f"<table>{head}{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"

    def summary(self) -> Summary:
        """Return sizes, ratios and densities, from the manifest alone.

        >>> figures = taskstore.open("numerals").summary()
        >>> figures.store_bytes < figures.original_bytes / 3
        True
        """
        return summary.of(self.manifest, manifest_file.bytes_of(self.path, self.manifest))

    @public
    def verify(
        self, *, deep: bool = False, jobs: int | None = None, progress: Callback = silent
    ) -> VerifyReport:
        """Check every file, and with `deep` every tensor; see `taskstore.verify`."""
        from taskstore.store.verify import verify

        return verify(self, deep=deep, jobs=jobs, progress=progress)

    @public
    def tensor(self, task: str | None, name: str, *, tier: str | None = None) -> torch.Tensor:
        """Rebuild one tensor on the CPU, checked; raises InputError for an unknown name."""
        self.warn_approximate(task, tier, 2)
        return self.state_dict(task, names=[name], tier=tier)[name]

    @public
    def state_dict(
        self,
        task: str | None,
        *,
        names: Sequence[str] | None = None,
        tier: str | None = None,
        device: Device = "cpu",
        jobs: int | None = None,
        progress: Callback = silent,
    ) -> dict[str, torch.Tensor]:
        """Rebuild a task's tensors (None: the base's) on a device, all or `names`, checked.

        They have the names that the fine-tune's own files give them.

        `tier` is "mask", "rest" or "exact", None the best that the task has (InputError where it
        does not have it).
        Tensors that share their bytes in the task share their memory here too. Beside what ends
        on the device only blocks are in memory. Warns (ApproximationWarning) once of a task that
        `fidelity` grades C or cannot grade. Raises DeviceError where the device is missing or too
        small.
        """
        extras.need("state_dict", "torch")
        from taskstore.store.to_torch import load

        self.warn_approximate(task, tier, 2)
        executor = threads(jobs)
        with self.open_base(executor) as base, self.reader(task, base, tier) as reader:
            unknown = [name for name in names or () if name not in reader.own_tensors]
            if unknown:
                raise InputError(f"{reader.label} has no tensor {unknown[0]!r}")
            aliases = self._aliases(task)
            wanted = list(reader.own_tensors if names is None else names)
            return load(reader, wanted, aliases, executor, progress, device)

    @public
    def load_model(
        self,
        task: str | None,
        *,
        tier: str | None = None,
        device: Device = "cpu",
        dtype: torch.dtype | str | None = None,
        trust_remote_code: bool = False,
        jobs: int | None = None,
        progress: Callback = silent,
        **options: Any,
    ) -> PreTrainedModel:
        """Load a task (None: the base) as a transformers model, of the class its config names.

        >>> model = taskstore.open("numerals").load_model("roman")
        >>> type(model).__name__, model.name_or_path
        ('LlamaForCausalLM', 'roman')

        The model is what `from_pretrained` makes of the unpacked folder. `dtype` None is "auto":
        the config's, but for modules that transformers keeps in fp32; "stored" keeps every tensor
        in the dtype that it has in the store. `options` go to `from_pretrained`. Only classes of
        transformers itself are built, and no hub is asked; `trust_remote_code` also runs the code
        that lies in the store or that its config names. Raises MissingExtra without transformers,
        InputError where it does not know the class or cannot build it, DeviceError. The model has
        the task's `fidelity` as `taskstore_fidelity` and its name as `name_or_path`; warns as
        `state_dict` does.
        """
        extras.need("load_model", "transformers", "torch")
        from taskstore import devices
        from taskstore.locations.scratch import scratch
        from taskstore.models import live
        from taskstore.store.catalog import label_of

        where = devices.resolve(device)
        self.warn_approximate(task, tier, 2)
        label = label_of(task)
        with scratch(self.path, small=True) as written:
            folder = self.write_assets(task, written)
            trust = trust_remote_code
            cls, config = live.model_class(folder, label, trust_remote_code=trust)
            _log.info("loading %s of %s as %s on %s", label, self.where, cls.__name__, where)
            state = self.state_dict(task, tier=tier, device=where, jobs=jobs, progress=progress)
            name = task or self.manifest.base.name
            model: PreTrainedModel = live.build(
                cls, config, folder, state, where, dtype, options, name, trust_remote_code=trust
            )
        model.taskstore_fidelity = self.fidelity(task, tier)  # type: ignore[assignment]
        return model

    @public
    def load_tokenizer(
        self, task: str | None, *, trust_remote_code: bool = False, **options: Any
    ) -> PreTrainedTokenizerBase:
        """Load the tokenizer of a task (None: of the base), with its chat template.

        >>> tokenizer = taskstore.open("numerals").load_tokenizer("roman", padding_side="left")
        >>> tokenizer.decode(tokenizer("312")["input_ids"])
        '312'

        `options` go to `AutoTokenizer.from_pretrained`. No hub is asked, and code of the store's is
        run with `trust_remote_code` only. Raises MissingExtra without transformers, InputError
        where there is no tokenizer that it knows.
        """
        extras.need("load_tokenizer", "transformers", "torch")
        from taskstore.locations.scratch import scratch
        from taskstore.models import live
        from taskstore.store.catalog import label_of

        with scratch(self.path, small=True) as written:
            folder = self.write_assets(task, written)
            name = task or self.manifest.base.name
            tokenizer: PreTrainedTokenizerBase = live.tokenizer(
                folder, label_of(task), name, options, trust_remote_code=trust_remote_code
            )
        return tokenizer

    def _aliases(self, task: str | None) -> dict[str, str]:
        if task is None:
            return {n: t.alias for n, t in self.manifest.tensors.items() if t.alias}
        model = self.manifest.tasks[task]
        names = (model.names or {}).items()
        own = {s.of[0]: n for n, s in names if len(s.of) == 1 and s.start is None}
        return {own.get(n, n): own.get(e.of, e.of) for n, e in model.tensors.items() if e.of}

    @public
    def unpack(
        self,
        task: str | None,
        target: PathLike,
        *,
        tier: str | None = None,
        overwrite: bool = False,
        jobs: int | None = None,
        shard_bytes: int | None = None,
        adapter: bool = False,
        progress: Callback = silent,
    ) -> Path:
        """Write a task (None: the base) as a Hugging Face folder, or the `adapter` that it was."""
        from taskstore.store.unpack import UnpackOptions, unpack, unpack_adapter

        options = UnpackOptions(tier, overwrite, shard_bytes, threads(jobs))
        if adapter:
            return unpack_adapter(self, task, Path(target), options, progress)
        return unpack(self, {"": task}, Path(target), options, progress)

    @public
    def unpack_all(
        self,
        target: PathLike,
        *,
        tier: str | None = None,
        overwrite: bool = False,
        jobs: int | None = None,
        shard_bytes: int | None = None,
        progress: Callback = silent,
    ) -> Path:
        """Write every task to a folder of its name below `target`."""
        from taskstore.store.unpack import UnpackOptions, unpack

        options = UnpackOptions(tier, overwrite, shard_bytes, threads(jobs))
        models = {folder_of(task): task for task in self.tasks}
        return unpack(self, models, Path(target), options, progress)
