"""Sum up a store in figures: one source for `pack`, `info` and the model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from taskstore.format import fidelity, names
from taskstore.format.dtypes import MASKED, nbytes, numel, vector_bytes
from taskstore.format.fidelity import Fidelity
from taskstore.format.manifest import TIERS, Manifest, Task
from taskstore.format.names import by_stem
from taskstore.format.rules.own_names import layout

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class PrivateTensor:
    """A tensor, or the rows past the base's, that one task keeps for itself."""

    name: str
    shape: list[int]
    dtype: str
    reason: str


@dataclass(frozen=True)
class TaskSummary:
    """`density` is the share of masked weights that the task takes from the multi-task model."""

    name: str
    fidelity: Fidelity  # at the best tier
    lower_fidelity: dict[str, Fidelity]  # by tier, of those below it
    lam: float | None  # the mask's threshold, "lambda" in JSON; None: no mask, or not known
    density: float
    tiers: list[str]
    parent: str | None  # the task that it is coded against; None: the base
    masks_bytes: int
    rest_bytes: int
    exact_bytes: int
    private_bytes: int
    bits_per_parameter: float  # of its own files, per float parameter of the task
    original_bytes: int
    origin: str
    source: str | None
    revision: str | None
    scores: dict[str, dict[str, Any]]  # evaluation -> the members of a manifest's Score
    private: list[PrivateTensor]
    absent: list[str]  # tensors of the base that the task does not have
    left_out: list[str]  # weights of its folder that an archive does not have

    @property
    def threshold(self) -> str:
        """Say the mask's lambda, "-" where there is none."""
        return "-" if self.lam is None else f"{self.lam:g}"

    def scored(self, tier: str | None = None) -> str:
        """Say which scores of a tier (None: of the best) are recorded."""
        best = tier in (None, *self.tiers[-1:])
        found = {
            label: s["rebuilt"] if best else (s.get("lower") or {}).get(tier)
            for label, s in self.scores.items()
        }
        parts = [
            f"{label} {x:.4g}" + (f" (n {n})" if (n := self.scores[label].get("n")) else "")
            for label, x in found.items()
            if x is not None
        ]
        return "; ".join(parts) or NOT_MEASURED


@dataclass(frozen=True)
class TierSummary:
    """A tier: its files, and what a live model that swaps among the tasks that have it needs.

    bytes           its own files; those of masks with the multi-task model
    serving_bytes   beside the live weights, with those tasks attached (taskstore.attach), about
    """

    name: str
    bytes: int
    own_bits_per_parameter_and_task: float
    serving_bytes: int


@dataclass(frozen=True)
class Summary:
    """Sizes in bytes; ratios are originals over store."""

    parameters: int  # float weights of the base, tied ones once
    base_name: str
    base_carried: bool
    base_source: str | None
    base_revision: str | None
    method: str | None  # of the multi-task model; None without one
    options: dict[str, float]  # of the method
    writer: str
    tensors: int
    base_bytes: int
    multitask_bytes: int
    masks_bytes: int
    rest_bytes: int
    exact_bytes: int
    private_bytes: int
    assets_bytes: int
    other_bytes: int  # manifest and card
    store_bytes: int
    original_bytes: int  # base and tasks
    unpacked_bytes: int  # of all models that can be rebuilt, with the files beside their weights
    ratio: float
    ratio_without_base: float
    bits_per_parameter: float  # the whole store
    bits_per_parameter_and_task: float  # everything but the base, per task
    codings: dict[str, int]  # codec of W1 -> tensors
    tiers: list[TierSummary]
    tasks: list[TaskSummary]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self, dict_factory=_as_json)

    @property
    def is_smaller(self) -> bool:
        """Tell whether the store is smaller than what it was made of."""
        return self.ratio > 1


def of(manifest: Manifest, manifest_bytes: int) -> Summary:
    """Sum up a store, from its manifest alone."""
    files = manifest.files
    listed = by_stem(files)
    parts = {s: sum(files[p].bytes for p in listed.get(s, ())) for s in _stems(manifest)}
    assets = sum(f.bytes for path, f in files.items() if path.startswith("assets/"))
    total = sum(f.bytes for f in files.values()) + manifest_bytes
    parameters = sum(
        numel(t.shape) for t in manifest.tensors.values() if t.dtype in MASKED and t.alias is None
    )
    tasks = [_task(manifest, name, parts) for name in manifest.tasks]
    masks, private = (sum(t.masks_bytes for t in tasks), sum(t.private_bytes for t in tasks))
    rest, exact = sum(t.rest_bytes for t in tasks), sum(t.exact_bytes for t in tasks)
    base, multitask = parts[names.BASE], parts[names.MULTITASK]
    task_originals = sum(t.original_bytes for t in tasks)
    originals = task_originals + manifest.base.original_bytes
    base_counted = originals if manifest.base.carried else task_originals
    merged = any("mask" in task.tiers for task in tasks)
    codings: dict[str, int] = {}
    for tensor in manifest.tensors.values():
        if tensor.multitask:
            codings[tensor.multitask] = codings.get(tensor.multitask, 0) + 1
    return Summary(
        parameters=parameters,
        base_name=manifest.base.name,
        base_carried=manifest.base.carried,
        base_source=manifest.base.source,
        base_revision=manifest.base.revision,
        method=manifest.merge.method if merged else None,
        options=manifest.merge.options if merged else {},
        writer=manifest.writer,
        tensors=len(manifest.tensors),
        base_bytes=base,
        multitask_bytes=multitask,
        masks_bytes=masks,
        rest_bytes=rest,
        exact_bytes=exact,
        private_bytes=private,
        assets_bytes=assets,
        other_bytes=total - base - multitask - masks - rest - exact - private - assets,
        store_bytes=total,
        original_bytes=base_counted,
        unpacked_bytes=unpacked_bytes(manifest),
        ratio=base_counted / total,
        ratio_without_base=task_originals / (total - base),
        bits_per_parameter=8 * total / max(1, parameters),
        bits_per_parameter_and_task=8 * (total - base) / max(1, parameters) / len(tasks),
        codings=codings,
        tiers=_tiers(manifest, (multitask + masks, rest, exact), parameters),
        tasks=tasks,
    )


def _as_json(fields: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    return {"lambda" if name == "lam" else name: value for name, value in fields}


def unpacked_bytes(manifest: Manifest) -> int:
    """Return what all models take when they are unpacked."""
    models = [None, *manifest.tasks] if manifest.base.carried else list(manifest.tasks)
    return sum(model_bytes(manifest, model) + assets_bytes(manifest, model) for model in models)


def model_bytes(manifest: Manifest, task: str | None) -> int:
    """Return the bytes of a model's tensors; `task` None is the base."""
    if task is None:
        return sum(nbytes(t.dtype, t.shape) for t in manifest.tensors.values())
    found = manifest.tasks[task]  # its own names and cuts hold the same elements
    return sum(nbytes(*layout(manifest, found, name)) for name in found.tensors)


def assets_bytes(manifest: Manifest, task: str | None) -> int:
    """Return the bytes of the files beside a model's weights."""
    model = manifest.base if task is None else manifest.tasks[task]
    return sum(manifest.assets[digest].bytes for digest in model.assets.values())


def _tiers(manifest: Manifest, bytes_: Sequence[int], parameters: int) -> list[TierSummary]:
    sizes = dict(zip(TIERS, bytes_, strict=True))
    tasks = manifest.tasks.values()
    having = {tier: [task for task in tasks if tier in task.all_tiers] for tier in TIERS}
    shared = {n for task in tasks for n in task.tensors if task.tiers_of(n)}
    base = {n: manifest.tensors[n] for n in shared}
    weights = sum(numel(t.shape) for t in base.values())
    held = sum(nbytes(t.dtype, t.shape) for t in base.values())
    masks = held + len(having["mask"]) * weights // 8
    rests = having["rest"]
    vectors = sum(vector_bytes(task.bits or 0, t.shape) for task in rests for t in base.values())
    serving = {
        "mask": masks,
        "rest": held + vectors + (masks if having["mask"] else 0),
        "exact": held * (len(having["exact"]) + 1),
    }
    return [
        TierSummary(
            name,
            sizes[name],
            8 * sizes[name] / max(1, parameters) / len(owners),
            serving[name],
        )
        for name, owners in having.items()
        if owners
    ]


def _stems(manifest: Manifest) -> list[str]:
    own = [stem for name in manifest.tasks for stem in names.stems_of(manifest.folder(name))]
    return [names.BASE, names.MULTITASK, *own]


def _parameters(manifest: Manifest, task: Task) -> int:
    """Count the float weights of a task, tied ones once; all elements where it has none."""
    own = [layout(manifest, task, n) for n, e in task.tensors.items() if e.kind != "alias"]
    floats = [shape for dtype, shape in own if dtype in MASKED]
    return sum(map(numel, floats or (shape for _, shape in own)))


def _task(manifest: Manifest, name: str, parts: dict[str, int]) -> TaskSummary:
    task = manifest.tasks[name]
    shared = {n: e for n, e in task.tensors.items() if e.kind in TIERS}
    weights = sum(numel(manifest.tensors[n].shape) for n in shared)
    masked = [e.ones or 0 for e in shared.values() if e.kind == "mask"]
    private = [
        PrivateTensor(n, e.shape or [], e.dtype or "", e.reason or "")
        for n, e in task.tensors.items()
        if e.kind == "private"
    ]
    for n, e in shared.items():
        base = manifest.tensors[n]
        if e.shape is not None and numel(e.shape) > numel(base.shape):
            rows = [e.shape[0] - base.shape[0], *e.shape[1:]]
            reason = f"rows past the base's {base.shape[0]}"
            private.append(PrivateTensor(n, rows, e.dtype or base.dtype, reason))
    sizes = [parts[stem] for stem in names.stems_of(manifest.folder(name))]
    known = "mask" in task.all_tiers and (task.lam or not manifest.merge.options.get("imported"))
    return TaskSummary(
        name=name,
        fidelity=fidelity.of_task(task),
        lower_fidelity={t: fidelity.of_task(task, t) for t in task.all_tiers[:-1]},
        lam=task.lam if known else None,
        density=sum(masked) / max(1, weights),
        tiers=list(task.all_tiers),
        parent=task.parent,
        masks_bytes=sizes[0],
        rest_bytes=sizes[1],
        exact_bytes=sizes[2] + sizes[4],
        private_bytes=sizes[3],
        bits_per_parameter=8 * sum(sizes) / max(1, _parameters(manifest, task)),
        original_bytes=task.original_bytes,
        origin=task.origin,
        source=task.source,
        revision=task.revision,
        scores={label: msgspec.to_builtins(s) for label, s in (task.scores or {}).items()},
        private=sorted(private, key=lambda p: p.name),
        absent=sorted(set(manifest.tensors) - set(task.tensors)),
        left_out=list(task.left_out or ()),
    )
