"""Search alpha, and other options of a method, by the user's own measure on validation data.

Each point of the grids is merged, scored and removed. Points that differ in alpha alone come one
after the other and share their merged vector, which lies on disk. The best is merged to the target.
Of equal scores the first counts: the smallest alpha, then the smallest options. A point on the line
from a base to one fine-tune is an alpha too, so a search also gives linear interpolation paths
(arXiv 1412.6544).
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from taskstore.cluster import joined
from taskstore.locations import publish
from taskstore.locations.base import PathLike
from taskstore.merging.options import MergeOptions
from taskstore.merging.search.grids import Grids
from taskstore.merging.search.origins import Origin
from taskstore.merging.search.outcome import Searched, written
from taskstore.merging.search.scoring import Scorer
from taskstore.merging.search.trials import Trials
from taskstore.progress import Callback, silent


def search(
    origin: Origin,
    target: PathLike,
    options: MergeOptions,
    grids: Grids,
    scorer: Scorer,
    progress: Callback = silent,
) -> Searched:
    """Write the merged model that scores best to the folder `target`.

    Without grids there is one point, which is scored. Raises EvaluationFailed if no point can be
    scored, and what `merge` does; nothing is at `target` then, and what was scored is in the
    journal.
    """
    target = Path(target)
    with ExitStack() as stack:
        stack.enter_context(publish.alone(target))
        origin.check(target, options)
        every = dict(grids.trials(options))
        scaled, shares = len(grids.alpha) > 1, bool(grids.options)
        if scaled or (shares and not joined()):
            keeping = scorer.keeping(target, scaled=scaled, shares=shares)
            scorer = stack.enter_context(keeping)
        trials = Trials([scorer], origin, target, grids.axes, len(every), progress)
        for values in sorted(every, key=lambda values: values[bool(grids.alpha) :]):
            trials.run(values, every[values])
        trials.all.sort(key=lambda tried: tried.values)
        return written(trials, scorer, every.__getitem__)
