"""The scheduler: a step has requests of one task; the others' are paused with their KV blocks.

    --scheduler-cls taskstore_serving.scheduler.TaskScheduler
    --scheduler-cls taskstore_serving.scheduler.AsyncTaskScheduler    with async scheduling

vLLM's own scheduler makes each step, but sees only requests of one task. This one chooses the task
(engine/policy.py), and takes KV blocks from paused requests where the task needs them: vLLM itself
preempts only requests that it sees.

Every task has all of vLLM's slots (`max_num_seqs`) for itself: slots are rows of a step's batch,
and a step has requests of one task only. Paused requests hold blocks, not slots.

The output of a step names its task in `taskstore_task`, which says what weights it needs.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.request_queue import RequestQueue, SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from taskstore.errors import SwapError
from taskstore.swap.states import State
from taskstore_serving.checks.engine_options import refuse
from taskstore_serving.engine import failed_step
from taskstore_serving.engine.grammars import TaskGrammars
from taskstore_serving.engine.groups import Demand, Mixer
from taskstore_serving.engine.policy import Turns
from taskstore_serving.engine.queues import TaskQueue, task_of
from taskstore_serving.engine.told import told
from taskstore_serving.options import ServeOptions

Held = dict[State, list[Request]]
ALONE = 4  # steps of one task that are computed as mixed ones, before its weights are swapped in


class _OneTask(Scheduler):
    """vLLM's scheduler, one task a step; raises SwapError for options that tasks do not go with."""

    running: list[Request]
    max_num_active_reqs: int

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        refuse(vllm_config)
        if vllm_config.scheduler_config.async_scheduling and not isinstance(self, AsyncScheduler):
            raise SwapError(
                "this engine schedules ahead, and TaskScheduler does not; "
                "use AsyncTaskScheduler, or --no-async-scheduling"
            )
        super().__init__(vllm_config, *args, **kwargs)
        TaskGrammars.adopt(self.structured_output_manager)
        options = ServeOptions.parse(vllm_config.load_config.model_loader_extra_config)
        self._turns = Turns(options.quantum, options.policy)
        self._mixer = Mixer(options.batching, self.max_num_running_reqs)
        self._alone = ALONE  # steps of one task since the last of several
        self._paused: list[Request] = []
        self._queues: list[TaskQueue] = []
        for name, value in list(vars(self).items()):  # vLLM has no option for a queue's class
            if isinstance(value, RequestQueue):
                self._queues.append(TaskQueue(self.policy))
                setattr(self, name, self._queues[-1])
        # the one call in which vLLM's schedule may run short of blocks; the manager makes no hook
        self._vllm_allocate = self.kv_cache_manager.allocate_slots
        self.kv_cache_manager.allocate_slots = self._allocate

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Make a step of one task or several: vLLM's own schedule, shown their requests alone."""
        tasks = self._pick_tasks()
        with self._only(tasks):
            step = super().schedule(*args, **kwargs)
        if not step.total_num_scheduled_tokens:
            self._turns.empty()
        for new in step.scheduled_new_reqs:
            new.lora_request = None  # it only named the task: workers load no LoRA
        self._name_tasks(step, tasks[0])
        step.taskstore_began = time.monotonic()
        return step

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Learn what the worker tells, also of a step that failed; then do what vLLM does."""
        news = told(model_runner_output)
        if news.swap_seconds is not None:
            self._turns.swapped(news.swap_seconds)
        why = failed_step.reason(model_runner_output)
        ended = failed_step.end_requests(self, scheduler_output) if why is not None else []
        if why is None:
            self._learn_cost(scheduler_output, news.swap_seconds or 0.0)
        if news.mixable is not None:
            self._mixer.mixable = news.mixable
        if news.costs is not None:
            self._mixer.costs = news.costs
        uncompiled = {name: self.requests[name] for name in self.grammar_compile_error_reqs}
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        self.structured_output_manager.say_why(uncompiled, outputs)
        if why is not None:
            failed_step.tell(outputs, ended, why)
        return outputs

    def _learn_cost(self, step: Any, swapping: float) -> None:
        if rows := step.total_num_scheduled_tokens:
            mixed = step.taskstore_mixed
            tasks = len(set(mixed.values())) if mixed else 1
            spent = time.monotonic() - step.taskstore_began - swapping
            self._mixer.took(tasks, rows, mixed is not None, spent)

    def _name_tasks(self, step: Any, lead: State) -> None:
        """Say which weights a step needs: a task's, or the base's and each request's task."""
        each = {name: task_of(self.requests[name]) for name in step.num_scheduled_tokens}
        tasks = set(each.values()) or {lead}
        self._alone = 0 if len(tasks) > 1 else self._alone + 1
        mixed = len(tasks) > 1 or (self._alone < ALONE and tasks <= set(self._mixer.mixable))
        step.taskstore_task = None if mixed else tasks.pop()
        step.taskstore_mixed = each if mixed else None

    def _pick_tasks(self) -> list[State]:
        """The task whose turn it is, and those that are computed with it."""
        held = _by_task(self.running)
        present = dict.fromkeys([*held, *(t for queue in self._queues for t in queue.tasks())])
        lead = self._turns.pick(
            time.monotonic(),
            present,
            lambda task: self._runnable(task, held.get(task, [])),
            self._recomputing(held.get(self._turns.active, [])),
            lambda task: self._fresh(task, held.get(task, [])),
        )
        others = (
            task
            for task in self._turns.order()
            if task != lead and task in present and self._runnable(task, held.get(task, []))
        )
        # in a step with others a task could not take their blocks, so where these are short it has
        # a turn
        pool = self.kv_cache_manager.block_pool
        short = pool.get_num_free_blocks() < pool.num_gpu_blocks // 8
        demand = partial(self._demand, held)
        tasks = [lead] if short else self._mixer.group(lead, others, demand)
        self._turns.served(tasks[1:])
        return tasks

    def _demand(self, held: Held, task: State) -> Demand:
        """What a task has to compute."""
        running, waiting = held.get(task, []), [r for q in self._queues for r in q.of(task)]
        rows = [one.num_tokens - one.num_computed_tokens for one in (*running, *waiting)]
        return Demand(len(rows), sum(max(1, n) for n in rows))

    @contextmanager
    def _only(self, tasks: Collection[State]) -> Iterator[None]:
        """Show vLLM these tasks alone; the requests of others are paused meanwhile."""
        every = self.max_num_active_reqs
        self._paused = [one for one in self.running if task_of(one) not in tasks]
        self.running = [one for one in self.running if task_of(one) in tasks]
        # vLLM counts the slots of sessions between two inputs as taken, whatever their task
        self.max_num_active_reqs += self.num_waiting_for_streaming_input
        try:
            with ExitStack() as stack:
                for queue in self._queues:
                    stack.enter_context(queue.only(tasks, self._fewest))
                yield
        finally:
            self.running, self.max_num_active_reqs = self._paused + self.running, every
            self._paused = []

    def _fewest(self, task: State) -> int:
        """How many requests of a task run in this step: the one with fewest gets the next slot."""
        return sum(task_of(request) == task for request in self.running)

    def _runnable(self, task: State, running: list[Request]) -> bool:
        """Whether a step of the task would compute something, as far as is known before it."""
        if self.pause_state == PauseState.PAUSED_ALL:
            return False
        if any(_unfinished(request) for request in running):
            return True
        queues = [self.kv_holding_waiting]
        if self.pause_state == PauseState.UNPAUSED:
            queues.append(self.waiting)
        return any(_ready(request) for queue in queues for request in queue.of(task))

    def _fresh(self, task: State, running: list[Request]) -> bool:
        """Whether a task has requests that could have their first tokens now, slots allowing."""
        if any(one.num_output_tokens == 0 for one in running):
            return True
        if len(running) >= self.max_num_running_reqs:
            return False
        waiting = (one for queue in self._queues for one in queue.of(task) if _ready(one))
        return any(one.num_output_tokens == 0 for one in waiting)

    def _recomputing(self, running: list[Request]) -> bool:
        """Whether the oldest request still recomputes what it lost to other tasks."""
        if not running:
            return False
        lost: int | None = getattr(running[0], "taskstore_evicted", None)
        return lost == running[0].num_preemptions and bool(running[0].is_prefill_chunk)

    def _allocate(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        """Do as vLLM's allocate_slots, and take blocks of paused requests before it fails."""
        blocks = self._vllm_allocate(request, *args, **kwargs)
        while blocks is None and self._may_evict(request):
            self._evict()
            blocks = self._vllm_allocate(request, *args, **kwargs)
        return blocks

    def _may_evict(self, request: Request) -> bool:
        """Whether paused requests give up blocks for this one.

        They do not for a further request of a task that runs some, nor while the task itself holds
        most blocks and runs more than one. vLLM then waits, or preempts one of the task's own.
        """
        if not self._paused:
            return False
        own = _by_task(self.running).get(task_of(request), [])
        if request.status != RequestStatus.RUNNING:
            return not own
        if len(own) == 1:
            return True
        most = max(map(_tokens, _by_task(self._paused).values()))
        return _tokens(own) < most

    def _evict(self) -> None:
        """Preempt the youngest paused request of the task that holds most."""
        held = {task: _tokens(of) for task, of in _by_task(self._paused).items()}
        most = max(held.values())
        task = self._turns.latest(name for name in held if held[name] == most)
        theirs = [request for request in self._paused if task_of(request) == task]
        victim = theirs[-1]
        if self.policy == SchedulingPolicy.PRIORITY:
            victim = max(theirs)
        self._paused.remove(victim)
        self._preempt_request(victim, time.monotonic())
        victim.taskstore_evicted = victim.num_preemptions


def _by_task(requests: list[Request]) -> Held:
    found: Held = {}
    for request in requests:
        found.setdefault(task_of(request), []).append(request)
    return found


def _tokens(requests: list[Request]) -> int:
    return sum(request.num_computed_tokens for request in requests)


def _unfinished(request: Request) -> bool:
    """Whether tokens are missing that are not on their way already."""
    coming = request.num_output_tokens + request.num_output_placeholders
    return bool(request.is_prefill_chunk or coming < request.max_tokens)


def _ready(request: Request) -> bool:
    if request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR:
        waits = request.structured_output_request
        return waits is not None and waits.grammar is not None
    if request.status == RequestStatus.WAITING_FOR_STREAMING_REQ:
        return False
    return bool(request.drop_stale_output or not request.num_stale_output_tokens)


class TaskScheduler(_OneTask):
    """The scheduler where async scheduling is off, as on the CPU."""


class AsyncTaskScheduler(_OneTask, AsyncScheduler):
    """The scheduler where async scheduling is on."""
