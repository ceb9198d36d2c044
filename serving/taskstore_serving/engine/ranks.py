"""What the workers of a tensor-parallel engine agree on."""

from __future__ import annotations

import torch
import torch.distributed as distributed
from vllm.distributed.parallel_state import get_tp_group


def any_rank(here: bool) -> bool:
    """Whether it is so in any rank; all ranks ask at the same step, and get one answer."""
    group = get_tp_group()
    if group.world_size == 1:
        return here
    found = torch.tensor(int(here))
    distributed.all_reduce(found, distributed.ReduceOp.MAX, group.cpu_group)
    return bool(found)
