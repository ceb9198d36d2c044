"""The worker: every step runs with the weights of its task.

The scheduler names it in `taskstore_task` of its output; None is the base. An output without the
attribute leaves live what is.
"""

from __future__ import annotations

from typing import Any

from vllm.platforms import current_platform

from taskstore.swap.states import State
from taskstore_serving.family import Family

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as Base
else:
    from vllm.v1.worker.gpu_worker import Worker as Base


class TaskWorker(Base):
    """`--worker-cls taskstore_serving.worker.TaskWorker`"""

    @property
    def taskstore_family(self) -> Family:
        family: Family = self.get_model().taskstore_family
        return family

    def execute_model(self, scheduler_output: Any) -> Any:
        if scheduler_output.total_num_scheduled_tokens and hasattr(
            scheduler_output, "taskstore_task"
        ):
            self.taskstore_family.swap(scheduler_output.taskstore_task)
        return super().execute_model(scheduler_output)

    def taskstore_swap(self, task: State) -> None:
        """A call to all workers, between steps."""
        self.taskstore_family.swap(task)

    def taskstore_digests(self) -> dict[str, str]:
        """BLAKE3 of every live tensor that the store fills."""
        return self.taskstore_family.digests()
