"""vLLM's general plugin: called in every process, perhaps twice."""

from __future__ import annotations

import logging


def register() -> None:
    """Make `--load-format taskstore` known; not to an untested vLLM, which works on without."""
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
    """vLLM 0.32 on the CPU asks everything in every module for its `__dict__`.

    llvmlite's proxy of its library, which numba imports, takes that for a C function's name and
    answers with one, and the engine's start fails.
    """
    from llvmlite.binding import ffi

    kind = ffi._lib_wrapper
    if getattr(kind.__getattr__, "__module__", "") == __name__:
        return
    ask = kind.__getattr__

    def only_functions(self: object, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return ask(self, name)

    kind.__getattr__ = only_functions
