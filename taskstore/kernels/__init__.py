"""Kernels: the arithmetic of masks and selection.

`reference` is plain torch and the oracle; `cpu` is compiled by numba and is what runs; `fused`
does the common case of packing in one pass. One conformance suite runs over all of them.
"""
