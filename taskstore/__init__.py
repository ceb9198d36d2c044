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

import logging
from typing import TYPE_CHECKING, Any

from taskstore.errors import ApproximationWarning, TaskstoreError
from taskstore.version import __version__

if TYPE_CHECKING:
    from taskstore.analysis.page import write_page as report
    from taskstore.cluster import on_cluster
    from taskstore.format.fidelity import Fidelity
    from taskstore.harness import LmEval, evaluate
    from taskstore.hub.pretrained import from_pretrained
    from taskstore.hub.pull import pull
    from taskstore.hub.push import push
    from taskstore.merging.options import MergeOptions
    from taskstore.merging.search.origins import merge
    from taskstore.ollama import export_ollama
    from taskstore.packing.changes.options import AddOptions
    from taskstore.packing.changes.tasks import copy, remove, rename
    from taskstore.packing.driver import pack
    from taskstore.packing.options import PackOptions
    from taskstore.packing.report import PackReport
    from taskstore.packing.revise import add
    from taskstore.packing.revise import replace_tasks as replace
    from taskstore.packing.search_lambda import tune
    from taskstore.progress import Progress
    from taskstore.server import Server, serve
    from taskstore.store.store import Store, open, unpack
    from taskstore.store.verify import verify
    from taskstore.swap import Attached, attach

__all__ = [
    "AddOptions",
    "ApproximationWarning",
    "Attached",
    "Fidelity",
    "LmEval",
    "MergeOptions",
    "PackOptions",
    "PackReport",
    "Progress",
    "Server",
    "Store",
    "TaskstoreError",
    "__version__",
    "add",
    "attach",
    "copy",
    "evaluate",
    "export_ollama",
    "from_pretrained",
    "merge",
    "on_cluster",
    "open",
    "pack",
    "pull",
    "push",
    "remove",
    "rename",
    "replace",
    "report",
    "serve",
    "tune",
    "unpack",
    "verify",
]

_HOMES = {
    "AddOptions": "taskstore.packing.changes.options",
    "Attached": "taskstore.swap",
    "Fidelity": "taskstore.format.fidelity",
    "LmEval": "taskstore.harness",
    "MergeOptions": "taskstore.merging.options",
    "PackOptions": "taskstore.packing.options",
    "PackReport": "taskstore.packing.report",
    "Progress": "taskstore.progress",
    "Server": "taskstore.server",
    "Store": "taskstore.store.store",
    "add": "taskstore.packing.revise",
    "attach": "taskstore.swap",
    "copy": "taskstore.packing.changes.tasks",
    "evaluate": "taskstore.harness",
    "export_ollama": "taskstore.ollama",
    "from_pretrained": "taskstore.hub.pretrained",
    "merge": "taskstore.merging.search.origins",
    "on_cluster": "taskstore.cluster",
    "open": "taskstore.store.store",
    "pack": "taskstore.packing.driver",
    "pull": "taskstore.hub.pull",
    "push": "taskstore.hub.push",
    "remove": "taskstore.packing.changes.tasks",
    "rename": "taskstore.packing.changes.tasks",
    "replace": "taskstore.packing.revise",
    "report": "taskstore.analysis.page",
    "serve": "taskstore.server",
    "tune": "taskstore.packing.search_lambda",
    "unpack": "taskstore.store.store",
    "verify": "taskstore.store.verify",
}
_OTHER_NAMES = {"replace": "replace_tasks", "report": "write_page"}  # in their homes

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'taskstore' has no attribute {name!r}")
    from importlib import import_module

    try:
        value = getattr(import_module(_HOMES[name]), _OTHER_NAMES.get(name, name))
    except ModuleNotFoundError as error:
        from taskstore.extras import lacking

        raise lacking(error, f"taskstore.{name}") or error from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
