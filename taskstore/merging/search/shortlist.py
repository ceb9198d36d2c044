"""Methods that make sense for some models, by what one pass over their weights shows.

    one fine-tune                                       linear
    mean cosine of the task vectors of 0.4 or more      average, model_stock, ties
    else                                                sum, ties
        four tasks or more                              consensus+ties
        matrices have 60 % of the weights or more       tsv, wudi
        vectors under 3 % of the base's length          dare+sum
        longer ones                                     localize_and_stitch
    statistics of every fine-tune                       regmean, fisher, gradient, as they serve

Vectors of fine-tunes for one task point the same way, and averaging takes the noise off; those of
different tasks are nearly orthogonal, and what disturbs must go. Dropping values at random wants
short vectors; of long ones the few largest values say most. The rules are ours; the methods' own
papers and the table of what is kept (docs/methods.md) stand behind them.

Legend: T = tasks, S = tasks that have a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from taskstore.errors import InputError
from taskstore.merging import similarity
from taskstore.merging.job import VectorScan, make_job
from taskstore.merging.methods import MERGES
from taskstore.merging.methods.api import Vectors
from taskstore.merging.methods.lines import depths
from taskstore.merging.options import MergeOptions
from taskstore.merging.search.origins import Origin
from taskstore.progress import Callback, silent
from taskstore.statistics import Statistics

SAME, HEAVY, MATRICES, MANY = 0.4, 0.03, 0.6, 4
MEASURED = ("regmean", "fisher", "gradient")


@dataclass(frozen=True)
class Facts:
    """What the choice hangs on.

    cosine     mean over the pairs of task vectors; 0 for one
    length     median of |tau_t| / |theta_0|
    matrices   share of the weights that are in matrices
    blocks     whether tensors are of numbered blocks
    measured   kinds of statistics that are there of every fine-tune
    """

    tasks: int
    cosine: float
    length: float
    matrices: float
    blocks: bool
    measured: frozenset[str] = frozenset()

    def __str__(self) -> str:
        tasks = f"{self.tasks} fine-tune{'' if self.tasks == 1 else 's'}"
        alike = f", mean cosine {self.cosine:.2f}" if self.tasks > 1 else ""
        return (
            f"{tasks}{alike}, task vectors {self.length:.1%} of the base's length, "
            f"{self.matrices:.0%} of the weights in matrices"
        )


def shortlist(facts: Facts) -> dict[str, str]:
    """Method -> why it is tried, the plain ones first."""
    if facts.tasks == 1:
        found = {"linear": "one fine-tune: the path from the base to it"}
    elif facts.cosine >= SAME:
        alike = f"the task vectors point the same way (mean cosine {facts.cosine:.2f})"
        found = dict.fromkeys(("average", "model_stock", "ties"), alike)
    else:
        found = dict.fromkeys(("sum", "ties"), "different tasks")
        if facts.tasks >= MANY:
            found["consensus+ties"] = f"{facts.tasks} tasks: weights that one alone uses may go"
        if facts.matrices >= MATRICES:
            why = f"matrices have {facts.matrices:.0%} of the weights"
            found |= dict.fromkeys(("tsv", "wudi"), why)
        word = "long" if facts.length >= HEAVY else "short"
        length = f"{word} task vectors ({facts.length:.1%} of the base's length)"
        found["localize_and_stitch" if facts.length >= HEAVY else "dare+sum"] = length
    for method in MEASURED:
        kinds = MERGES[method].INFO.statistics
        if facts.tasks > 1 and facts.measured.issuperset(kinds):
            found[method] = f"statistics of every fine-tune ({', '.join(kinds)})"
    return found


def measure(
    origin: Origin,
    target: Path,
    options: MergeOptions,
    progress: Callback = silent,
) -> Facts:
    """Go over the weights once; raises InputError for models that cannot be merged."""
    plain = MergeOptions("sum", unrelated=options.unrelated, jobs=options.jobs)
    with (
        origin.opened(target, plain) as family,
        make_job(family, plain, progress, None, {}) as job,
    ):
        base = family.base.tensors
        merged = [(name, base[name], out.tasks) for name, out in job.outputs.merged()]
        share = similarity.share_of((info, len(tasks)) for _, info, tasks in merged)
        job.meter.stage("measuring", "")
        scan = VectorScan(job.source, merged, job.executor, job.meter.add)
        count = len(family.tasks)
        gram_TT, squares = np.zeros((count, count)), 0.0
        for _, (rows, sums_SS, own) in scan.blocks(partial(_products, share=share)):
            gram_TT[np.ix_(rows, rows)] += sums_SS
            squares += own
        sizes = {name: info.numel for name, info, _ in merged}
        matrices = sum(info.numel for _, info, _ in merged if len(info.shape) == 2)
        names = [task.name for task in family.tasks]
    norms_T = np.sqrt(gram_TT.diagonal())
    if not norms_T.any():
        raise InputError("no fine-tune differs from the base, so there is nothing to merge")
    cosines_TT = gram_TT / np.maximum(np.outer(norms_T, norms_T), 1e-30)
    pairs = cosines_TT[np.triu_indices(count, 1)]
    return Facts(
        tasks=count,
        cosine=float(pairs.mean()) if pairs.size else 0.0,
        length=float(np.median(norms_T) / max(squares**0.5, 1e-30)),
        matrices=matrices / max(1, sum(sizes.values())),
        blocks=bool(depths(sizes)),
        measured=_measured(names, options.statistics),
    )


def _products(block: Vectors, share: float) -> tuple[list[int], np.ndarray, float]:
    theta0_N = block.theta0_N[np.isfinite(block.theta0_N)].astype(np.float64)
    sums_SS = similarity.of_vectors(block.tau_SN, share)
    return block.rows.tolist(), sums_SS, float(theta0_N @ theta0_N)


def _measured(names: Sequence[str], files: Mapping[str, Path]) -> frozenset[str]:
    """The kinds that every fine-tune has a file with."""
    if not set(names) <= files.keys():
        return frozenset()
    kinds = set[str]()
    for i, name in enumerate(names):
        with Statistics(files[name]) as file:
            kinds = kinds & set(file.kinds) if i else set(file.kinds)
    return frozenset(kinds)
