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

from taskstore.locations import publish
from taskstore.locations.base import PathLike
from taskstore.merging.options import MergeOptions
from taskstore.merging.search.grids import Grids, Values
from taskstore.merging.search.origins import Origin
from taskstore.merging.search.outcome import Points, Searched, section, words
from taskstore.merging.search.scoring import Scorer, Scores
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

    Without grids there is one point, which is scored. Raises EvaluationFailed and what `merge`
    does; nothing is at `target` then, and what was scored is in the journal.
    """
    target = Path(target)
    with ExitStack() as stack:
        stack.enter_context(publish.alone(target))
        origin.check(target, options)
        axes, trials = grids.axes, grids.trials(options)
        if len(grids.alpha) > 1:
            scorer = stack.enter_context(scorer.keeping(target))
        scorer.expect(len(trials))
        scores = dict[Values, Scores]()
        for values, trial in sorted(trials, key=lambda point: point[0][bool(grids.alpha) :]):
            what = words(axes, values) or "merged"
            scores[values] = scorer.merged(what, origin, trial, origin.names, target, progress)
        found = [scores[values] for values, _ in trials]
        best = min(range(len(found)), key=lambda i: scorer.cost(found[i]))
        tried = [point for point, _ in trials]
        points = Points(axes, tried, found, best, scorer.minimise, scorer.label)
        text = section(points, scorer)
        report = scorer.make(origin, trials[best][1], origin.names, progress, target, text)
    return Searched(points, report)
