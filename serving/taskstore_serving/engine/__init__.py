"""Whose turn it is: the policy, its queues, grammars, what a swap costs."""
