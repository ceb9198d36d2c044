"""Overlaps that no store has to be packed for."""

from __future__ import annotations

from taskstore.analysis.overlap import Angles, Overlap, TensorUse


def wide(tasks: int, types: int, layers: int) -> Overlap:
    """Many tasks and many layers, made up."""
    names = [f"a task with a name that goes on and on {i}" for i in range(tasks)]
    usage = [1] * (tasks + 1)
    tensors = [
        TensorUse(f"layers.{i}.part{j}", i, f"part{j}", "mlp", 100, tasks + 1,
                  dict.fromkeys(names, j % 100), usage)
        for i in range(layers) for j in range(types)
    ]  # fmt: skip
    square = [[i + j for j in range(tasks)] for i in range(tasks)]
    cosines = [[1 - abs(i - j) / 20 for j in range(tasks)] for i in range(tasks)]
    vectors = Angles(dict.fromkeys(names, "fine-tune"), dict.fromkeys(names, 1.0), cosines, 1)
    return Overlap(names, tensors, square, square, vectors)
