"""Load a model of a store by the store's name, as transformers loads one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskstore.locations.base import PathLike
from taskstore.locations.remote.addresses import parse
from taskstore.public import public
from taskstore.store import open as open_store

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@public
def from_pretrained(
    store: PathLike, *, task: str | None = None, revision: str | None = None, **options: Any
) -> PreTrainedModel:
    """Load a task (None: the base) of a store as a transformers model; see `Store.load_model`.

    `store` is a folder, an address, or the id of a repository of the hub, at `revision`. Only what
    the task needs is fetched. `options` go to `load_model`.

    >>> model = taskstore.from_pretrained("numerals", task="roman")
    >>> type(model).__name__
    'LlamaForCausalLM'
    """
    address = parse(store)
    if address is None:
        return open_store(store).load_model(task, **options)
    place = address if revision is None else address.at(revision)
    return open_store(str(place)).load_model(task, **options)
