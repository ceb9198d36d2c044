"""Kernels: the arithmetic of masks and selection.

`reference` is plain torch and the oracle; `cpu` is compiled by numba and is what runs. One
conformance suite runs over both.
"""
