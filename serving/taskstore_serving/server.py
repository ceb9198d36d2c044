"""vLLM's server in this process, from parsed arguments to a clean end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from taskstore.errors import InputError, ServingFailed
from taskstore_serving.children import SCRATCH, first_error
from taskstore_serving.launch import Launch
from taskstore_serving.probe import until_ready
from taskstore_serving.refused import check_parsed


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address, port 0 taking any; raises ServingFailed where it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ServingFailed(
            f"cannot listen on {host}, port {port}: {os.strerror(error.errno or 0)}; "
            "another --port, or 0 for any that is free"
        ) from None
    return bound


def run(
    launch: Launch,
    assets: Path,
    scratch: Path,
    bound: socket.socket,
    refuse: Callable[[str], NoReturn],
    ready: Callable[[], None],
) -> None:
    """Serve until SIGINT or SIGTERM. `refuse` gets vLLM's word on arguments that it cannot parse.

    Raises InputError, ServingFailed, KeyboardInterrupt for a signal before it is ready.
    """
    os.environ |= {**launch.environment(os.environ), **_places(scratch)}
    args = _parse(launch, str(assets), os.environ, refuse)
    try:
        stopped = _run(args, bound, ready)
    except (Exception, SystemExit) as error:
        cause = first_error(scratch) or f"{type(error).__name__}: {error}"
        raise ServingFailed(f"the engine did not start: {cause}") from None
    if not stopped:
        cause = first_error(scratch) or "it was killed, perhaps for memory; start the server again"
        raise ServingFailed(f"the engine died: {cause}")


def _places(scratch: Path) -> dict[str, str]:
    """vLLM's sockets and locks go to `scratch`, and what torch compiled stays for the next time."""
    tempfile.tempdir = str(scratch)
    caches = os.path.expanduser("~/.cache/taskstore/torchinductor")
    kept = os.environ.get("TORCHINDUCTOR_CACHE_DIR", caches)
    return {"TMPDIR": str(scratch), SCRATCH: str(scratch), "TORCHINDUCTOR_CACHE_DIR": kept}


def _parse(
    launch: Launch, assets: str, env: Mapping[str, str], refuse: Callable[[str], NoReturn]
) -> Namespace:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.launchers.launcher import validate_api_server_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):
        def error(self, message: str) -> NoReturn:
            refuse(f"vLLM: {message}")

    parser = make_arg_parser(Parser(prog="taskstore serve STORE --"))
    own = parser.parse_args(launch.own_arguments(assets))
    args: Namespace = parser.parse_args(launch.arguments(assets, env))
    check_parsed(args, own)
    try:
        validate_parsed_serve_args(args)
        validate_api_server_args(args)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"vLLM: {error.args[0] if error.args else error}") from None
    return args


def _run(args: Namespace, bound: socket.socket, ready: Callable[[], None]) -> bool:
    """Whether a signal ended it."""
    import uvloop
    from vllm.logger import configure_logging_from_args
    from vllm.utils.system_utils import decorate_logs, set_ulimit

    class Loop(uvloop.Loop):
        """Knows whether a signal ended the server."""

        signalled = False

        def add_signal_handler(  # type: ignore[override]
            self, sig: int, callback: Callable[..., Any], *args: Any
        ) -> None:
            def noted() -> None:
                self.signalled = True
                callback(*args)

            super().add_signal_handler(sig, noted)

    configure_logging_from_args(args)
    decorate_logs("APIServer", skip_if_decorated=True)
    set_ulimit()
    for number in (signal.SIGINT, signal.SIGTERM):  # until the server is up and takes them over
        signal.signal(number, _interrupt)
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(_serve(args, bound, ready))
        loop: Any = runner.get_loop()
        return bool(loop.signalled)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


async def _serve(args: Namespace, bound: socket.socket, ready: Callable[[], None]) -> None:
    from vllm.entrypoints.launchers.api_server.entry import (
        build_and_serve,
        build_async_engine_client,
    )

    async with build_async_engine_client(args) as client:
        waiting = asyncio.create_task(until_ready(args, bound, ready))
        closing = await build_and_serve(client, f"{args.host}:{args.port}", bound, args)
        waiting.cancel()
    await closing
