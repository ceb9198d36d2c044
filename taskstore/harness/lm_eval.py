"""Score a live model with the tasks of EleutherAI's lm-evaluation-harness (lm-eval)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from taskstore import extras
from taskstore.errors import EvaluationFailed, OptionError
from taskstore.evaluation.command import of_lm_eval
from taskstore.locations.base import PathLike
from taskstore.models.live import one_line
from taskstore.public import check_fields

# They warn that a model is given, not its name, and of every try to reach a hub.
_LOGGERS = ("lm_eval.models.huggingface", "huggingface_hub", "datasets")


@dataclass(frozen=True)
class LmEval:
    """A function of a model, a tokenizer and a task, for `evaluate` and LiveModels.

    tasks                names of lm-eval's tasks or groups; {task} stands for the store's task
    limit                examples of each; below 1 a share of them; None: all
    include_path         folder with task files (YAML) of one's own
    num_fewshot          examples in the prompt; None: as each task says
    batch_size           examples at a time, or "auto"
    apply_chat_template  give prompts as turns of a chat, in the model's own template
    key                  metric that is the score; else acc_norm, acc, exact_match, ... of each task

    The score is the mean over the tasks, its `n` the sum of their examples. lm-eval seeds Python's,
    NumPy's and torch's generators.
    """

    tasks: Sequence[str]
    limit: float | None = None
    include_path: PathLike | None = None
    num_fewshot: int | None = None
    batch_size: int | str = 1
    apply_chat_template: bool = False
    key: str = "score"

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.tasks:
            raise OptionError("no task of lm-eval is named")
        if self.limit is not None and not (math.isfinite(self.limit) and self.limit > 0):
            raise OptionError(f"limit {self.limit} is not a number above 0")
        if self.include_path is not None and not Path(self.include_path).is_dir():
            raise OptionError(f"include_path {self.include_path} is no folder")
        if self.batch_size != "auto" and not (
            isinstance(self.batch_size, int) and self.batch_size > 0
        ):
            raise OptionError(f"batch_size {self.batch_size!r} is not a number above 0, or 'auto'")
        extras.need("lm-eval's tasks", "lm_eval")

    @property
    def label(self) -> str:
        """What stands for it in a journal."""
        more = (self.limit, self.num_fewshot, self.apply_chat_template, self.key)
        return f"lm-eval {' '.join(self.tasks)} {more}"

    def __call__(self, model: Any, tokenizer: Any, task: str) -> float:
        """Return the score; raises OptionError for unknown tasks, EvaluationFailed."""
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        names = self._names(task)
        limit = self.limit
        for logger in _LOGGERS:
            logging.getLogger(logger).setLevel(logging.ERROR)
        try:
            found = simple_evaluate(
                model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=self.batch_size),
                tasks=names,
                task_manager=self._manager,
                num_fewshot=self.num_fewshot,
                limit=int(limit) if limit is not None and limit >= 1 else limit,
                apply_chat_template=self.apply_chat_template,
                bootstrap_iters=0,
                log_samples=False,
            )
        except Exception as error:  # of lm-eval, or of what a task file asks for
            why = f"failed in lm-eval: {one_line(error)}"
            if _is_offline(error):
                why = (
                    f"needs data of {' and '.join(names)} that is not on this machine, and the hub "
                    "cannot be reached; run it once with a network, or name tasks with data of "
                    "your own (`include_path`)"
                )
            raise EvaluationFailed(task, why, "") from error
        score = of_lm_eval(found, self.key)
        if score is None:
            raise EvaluationFailed(task, f"gave no {self.key!r} and no usual metric", "")
        return score

    def check(self, tasks: Sequence[str]) -> None:
        """Raise OptionError where lm-eval has no tasks for some of a store's."""
        for task in tasks:
            self._names(task)

    def _names(self, task: str) -> list[str]:
        """Return the names of lm-eval's tasks that score a task of a store."""
        names = [name.replace("{task}", task) for name in self.tasks]
        for name in names:
            if not self._manager.match_tasks([name]):
                where = f" or in {self.include_path}" if self.include_path else ""
                raise OptionError(
                    f"lm-eval has no task {name!r} of its own{where}; `lm-eval ls tasks` lists its "
                    "own, include_path names a folder with yours"
                )
        return names

    @cached_property
    def _manager(self) -> Any:
        """lm-eval's index of tasks; of one's own alone where these are enough: it is faster."""
        from lm_eval.tasks import TaskManager

        path = None if self.include_path is None else str(self.include_path)
        if path is not None:
            own = TaskManager(include_path=path, include_defaults=False)
            known = own.all_tasks
            if all("{task}" in name or name in known for name in self.tasks):
                return own
        return TaskManager(include_path=path)


def _is_offline(error: BaseException | None) -> bool:
    """Tell whether an error comes from a hub that was not reached."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if kinds & {"ConnectionError", "ConnectError", "OfflineModeIsEnabled", "TimeoutException"}:
            return True
        error = error.__cause__ or error.__context__
    return False
