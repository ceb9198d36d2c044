"""Open the statistics files that a merge method needs, each checked to be about its model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from taskstore.errors import InputError, OptionError
from taskstore.executors import Executor
from taskstore.merging.methods import Method, info_of
from taskstore.models import digest_of
from taskstore.models.family import Family
from taskstore.statistics import Statistics


@contextmanager
def opened(
    family: Family, method: Method, name: str, paths: Mapping[str, Path], executor: Executor
) -> Iterator[dict[str, Statistics]]:
    """Task -> its open file, and "" -> the base's if it is given; {} for a method that needs none.

    Tells the method which tensors have matrices. Hashes every model's weights. Raises InputError
    for a file that is missing and StatisticsError for a file about another model.
    """
    kinds = info_of(name).statistics
    if not kinds:
        if paths:
            raise OptionError(f"method {name!r} uses no statistics; leave `statistics` out")
        yield {}
        return
    needed = ",".join(kinds)
    models = {"": family.base, **{task.name: task for task in family.tasks}}
    for task in family.tasks:
        if task.name not in paths:
            raise InputError(
                f"method {name!r} needs statistics of {task.name!r}: make them with `taskstore "
                f"measure {task.path} --data FILE.jsonl --kinds {needed} -o "
                f"{task.name}.statistics.safetensors` and give statistics={{{task.name!r}: FILE}}"
            )
    with ExitStack() as stack:
        found: dict[str, Statistics] = {}
        for task_name, path in sorted(paths.items()):
            model = models[task_name]
            statistics = found[task_name] = stack.enter_context(Statistics(path))
            if missing := [kind for kind in kinds if kind not in statistics.kinds]:
                raise InputError(
                    f"{path} has {' and '.join(statistics.kinds)} of {model.name} and not the "
                    f"{missing[0]} that {name!r} needs; measure them with"
                    f" `taskstore measure --kinds {needed}`"
                )
            statistics.check_model(model.name, model.tensors, digest_of(model, executor))
        if "gram" in kinds:
            # layers that all files have; an embedding that is tied to a layer has none of its own
            grams = (set(f.tensors("gram")) - set(f.about.shared) for f in found.values())
            method.matrices = frozenset(set.intersection(*grams))
        yield found
