"""Search alpha, and other options of a method, by the user's own measure on validation data.

Each point of the grids is merged, scored and removed. The best is merged once more, to the target.
Of equal scores the first counts: the smallest alpha, then the smallest options. A point on the line
from a base to one fine-tune is an alpha too, so a search also gives linear interpolation paths
(arXiv 1412.6544).
"""

from __future__ import annotations

from pathlib import Path

from taskstore.locations import publish
from taskstore.locations.base import PathLike
from taskstore.merging.options import MergeOptions
from taskstore.merging.search.grids import Grids
from taskstore.merging.search.origins import Origin
from taskstore.merging.search.outcome import Points, Searched, section, words
from taskstore.merging.search.scoring import Scorer
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
    with publish.alone(target):
        origin.check(target, options)
        axes, trials = grids.axes, grids.trials(options)
        scorer.expect(len(trials))
        scores = [
            scorer.merged(
                words(axes, values) or "merged", origin, trial, origin.names, target, progress
            )
            for values, trial in trials
        ]
        best = min(range(len(scores)), key=lambda i: scorer.cost(scores[i]))
        values = [point for point, _ in trials]
        points = Points(axes, values, scores, best, scorer.minimise, scorer.label)
        text = section(points, scorer)
        report = origin.merge(target, trials[best][1], progress=progress, section=text)
    return Searched(points, report)
