"""vLLM's endpoint plugin: every task of the store is a model of vLLM's own OpenAI server."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from uvicorn.config import HTTP_PROTOCOLS

from taskstore.errors import InputError
from taskstore_serving.api import admin, ui
from taskstore_serving.api.answers import http_error
from taskstore_serving.api.client_errors import blame
from taskstore_serving.api.dispatch import Dispatch
from taskstore_serving.api.keys import KeyEverywhere, keys
from taskstore_serving.api.tasks import Served
from taskstore_serving.api.watch import watch
from taskstore_serving.metrics import observer
from taskstore_serving.options import ServeOptions


class TaskstoreEndpoint:
    """vLLM loads it only where VLLM_PLUGINS names `taskstore`."""

    name = "taskstore"
    required_tasks = None

    def attach_router(self, app: FastAPI) -> None:
        self._app = app
        admin.attach(app)
        ui.attach(app)
        app.add_exception_handler(HTTPException, http_error)  # vLLM handles FastAPI's alone
        app.add_middleware(Dispatch)  # the first to be added is the innermost: behind the API keys
        if tokens := keys(app.state.args):
            app.add_middleware(KeyEverywhere, tokens=tokens)

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Take over the tasks that the engine loaded.

        Raises InputError where this server cannot serve a store.
        """
        config = engine_client and engine_client.vllm_config
        if config is None or config.load_config.load_format != "taskstore":
            raise InputError(
                "the plugin taskstore serves a store: give --load-format taskstore, "
                "or leave taskstore out of VLLM_PLUGINS"
            )
        options = ServeOptions.parse(config.load_config.model_loader_extra_config)
        state.taskstore = Served(self._app, engine_client, args, options)
        blame(engine_client)  # both before clients are copied
        state.taskstore.observer = observer.install(engine_client, state.taskstore.names[0])
        await state.taskstore.start()
        peers = state.taskstore.peers
        if peers.count > 1:
            # vLLM starts these processes, and has no option for it; `launch.server` says why h11
            HTTP_PROTOCOLS["auto"] = HTTP_PROTOCOLS["h11"]
            state.taskstore_peers = asyncio.create_task(peers.follow(state.taskstore))
        if options.watch != "no" and peers.index == 0:
            following = watch(state.taskstore, new=options.watch == "all")
            state.taskstore_watch = asyncio.create_task(following)
