"""Says what the longer sentences of the page say, each beside the formula that it puts in words."""

TIERS = {
    "mask": "one bit per weight: the base's or the multi-task model's",
    "rest": "what masks miss, quantised",
    "exact": "every bit of the fine-tune",
}
REST_ALONE = "the task's step from the base, quantised"
COMMANDS = "To type in the folder where the store lies."
RED = "Red: grade C or no grade, and a score below {kept:.0%} of the fine-tune's."
UNSCORED = "No score is in the store; taskstore eval --record writes it."
LIVE = (
    "Live memory: what a model that swaps among all tasks holds beside its own weights, about "
    "(taskstore.attach, taskstore serve)."
)
# m_t = |tau_t| > lambda_t |tau_MTL - tau_t|; with `lsq` and its kin also sgn(tau_t) = sgn(tau_MTL)
LAMBDA = (
    "A task takes a weight from the multi-task model where its step from the base is larger than "
    "lambda times the gap between its step and the merged one."
)
# density = sum(m_t) / elements; at given vectors it falls as lambda grows
DENSITY = (
    "Share of all masked weights that a task takes from the multi-task model; all others it takes "
    "from the base. The smaller lambda, the denser the mask."
)
DENSITY_OF_LAYERS = (
    "Share of a layer's weights that a task takes from the multi-task model; all others it takes "
    "from the base."
)
WHERE = (
    "Where in the model the masks select the merged weights: strong colours are where they do. A "
    "mask holds a weight where the task's step is large beside its gap to the merged one. A pale "
    "layer is one that the task hardly moved, or one where other tasks outweigh it."
)
# a and b; a swap from a to b changes a xor b = (a or b) - (a and b)
OVERLAP = (
    "How far two masks hold the same weights, over the tensors of which both tasks have one. A "
    "swap of masks between the tasks changes the weights that only one of the two holds."
)
# |tau_t| and <tau_a, tau_b> / (|tau_a| |tau_b|), tau = fine-tune - base
MEASURED = (
    "Each fine-tune's difference from the base, as it was measured while the store was packed"
)
REBUILT = (
    "The store does not record the fine-tunes' vectors. These are of tasks rebuilt from their "
    "rests or exact tensors; tasks that have masks alone are left out, since masks of one "
    "multi-task model look alike where the fine-tunes do not."
)
