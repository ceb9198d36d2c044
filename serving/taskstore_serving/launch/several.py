"""Runs several API processes of vLLM over one engine, on a socket that is bound already."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from argparse import Namespace
from collections.abc import Callable

from taskstore_serving.launch.probe import until_ready


def run_several(args: Namespace, bound: socket.socket, ready: Callable[[], None]) -> bool:
    """Serve; return whether a signal ended it.

    vLLM's `run_multi_api_server` starts and ends all processes, and takes the signals. It binds a
    socket itself; ours is bound, and was announced, so the function that binds is replaced. What
    breaks it: a vLLM that renames `setup_server` there, which would find the port taken.
    """
    from vllm.entrypoints.cli import serve
    from vllm.logger import configure_logging_from_args

    configure_logging_from_args(args)
    failed = list[BaseException]()

    def look() -> None:
        try:
            asyncio.run(until_ready(args, bound, ready))
        except BaseException as error:
            failed.append(error)
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True, name="taskstore-ready").start()
    serve.setup_server = lambda *_, **__: (f"http://{args.host}:{args.port}", bound)
    try:
        serve.run_multi_api_server(args)
    except SystemExit:  # what vLLM makes of a signal
        if failed:
            raise failed[0] from None
        return True
    return False
