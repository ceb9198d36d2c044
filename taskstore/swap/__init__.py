"""Changes the task of a live module: in place, and exactly reversible.

Every task is a selection between the bits of W0, the base, and of W1, the multi-task model. With
D = W0 ^ W1, W_t = W0 ^ (D & m_t). So a live model goes from task a to task b by

    W ^= D & (m_a ^ m_b)

This is no arithmetic, so nothing drifts. Memory holds the live weights, D, and a bit per weight and
task, but no third copy of the weights. A swap touches the weights that differ once, whatever the
number of tasks.

    driver      attaches a store to a module
    binding     which live tensor is which tensor of the store
    states      what each task changes in it
    lane        D and masks beside the weights of one device
    move        one swap, all or nothing
    gate        no swap while the module runs
"""

from taskstore.swap.attached import Attached
from taskstore.swap.driver import attach
from taskstore.swap.identify import Verified
from taskstore.swap.job import SwapOptions
from taskstore.swap.memory import SwapMemory

__all__ = ["Attached", "SwapMemory", "SwapOptions", "Verified", "attach"]
