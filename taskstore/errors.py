"""Every exception that taskstore raises for a reason outside its own code.

    TaskstoreError                 one line: what is wrong, with what, and the way out
    ├── InputError                 the models or options that were given
    │   ├── OptionError            an option makes no sense, or does nothing beside the others
    │   │   └── UnknownMethod      no merge method of that name
    │   ├── CheckpointError        a model folder or file cannot be read
    │   ├── NotFinite              NaN or Inf in the difference of a tensor from the base's
    │   ├── NotOneFamily           a fine-tune of another architecture
    │   ├── UnknownTask            no task of that name in the store
    │   ├── StatisticsError        a statistics file is damaged, or another model's
    │   ├── BadExample             a line of a data file that cannot be used
    │   └── BadName                a task, tensor or file name that is not allowed
    ├── FormatError                a store breaks a MUST of format/SPEC.md
    │   ├── NewerVersion           written by a newer taskstore
    │   ├── ChecksumMismatch       bytes on disk or rebuilt bytes are not the recorded ones
    │   └── UnknownCodec           a section uses a codec that this build does not know
    ├── BaseUnavailable            the referenced base is missing or has changed
    ├── DeviceError                a device is missing, or too small for what was asked
    │   └── NotEnoughMemory        computed before anything is moved
    ├── SwapError                  a live model cannot take a task of this store
    │   ├── ModuleMismatch         it has other tensors, shapes or dtypes
    │   ├── UnknownWeights         what is live is neither the base nor a task
    │   └── ModelBusy              it is running; swap when it is not
    ├── ServingFailed              the engine did not start, or died
    ├── EvaluationFailed           an evaluator failed, hung, or gave no score
    ├── TargetNotReached           no bits keep the share of a score that was asked for
    ├── RemoteError                a bucket or repository cannot be used as asked; an OSError too
    ├── MissingExtra               an optional library is not installed
    └── OutputError                the target cannot be written
        └── TargetExists           it is there already and may not be replaced

`assert` is kept for our own mistakes; nothing here is raised for one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence


class ApproximationWarning(UserWarning):
    """A model is no near approximation of its fine-tune, or nobody measured how near it is."""


class TaskstoreError(Exception):
    """Base of all; `str(error)` is one line fit for a terminal."""


class InputError(TaskstoreError):
    """The models or options that were given."""


class OptionError(InputError):
    """An option makes no sense, or does nothing beside the others; the command's status is 2."""


class FileError(InputError):
    """A file or folder that was given cannot be used."""

    def __init__(self, path: object, problem: str) -> None:
        super().__init__(f"{path}: {problem}")


class CheckpointError(FileError):
    """A model folder or file cannot be read."""


class NotFinite(InputError):
    def __init__(self, model: str, tensor: str) -> None:
        super().__init__(
            f"{model}: tensor {tensor!r} holds NaN or Inf where the base has other weights, so "
            'their difference is not finite; leave the model out, or keep it with tiers="exact"'
        )


class Overflows(NotFinite):
    def __init__(self, tensor: str, dtype: str) -> None:
        InputError.__init__(
            self,
            f"tensor {tensor!r} overflows {dtype} when it is merged; take a smaller `alpha` or "
            "another `dtype`",
        )


class NotOneFamily(InputError):
    def __init__(self, model: str, base: str, differences: Iterable[str]) -> None:
        super().__init__(
            f"{model} is not a fine-tune of {base}: {'; '.join(differences)}; "
            "take only fine-tunes of one base"
        )


class UnknownTask(InputError):
    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = list(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}"
        super().__init__(f"no task {name!r} in this store; {hint}")


class UnknownMethod(OptionError):
    def __init__(self, name: str, near: Iterable[str], known: Iterable[str]) -> None:
        names = " or ".join(repr(other) for other in near)
        hint = f"did you mean {names}?" if names else f"there are {', '.join(known)}"
        super().__init__(f"no merge method {name!r}; {hint}; `taskstore methods` describes them")


class StatisticsError(FileError):
    """A statistics file cannot be used for a model."""


class BadExample(InputError):
    """`line` counts from 1."""

    def __init__(self, path: object, line: int, problem: str) -> None:
        super().__init__(f"{path}, line {line}: {problem}")


class BadName(InputError):
    def __init__(self, kind: str, name: str, problem: str) -> None:
        shown = name if len(name) <= 200 else f"{name[:200]}..."
        super().__init__(f"{kind} {shown!r} {problem}")


class FormatError(TaskstoreError):
    """A store breaks a MUST of format/SPEC.md."""


class NewerVersion(FormatError):
    def __init__(self, found: int, known: int) -> None:
        super().__init__(
            f"the store has format version {found}, this taskstore reads up to {known}; "
            "upgrade taskstore"
        )


class ChecksumMismatch(FormatError):
    """`sources`: the files that it is made from, where `what` is no file itself."""

    def __init__(self, what: str, recorded: str, found: str, sources: Sequence[str] = ()) -> None:
        *others, last = sources or ["it"]
        restored = f"{', '.join(others)} or {last}" if others else last
        super().__init__(
            f"{what} is damaged: BLAKE3 {found[:16]}... where the manifest records "
            f"{recorded[:16]}...; restore {restored} from a good copy"
        )


class UnknownCodec(FormatError):
    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown codec {name!r}; this build knows {', '.join(sorted(known))}")


class BaseUnavailable(TaskstoreError):
    def __init__(self, base: str, problem: str) -> None:
        super().__init__(
            f"the store only references its base {base}: {problem}; "
            "name the right folder with base=FOLDER"
        )


class DeviceError(TaskstoreError):
    """A device is missing, or too small for what was asked."""


class NotEnoughMemory(DeviceError):
    """`parts` is what would be put where, name -> bytes; all of it is the sum that does not fit."""

    def __init__(self, where: str, parts: Mapping[str, int], free: int, way_out: str) -> None:
        listed = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items() if size)
        super().__init__(
            f"not enough memory on {where}: {sum(parts.values()) / 1e9:.2f} GB wanted ({listed}), "
            f"{free / 1e9:.2f} GB free; {way_out}"
        )


class SwapError(TaskstoreError):
    """A live model cannot take a task of this store."""


class ModuleMismatch(SwapError):
    def __init__(self, model: str, differences: Sequence[str], way_out: str = "") -> None:
        named = "; ".join(differences[:3])
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        super().__init__(f"the module cannot hold {model}: {named}{more}{way_out}")


class UnknownWeights(SwapError):
    def __init__(self, problem: str) -> None:
        super().__init__(f"the live weights are none of this store's: {problem}")


class ModelBusy(SwapError):
    """The model is running in another thread, or this very thread is inside it."""


class ServingFailed(TaskstoreError):
    """The engine did not start, or died."""


class EvaluationFailed(TaskstoreError):
    """`task` may be "", for an evaluator that knows none; `output` is the end of what it wrote."""

    def __init__(self, task: str, problem: str, output: str, model: str = "") -> None:
        self.task, self.problem, self.output = task, problem, output[-2000:].strip()
        parts = [f"task {task!r}"] if task else []
        parts += [repr(model)] if model else []
        what = f" of {' with '.join(parts)}" if parts else ""
        said = f"; it wrote: {self.output}" if self.output else ""
        super().__init__(f"the evaluation{what} {problem}{said}")

    def of(self, model: str) -> EvaluationFailed:
        """The same, and which model it was."""
        return EvaluationFailed(self.task, self.problem, self.output, model)


class TargetNotReached(TaskstoreError):
    """No number of bits keeps the share of a fine-tune's score that was asked for."""

    def __init__(self, share: float, best: Mapping[str, tuple[float, float]]) -> None:
        found = ", ".join(
            f"{task!r} keeps {kept:.1%} at {bits:g} bits" for task, (kept, bits) in best.items()
        )
        super().__init__(
            f"no combination keeps {share:.1%} of every score; the best that was found: {found}; "
            "nothing was written: ask for less, take it with anyway=True, or keep them with "
            'tiers="exact"'
        )
        self.best = dict(best)


class MissingExtra(TaskstoreError):
    """An optional library is not installed; the message ends with the line that installs it."""


class RemoteError(TaskstoreError, OSError):
    """A bucket, or a repository, cannot be used as asked: no right, no such place, no answer."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.strerror = problem


class OutputError(TaskstoreError):
    """The target cannot be written."""


class ChangedMeanwhile(OutputError):
    """A file is no longer what was read before."""


class TargetExists(OutputError):
    def __init__(self, path: object) -> None:
        super().__init__(f"{path} exists already; give another path or overwrite=True")
