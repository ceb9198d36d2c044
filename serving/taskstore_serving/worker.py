"""The worker: it makes a step's task live before the step runs.

The scheduler names the task in `taskstore_task` of its output; None is the base. An output without
the attribute changes nothing. Methods named `taskstore_...` are called in all workers, between
steps; they take and give plain values.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vllm.config import set_current_vllm_config
from vllm.platforms import current_platform

from taskstore.errors import SwapError, TaskstoreError
from taskstore.swap.states import State
from taskstore_serving.engine import failed_step
from taskstore_serving.engine.costs import StepCosts
from taskstore_serving.engine.holds import Holds
from taskstore_serving.engine.ranks import any_rank
from taskstore_serving.engine.told import Told, with_told
from taskstore_serving.metrics import logs
from taskstore_serving.metrics.recent import Recent
from taskstore_serving.mixing.plan import prepare
from taskstore_serving.mixing.steps import MixedSteps, fits
from taskstore_serving.options import ServeOptions
from taskstore_serving.weights.cores import widened
from taskstore_serving.weights.family import LiveFamily

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as Base
else:
    from vllm.v1.worker.gpu_worker import Worker as Base


class TaskWorker(Base):
    """vLLM's worker with swaps: `--worker-cls taskstore_serving.worker.TaskWorker`."""

    @property
    def taskstore_family(self) -> LiveFamily:
        family: LiveFamily = self.get_model().taskstore_family
        return family

    def load_model(self, *args: Any, **named: Any) -> None:
        if multiprocessing.parent_process() is not None:  # else the loggers are somebody else's
            logs.configure()
        self._recent, self._holds = Recent(), Holds()
        super().load_model(*args, **named)
        options = ServeOptions.parse(self.vllm_config.load_config.model_loader_extra_config)
        if options.batching != "swap" and fits(self.model_runner, options):
            most = self.model_runner.max_num_tokens
            mixing = prepare(self.get_model(), self.taskstore_family, most)
            self._mixed = MixedSteps(self.model_runner, mixing)
            if current_platform.is_cpu():  # a GPU mixes where it is told to
                self._told = Told(costs=StepCosts(*mixing.costs()))
        self._tell_mixable()

    _told = Told()
    _mixed: MixedSteps | None = None

    _failed: Any = None  # what a step answers whose swap failed

    def execute_model(self, scheduler_output: Any) -> Any:
        self._failed = None
        named = hasattr(scheduler_output, "taskstore_task")
        if named and scheduler_output.total_num_scheduled_tokens:
            mixed = getattr(scheduler_output, "taskstore_mixed", None)
            why = self._make_live(scheduler_output.taskstore_task, mixed)
            if why:
                empty = super().execute_model(failed_step.emptied(scheduler_output))
                self._failed = failed_step.marked(empty, why)
                return self._failed
        return self._with_told(super().execute_model(scheduler_output))

    def sample_tokens(self, grammar_output: Any) -> Any:
        if self._failed is not None:
            return self._failed
        return self._with_told(super().sample_tokens(grammar_output))

    def _make_live(self, task: State, mixed: Mapping[str, State] | None) -> str:
        """Make a task live in all workers, or the base; why it is the base, "" for the task.

        `mixed`: the task of each request of a mixed step. Raises what `LiveFamily.recover` does;
        then nobody knows what is live, and the engine ends.
        """
        family, why = self.taskstore_family, ""
        before, seconds = family.active, family.seconds
        if self._mixed is not None:
            self._mixed.end()
        if task == before and mixed is None:
            return ""
        try:
            family.swap(task)
            if self._mixed is not None and mixed is not None:
                self._mixed.begin(mixed)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        if any_rank(bool(why)):
            why = why or "it failed in another worker"
            logs.not_swapped(before, task, why)
            self._recent.add("failed", before=before, task=task, why=why[:300])
            with set_current_vllm_config(self.vllm_config), widened():
                family.recover()
            return why
        if task != before:
            self._told = replace(self._told, swap_seconds=family.seconds - seconds)
            self._note(before, task, family.seconds - seconds)
        return ""

    def _with_told(self, output: Any) -> Any:
        """Add to a step's output what there is to tell, once there is one."""
        if output is None or self._told == Told():
            return output
        told, self._told = self._told, Told()
        return with_told(output, told)

    def _tell_mixable(self) -> None:
        """Have the next output say which tasks may be in one step."""
        if self._mixed is not None:
            mixing = self._mixed.mixing
            mixable = frozenset(task for task in mixing.tasks if not mixing.unmixable(task))
            self._told = replace(self._told, mixable=mixable)

    def _note(self, before: State, task: State, seconds: float) -> None:
        logs.swapped(before, task, seconds)
        self._recent.add("swap", before=before, task=task, seconds=seconds)

    def taskstore_activity(self, after: int) -> dict[str, Any]:
        """What is live, and the swaps after a number."""
        family = self.taskstore_family
        return {
            "active": family.active,
            "swaps": family.swaps,
            "swap_seconds": family.seconds,
            "swaps_made": self._recent.after(after),
        }

    def taskstore_swap(self, task: State) -> None:
        self.taskstore_family.swap(task)

    def taskstore_state(self) -> dict[str, Any]:
        steps, why = 0, dict[str, str]()
        if self._mixed is not None:
            steps, why = self._mixed.count, self._mixed.mixing.not_mixed()
        more = {"held": self._holds.state(), "mixed_steps": steps, "not_mixed": why}
        return {**self.taskstore_family.state(), **more}

    def taskstore_hold(self, verb: str, *args: Any) -> Any:
        """One of the methods of `Holds`."""
        return getattr(self._holds, verb)(*args)

    def taskstore_add(self, task: str) -> None:
        """Learn a task, all of it or nothing; raises what `LiveFamily.add` does."""
        with set_current_vllm_config(self.vllm_config), widened():
            self.taskstore_family.add(task)
        self._tell_mixable()

    def taskstore_replace(self, task: str) -> None:
        """Learn the new weights of a task beside the old ones; `taskstore_settle` ends it."""
        with set_current_vllm_config(self.vllm_config), widened():
            self.taskstore_family.replace(task)
        self._tell_mixable()

    def taskstore_settle(self, task: str, keep_new: bool) -> None:
        self.taskstore_family.settle(task, keep_new)
        self._tell_mixable()

    def taskstore_remove(self, task: str) -> None:
        self.taskstore_family.remove(task)
        self._tell_mixable()

    def taskstore_verify(self, task: State = "*") -> list[dict[str, Any]]:
        """Prove a task, the base (None), or all of them ("*"); a record of each.

        Raises UnknownTask, and UnknownWeights where a tensor is not what it should be.
        """
        family = self.taskstore_family
        with widened():
            return family.verify_all() if task == "*" else [family.verify(task)]

    def taskstore_try(self, method: str, *args: Any) -> dict[str, Any]:
        """Call one of the methods above; answer what it refuses as text.

        Nothing is raised: where one of several workers raises, vLLM leaves the answers of the
        others unread and takes them for those of the next call.
        """
        try:
            return {"result": getattr(self, method)(*args), "error": ""}
        except TaskstoreError as error:
            return {"result": None, "error": str(error)}
        except (KeyError, FileNotFoundError) as error:  # it went from the store meanwhile
            return {"result": None, "error": f"{type(error).__name__}: {error}"}

    def reload_weights(self, *args: Any, **options: Any) -> None:
        """Refuse: swaps would turn other weights into those of no task."""
        raise SwapError(
            "an engine that serves a store does not load other weights; add and remove tasks, or "
            "start it again"
        )

    def sleep(self, level: int = 1) -> None:
        """Sleep at level 1, which keeps the weights; refuse level 2, which drops them."""
        if level > 1:
            raise SwapError("sleep level 2 would drop the weights of all tasks; use level 1")
        super().sleep(level)

    def add_lora(self, lora_request: Any) -> bool:
        """Accept an adapter that is a task's name: vLLM's HTTP code asks for tasks so."""
        if lora_request.lora_name not in self.taskstore_family.tasks:
            raise ValueError(f"no task {lora_request.lora_name!r} is served")
        return True

    def remove_lora(self, lora_id: int) -> bool:
        """Accept and do nothing; `taskstore_remove` takes a task out."""
        return True

    def list_loras(self) -> set[int]:
        return set()

    def pin_lora(self, lora_id: int) -> bool:
        return True
