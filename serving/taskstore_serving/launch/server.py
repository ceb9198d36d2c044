"""Runs vLLM's server in this process, from parsed arguments to a clean end."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from taskstore.errors import InputError, ServingFailed, TaskstoreError
from taskstore_serving.checks.command_line import check_parsed
from taskstore_serving.launch.arguments import Launch
from taskstore_serving.launch.children import SCRATCH, first_error
from taskstore_serving.launch.probe import until_ready
from taskstore_serving.launch.several import run_several

_LONGEST = 65  # of a folder for sockets, whose paths may have about 100 characters


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket; port 0 takes any. Raises ServingFailed where the address is taken."""
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
    """Serve until SIGINT or SIGTERM.

    `refuse` is given what vLLM says of arguments that it cannot parse, `ready` is called when the
    server answers. A signal before that ends the process with status 130. Raises InputError,
    ServingFailed.
    """
    os.environ |= {**launch.environment(os.environ), **_places(scratch)}
    args = _parse(launch, str(assets), os.environ, refuse)
    several = (args.api_server_count or 1) > 1
    try:
        stopped = (run_several if several else _run)(args, bound, ready)
    except TaskstoreError:
        raise
    except (Exception, SystemExit) as error:
        cause = first_error(scratch) or f"{type(error).__name__}: {error}"
        raise ServingFailed(f"the engine did not start: {cause}") from None
    if not stopped:
        cause = first_error(scratch) or "it was killed, perhaps for memory; start the server again"
        raise ServingFailed(f"the engine died: {cause}")


def _places(scratch: Path) -> dict[str, str]:
    """Variables that put sockets and locks in `scratch`, and keep what torch compiled."""
    if len(str(scratch)) > _LONGEST:
        return {SCRATCH: str(scratch)}
    tempfile.tempdir = str(scratch)
    caches = os.path.expanduser("~/.cache/taskstore/torchinductor")
    kept = os.environ.get("TORCHINDUCTOR_CACHE_DIR", caches)
    return {"TMPDIR": str(scratch), SCRATCH: str(scratch), "TORCHINDUCTOR_CACHE_DIR": kept}


def _parse(
    launch: Launch, assets: str, env: Mapping[str, str], refuse: Callable[[str], NoReturn]
) -> Namespace:
    from vllm.entrypoints.launchers.launcher import validate_api_server_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):
        def error(self, message: str) -> NoReturn:
            refuse(f"vLLM: {message}")

    cli_args = _cli_args()
    parser = cli_args.make_arg_parser(Parser(prog="taskstore serve STORE --"))
    own = parser.parse_args(launch.own_arguments(assets))
    args: Namespace = parser.parse_args(launch.arguments(assets, env))
    check_parsed(args, own)
    try:
        cli_args.validate_parsed_serve_args(args)
        validate_api_server_args(args)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"vLLM: {error.args[0] if error.args else error}") from None
    return args


def _cli_args() -> Any:
    """vLLM's module of its server's options."""
    try:
        from vllm.entrypoints.common import cli_args  # from 0.33 on
    except ImportError:
        from vllm.entrypoints.launchers import cli_args
    return cli_args


def _run(args: Namespace, bound: socket.socket, ready: Callable[[], None]) -> bool:
    """Serve; return whether a signal ended it."""
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
        signal.signal(number, _give_up)
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(_serve(args, bound, ready))
        loop: Any = runner.get_loop()
        return bool(loop.signalled)


def _give_up(*_: object) -> NoReturn:
    """End at once: vLLM loses a KeyboardInterrupt while it waits for its engine to start."""
    for child in multiprocessing.active_children():
        child.kill()
    shutil.rmtree(os.environ[SCRATCH], ignore_errors=True)
    os.write(2, b"stopped before it was ready\n")
    os._exit(130)


async def _serve(args: Namespace, bound: socket.socket, ready: Callable[[], None]) -> None:
    from vllm.entrypoints.launchers.api_server.entry import (
        build_and_serve,
        build_async_engine_client,
    )

    async with build_async_engine_client(args) as client:
        waiting = asyncio.create_task(until_ready(args, bound, ready))
        where = f"{args.host}:{args.port}"
        # h11, since vLLM's limit of a request's head has no effect on httptools, which has none
        serving = asyncio.create_task(build_and_serve(client, where, bound, args, http="h11"))
        await asyncio.wait({waiting, serving}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done() and waiting.exception():
            serving.cancel()
        closing = await serving
        waiting.cancel()
    await closing
    with suppress(asyncio.CancelledError):
        await waiting
