"""The server as a process: `serve` is its inside, `local_server` starts and stops one.

The two speak through pipes. The server prints one line when it listens and one when it is ready;
with `stop_at_eof` it ends when its stdin closes, so that it never outlives who started it.
"""

from __future__ import annotations

import asyncio
import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import IO, TYPE_CHECKING

from ecdiff import pairs
from ecdiff.errors import InputError, ServeError
from ecdiff.pairs import Pair
from ecdiff.sources import NO_LIMIT, Memory

if TYPE_CHECKING:
    import socket

    import uvicorn

    from ecdiff.cloud.engine import Engine

LISTENING = re.compile(r"listening on (http://\S+)")
READY = "ready"
STARTUP = 300.0  # seconds a server of our own may take to load its model


def serve(
    pair: Pair,
    host: str,
    port: int,
    token: str | None,
    device: str | None,
    dtype: str | None,
    stop_at_eof: bool = False,
    memory: Memory = NO_LIMIT,
) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises ServeError, or what made the model fail to load."""
    servers: list[uvicorn.Server] = []  # none yet: nothing to wind down

    def stop() -> None:
        if not servers:
            os._exit(0)
        servers[0].should_exit = True

    with _on_signals(stop):
        if stop_at_eof:
            threading.Thread(target=_stop_at_eof, daemon=True).start()
        from ecdiff.cloud.engine import Engine
        from ecdiff.cloud.limits import Limits
        from ecdiff.cloud.server import bind, create_app, make_server

        where, precision = pairs.place(device, dtype, pair)
        memory.check(where.type)
        limits = Limits()
        with bind(host, port, token) as listener:
            engine = Engine(pair, where, precision, limits, memory)
            servers.append(make_server(create_app(engine, token), limits.payload))
            shown = f"[{host}]" if ":" in host else host
            _say(
                f"ecdiff: pair {pair.name}, {where}, {str(precision).removeprefix('torch.')}, "
                f"listening on http://{shown}:{listener.getsockname()[1]}"
            )
            asyncio.run(_run(servers[0], engine, listener))


async def _run(server: uvicorn.Server, engine: Engine, listener: socket.socket) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not (engine.ready or engine.failure or serving.done()):
        await asyncio.sleep(0.05)
    if engine.ready:
        _say(f"ecdiff: {READY}")
    if engine.failure:
        server.should_exit = True
    await serving
    if engine.failure:
        raise engine.failure


def _say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def _on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGINT and SIGTERM; uvicorn takes them over while it serves."""
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, lambda number, frame: stop()) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _stop_at_eof() -> None:
    """Whoever started this server is gone or done with it: there is nothing to wind down."""
    while os.read(0, 1024):
        pass
    os._exit(0)


class LocalServer:
    """A server process of our own on loopback, and the lines it prints."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str], token: str) -> None:
        self.token = token
        self._process, self._errors = process, errors
        self._deadline = time.monotonic() + STARTUP
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def url(self) -> str:
        """Wait until it listens. Raises ServeError, or InputError when the arguments are bad."""
        match = LISTENING.search(line := self._next_line())
        if match is None:
            raise ServeError(f"the local server said {line!r} instead of where it listens")
        return match[1]

    def wait_until_ready(self) -> None:
        """Raises ServeError, or InputError when the arguments are bad."""
        self._next_line()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put("")  # it has ended

    def _next_line(self) -> str:
        try:
            line = self._lines.get(timeout=max(0.0, self._deadline - time.monotonic()))
        except queue.Empty:
            raise ServeError(f"the local server was not ready after {STARTUP:g} s") from None
        if line:
            return line
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines() or [f"it ended with status {status}"]
        reason = said[-1].removeprefix("ecdiff: error: ")
        raise InputError(reason) if status == 2 else ServeError(f"the local server: {reason}")


@contextmanager
def local_server(
    pair: str, device: str | None, dtype: str | None, memory: Memory = NO_LIMIT
) -> Iterator[LocalServer]:
    """Start `ecdiff serve` on a free loopback port; on leaving, and whatever happens, stop it.

    A session of its own keeps the terminal's Ctrl-C from it, and a token keeps others out.
    """
    token = secrets.token_urlsafe(32)
    command = [sys.executable, "-P", "-m", "ecdiff", "serve", "--port=0", f"--pair={pair}"]
    command += [f"--device={device}"] if device else []
    command += [f"--dtype={dtype}"] if dtype else []
    command += [f"--{n.replace('_', '-')}" for n, wanted in asdict(memory).items() if wanted]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [*command, "--stop-at-eof"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"ECDIFF_TOKEN": token},
            start_new_session=True,
        )
        with process:
            try:
                yield LocalServer(process, errors, token)
            finally:
                process.kill()  # nothing of it is worth waiting for
