"""A plugin of pytest for a vLLM without its compiled parts: it takes the platform for a CPU.

A wheel for GPUs finds no platform on a machine without one. Load it first: `-p`.
"""

from vllm import platforms
from vllm.platforms.cpu import CpuPlatform

platforms._current_platform = CpuPlatform()
