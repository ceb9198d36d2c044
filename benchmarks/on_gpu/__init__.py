"""Parts of tools/gpu_check.py: kernels beside their oracles, on a GPU."""
