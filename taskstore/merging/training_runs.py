"""Replace training runs by their checkpoints, for the methods that average a run."""

from __future__ import annotations

from collections.abc import Mapping

from taskstore.errors import InputError
from taskstore.locations.base import PathLike
from taskstore.models import training_runs

METHODS = ("average", "lawa", "swa", "warm")


def spread(
    models: Mapping[str, PathLike], method: str, last: int | None = None
) -> tuple[dict[str, PathLike], dict[str, str]]:
    """(models, notes): each run is replaced by its checkpoints, or by the `last` of them.

    Checkpoints are named after their folders, with their run's name in front if that is not unique.
    Raises InputError for a run that `method` does not average.
    """
    found = {name: run for name, model in models.items() if (run := training_runs.expand(model))}
    chosen: dict[str, PathLike] = {n: model for n, model in models.items() if n not in found}
    notes: dict[str, str] = {}
    for name, run in found.items():
        if method not in METHODS:
            newest = list(run.checkpoints)[-1]
            raise InputError(
                f"{models[name]} is a training run, which {method!r} does not merge; name one "
                f"checkpoint ({newest}), or average them by {', '.join(METHODS)}"
            )
        if last is not None and len(models) > 1:
            raise InputError(
                f"{models[name]} is a training run and {len(models)} models are given; {method!r} "
                "takes the last checkpoints of one run, so give it alone"
            )
        taken = list(run.checkpoints.items())[-(last or 0) :]
        if last is not None and len(taken) < last:
            notes[name] = f"has {len(taken)} checkpoints, not the last {last}; all are merged"
        elif len(taken) < len(run.checkpoints):
            notes[name] = f"the last {len(taken)} of {len(run.checkpoints)} checkpoints are merged"
        for folder in run.skipped:
            notes[f"{name}/{folder}"] = "left out: its name does not end in a step"
        prefix = "" if len(found) == 1 and chosen.keys().isdisjoint(run.checkpoints) else f"{name}-"
        chosen |= {prefix + checkpoint: path for checkpoint, path in taken}
    return chosen, notes
