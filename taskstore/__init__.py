"""taskstore: one base model and its fine-tunes, packed small, rebuilt exactly.

    import taskstore
    taskstore.pack("base", {"billing": "ft/billing", "legal": "ft/legal"}, "family")
    store = taskstore.open("family")
    store.tasks                                  # ['billing', 'legal']
    store.tensor("legal", "lm_head.weight")      # one rebuilt tensor
    store.state_dict("legal")                    # all of them
    store.unpack("legal", "legal-model")         # a Hugging Face folder
    model = store.load_model("legal")            # a transformers model
    with taskstore.attach(model, store) as family:
        family.swap("billing")                   # the same model, other weights, in place

Importing this costs nothing: torch and the compiled loops load when they are needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskstore.errors import ApproximationWarning, TaskstoreError
from taskstore.version import __version__

if TYPE_CHECKING:
    from taskstore.format.fidelity import Fidelity
    from taskstore.packing.driver import pack
    from taskstore.packing.options import PackOptions
    from taskstore.packing.report import PackReport
    from taskstore.progress import Progress
    from taskstore.store import Store, open
    from taskstore.swap import Attached, attach

__all__ = [
    "ApproximationWarning",
    "Attached",
    "Fidelity",
    "PackOptions",
    "PackReport",
    "Progress",
    "Store",
    "TaskstoreError",
    "__version__",
    "attach",
    "open",
    "pack",
]

_HOMES = {
    "Attached": "taskstore.swap",
    "Fidelity": "taskstore.format.fidelity",
    "PackOptions": "taskstore.packing.options",
    "PackReport": "taskstore.packing.report",
    "Progress": "taskstore.progress",
    "Store": "taskstore.store.store",
    "attach": "taskstore.swap",
    "open": "taskstore.store.store",
    "pack": "taskstore.packing.driver",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'taskstore' has no attribute {name!r}")
    from importlib import import_module

    try:
        value = getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        from taskstore.extras import lacking

        raise lacking(error, f"taskstore.{name}") or error from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
