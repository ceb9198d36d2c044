"""vLLM's general plugin. vLLM calls `register` in every process, perhaps twice."""

from __future__ import annotations

import logging


def register() -> None:
    """Make `--load-format taskstore` known to vLLM; an untested vLLM works on without it."""
    from taskstore.errors import InputError
    from taskstore_serving.checks import versions
    from taskstore_serving.launch import children

    children.adopt()
    try:
        versions.check()
    except InputError as error:
        logging.getLogger("taskstore").warning("no --load-format taskstore: %s", error)
        return
    import torch
    from vllm.model_executor.model_loader import (
        _LOAD_FORMAT_TO_MODEL_LOADER,
        register_model_loader,
    )

    _answer_only_for_functions()
    if torch.cpu._is_amx_tile_supported():
        torch.cpu._init_amx()  # without it a worker may die of SIGILL at its first forward pass
    if "taskstore" not in _LOAD_FORMAT_TO_MODEL_LOADER:
        from taskstore_serving.weights.loader import TaskstoreLoader

        register_model_loader("taskstore")(TaskstoreLoader)


def _answer_only_for_functions() -> None:
    """Make llvmlite's proxy of its C library refuse Python's own names, such as `__dict__`.

    Why: vLLM 0.32 on the CPU rebinds Triton kernels (`vllm.triton_utils.dispatcher`). For that it
    reads `__dict__` of everything in every module. The proxy, which numba imports, takes any name
    for that of a C function and answers with a function; vLLM then fails to start, since a function
    has no `get`. taskstore needs no numba; but a process may have it already, from a first engine
    or another library. What else was possible: to patch vLLM's function, which is longer and
    changes sooner.

    What breaks it: an llvmlite that renames `_lib_wrapper` or its `__getattr__`. Then `register`
    raises AttributeError, and vLLM does not start. Once vLLM asks less, this goes.
    """
    try:
        from llvmlite.binding import ffi
    except ImportError:  # nor is there numba
        return
    kind = ffi._lib_wrapper
    if getattr(kind.__getattr__, "__module__", "") == __name__:
        return
    ask = kind.__getattr__

    def only_functions(self: object, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return ask(self, name)

    kind.__getattr__ = only_functions
