"""A front: a second set of vLLM's serving objects, with the tokenizer and configs of some tasks.

vLLM's objects hold one tokenizer, one chat template and one generation config, and apply them to
every name. So each distinct set of assets among the tasks gets the complete objects that
`init_app_state` makes. They share the engine through a client that renders, tokenizes and
detokenizes with the set's own assets.
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections import ChainMap
from collections.abc import MutableMapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.datastructures import State
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.lora.request import LoRARequest
from vllm.renderers import renderer_from_config
from vllm.v1.engine.input_processor import InputProcessor

from taskstore.errors import InputError

_LOAD = "server_load_metrics"  # a count over all fronts
_RESPONSES = ("response_store", "response_store_lock", "msg_store", "event_store")


class TaskInputs(InputProcessor):
    """Takes a LoRARequest as the name of a task, in an engine without LoRA."""

    def _validate_lora(self, lora_request: Any) -> None:
        """Accept: a task is no adapter, so LoRA need not be enabled."""

    def _get_mm_identifier(self, mm_hash: str, lora_request: Any) -> str:
        """Name an input by its task too: encoders differ between tasks, and so do their outputs."""
        return f"{lora_request.lora_path}:{mm_hash}" if lora_request else mm_hash


def share(owner: Any, config: Any, renderer: Any) -> Any:
    """Make a client of an engine that another client owns: a copy with a renderer of its own.

    vLLM shuts an engine down with every client that is no longer needed, and when one is deleted;
    this client's `shutdown` does nothing, since the engine is the owner's.
    """
    client = copy(owner)
    client.shutdown = _leave_to_owner
    client.vllm_config, client.model_config = config, config.model_config
    client.renderer = renderer
    client.input_processor = TaskInputs(config, renderer)
    client.output_processor = copy(owner.output_processor)  # shares the requests' states
    client.output_processor.tokenizer = renderer.tokenizer
    return client


def _leave_to_owner(timeout: float | None = None) -> None:
    """Shut nothing down."""


class _FrontState(ChainMap[str, Any]):
    """Looks up a front's own objects, then those of the server."""

    def __init__(self, own: MutableMapping[str, Any], home: MutableMapping[str, Any]) -> None:
        super().__init__(own, home)
        own.pop(_LOAD, None)

    def __setitem__(self, key: str, value: Any) -> None:
        self.maps[key == _LOAD][key] = value


class Front:
    """What `request.app` is for the tasks of one set of assets."""

    def __init__(self, app: Any, state: State, client: Any, template: str) -> None:
        self.app = copy(app)
        self.app.state = State(_FrontState(state._state, app.state._state))
        self.client, self.template = client, template
        self.requests: dict[str, LoRARequest] = state.openai_serving_models.lora_requests

    def close(self, owner: Any) -> None:
        if self.client.renderer is not owner.renderer:
            self.client.renderer.shutdown()


@dataclass(frozen=True)
class ServedTask:
    """A task that is served: `store` and `digest` say which weights, `kept` how close to them.

    kept   `tier`, `fidelity` and `scores`, as /v1/models tells them
    """

    front: Front
    store: str
    digest: str
    kept: dict[str, Any]


async def build(app: Any, engine: Any, args: Namespace, folder: Path | None) -> Front:
    """Build the front of the assets in a folder; None: of the engine's own assets."""
    config, renderer = engine.vllm_config, engine.renderer
    args = copy(args)
    args.lora_modules = None
    args.served_model_name = args.served_model_name or [args.model]
    if folder is not None:
        config = _config_for(config, folder)
        renderer = await asyncio.to_thread(renderer_from_config, config)  # reads a tokenizer
        args.model = args.tokenizer = str(folder)
    client = share(engine, config, renderer)
    template = _whose_template(engine, client)
    if template == "own":
        args.chat_template = None
    state = State()
    await init_app_state(client, state, args, await engine.get_supported_tasks())
    _share_responses(app.state, state)
    return Front(app, state, client, template)


def _config_for(config: Any, folder: Path) -> Any:
    multimodal = config.model_config.multimodal_config
    if multimodal is not None and multimodal.mm_processor_cache_gb:
        raise InputError(
            "tasks with a tokenizer, template or config of their own cannot share vLLM's cache of "
            "processed images; start with --mm-processor-cache-gb 0"
        )
    config = copy(config)
    config.model_config = copy(config.model_config)
    config.model_config.model = config.model_config.tokenizer = str(folder)
    config.model_config.hf_config_path = None
    return config


def _whose_template(engine: Any, client: Any) -> str:
    mine, theirs = (getattr(c.renderer.tokenizer, "chat_template", None) for c in (client, engine))
    if mine == theirs:
        return "base" if mine else "none"
    return "own" if mine else "none"


def _share_responses(home: State, state: State) -> None:
    """Let every front know every response: /v1/responses/{id} names no model."""
    theirs = getattr(home, "openai_serving_responses", None)
    mine = getattr(state, "openai_serving_responses", None)
    if theirs is not None and mine is not None:
        for name in (*_RESPONSES, "background_tasks"):
            setattr(mine, name, getattr(theirs, name))
