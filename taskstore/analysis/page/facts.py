"""Collects the figures of a page as one plain dict, without markup; `report --json` prints it.

Legend: R = rows of a heat map, T = tasks with masks, C = classes of use (`overlap.classes`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from taskstore.analysis.overlap import Overlap, TensorUse
from taskstore.analysis.overlap.classes import classes, grouped
from taskstore.format.digests import model_digest
from taskstore.format.fidelity import listed
from taskstore.store import Store
from taskstore.store.catalog import rebuilt_tensors
from taskstore.store.summary import Summary, TaskSummary

Facts = dict[str, Any]
KEPT = 0.97  # of the fine-tune's score; less is shown in red


def facts(store: Store, overlap: Overlap) -> Facts:
    """Everything there is to show; parts that a store does not have are None or empty."""
    return {
        **outline(store),
        "masks": _masks(overlap) if overlap.tensors else None,
        "vectors": _vectors(overlap),
        "provenance": _provenance(store, store.summary()),
    }


def outline(store: Store) -> Facts:
    """What the manifest says; nothing is counted."""
    summary = store.summary()
    return {
        "store": store.name,
        "summary": summary.to_dict(),
        "fidelity": {
            t.name: (listed(t.fidelity, t.lower_fidelity), t.scored()) for t in summary.tasks
        },
        "sizes": {"originals": _originals(summary), "store": _parts(summary)},
        "scores": _scores(summary),
        "kept": {task.name: _kept(task) for task in summary.tasks},
        "parents": {name: task.parent for name, task in store.manifest.tasks.items()},
        "digests": _digests(store),
        "changes": _changes(store),
    }


def _originals(s: Summary) -> dict[str, int]:
    tasks = sum(task.original_bytes for task in s.tasks)
    counted = {"base": s.original_bytes - tasks} if s.base_carried else {}
    return {**counted, "fine-tunes": tasks}


def _parts(s: Summary) -> dict[str, int]:
    parts = {
        "base": s.base_bytes,
        "multi-task model": s.multitask_bytes,
        "masks": s.masks_bytes,
        "rest, quantised": s.rest_bytes,
        "exact tensors": s.exact_bytes,
        "private tensors": s.private_bytes,
        "configs, tokenizers": s.assets_bytes,
        "manifest, card": s.other_bytes,
    }
    return {part: size for part, size in parts.items() if size}


def _masks(overlap: Overlap) -> Facts:
    def grouped_by(usage: dict[str, list[int]]) -> dict[str, list[int]]:
        return {name: grouped(counts) for name, counts in usage.items()}

    layers = {t.layer for t in overlap.tensors if t.layer is not None}
    by_layer = _density(overlap, lambda t: "outside" if t.layer is None else f"layer {t.layer}")
    return {
        "tasks": list(overlap.tasks),
        "elements": overlap.elements,
        "live": overlap.live,
        "universal": overlap.universal,
        "density_by_type": _density(overlap, lambda t: t.type),
        "density_by_layer": by_layer if len(layers) > 1 else None,
        "classes": [name for name, _ in classes(len(overlap.tasks))],
        "usage": grouped(overlap.usage),
        "usage_by_kind": grouped_by(overlap.usage_by_kind),
        "usage_by_type": grouped_by(overlap.usage_by(lambda t: t.type)),
        "both": overlap.both,
        "jaccard": overlap.jaccard,
        "contained": overlap.contained,
    }


def _density(overlap: Overlap, key: Callable[[TensorUse], str]) -> Facts:
    """Share of ones (R, T), None where a task has none of a row's tensors; layers in order."""
    groups: dict[str, list[TensorUse]] = {}
    for tensor in sorted(overlap.tensors, key=lambda t: -1 if t.layer is None else t.layer):
        groups.setdefault(key(tensor), []).append(tensor)

    def share(group: list[TensorUse], task: str) -> float | None:
        own = [tensor for tensor in group if task in tensor.ones]
        weights = sum(tensor.elements for tensor in own)
        return sum(tensor.ones[task] for tensor in own) / weights if weights else None

    return {
        "rows": list(groups),
        "values": [[share(group, task) for task in overlap.tasks] for group in groups.values()],
    }


def _vectors(overlap: Overlap) -> Facts | None:
    found = overlap.vectors
    if found is None:
        return None
    return {
        "tasks": list(found.norms),
        "of": dict(found.of),
        "norms": list(found.norms.values()),
        "cosines": found.cosines,
        "share": found.share,
    }


def _scores(s: Summary) -> dict[str, dict[str, dict[str, Any]]]:
    """Evaluation -> task -> what was scored -> score: base, tiers, fine-tune; n: of how many."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for task in s.tasks:
        for label, score in task.scores.items():
            best = task.tiers[-1] if task.tiers else "rebuilt"
            found.setdefault(label, {})[task.name] = {
                "base": score.get("base"),
                **(score.get("lower") or {}),
                best: score["rebuilt"],
                "fine-tune": score.get("original"),
                "n": score.get("n"),
            }
    return dict(sorted(found.items()))


def _kept(task: TaskSummary) -> float | None:
    """The smallest share of the fine-tune's scores, where those are above 0."""
    there = [score for score in task.scores.values() if (score.get("original") or 0) > 0]
    return min((score["rebuilt"] / score["original"] for score in there), default=None)


def _digests(store: Store) -> dict[str, str]:
    """Model -> the digest of its weights, as the store rebuilds them; the base is ""."""
    models = {"": None, **{name: name for name in store.manifest.tasks}}
    return {
        name: model_digest({n: t.blake3 for n, t in rebuilt_tensors(store.manifest, task).items()})
        for name, task in models.items()
    }


def _changes(store: Store) -> list[tuple[str, str, str, str]]:
    """When, what, of which tasks, by which version; empty where the store does not say."""
    found = getattr(store.manifest, "history", None) or []
    return [(one.when, one.what, ", ".join(one.tasks), one.writer) for one in found]


def _provenance(store: Store, s: Summary) -> list[tuple[str, str]]:
    options = "".join(f", {name} {value:g}" for name, value in s.options.items())
    codings = ", ".join(
        f"{codec} ({count} tensor{'s' * (count != 1)})" for codec, count in s.codings.items()
    )
    rows = {
        "base": s.base_name + ("" if s.base_carried else " (referenced, not in the store)"),
        "from": s.base_source,
        "revision": s.base_revision,
        "parameters": f"{s.parameters:,} in {s.tensors:,} tensor{'s' * (s.tensors != 1)}",
        "merged by": s.method and s.method + options,
        "multi-task model coded by": codings,
        "format version": str(store.manifest.version),
        "written by": s.writer,
    }
    return [(name, value) for name, value in rows.items() if value]
