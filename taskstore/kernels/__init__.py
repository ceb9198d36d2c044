"""Kernels: the arithmetic of masks, vectors and selection, for each device.

`cpu` calls compiled loops, `triton` runs on GPUs, `fused` does the common case of packing in one
pass. `reference` is plain torch, and the oracle of the suite that runs over all of them.
"""
