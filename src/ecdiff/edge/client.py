"""Transports: how a job reaches the cloud. One method each, so that a test can bring its own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit

import httpx
import tenacity
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from ecdiff.errors import (
    FingerprintError,
    InputError,
    LinkLostError,
    LinkTimeoutError,
    RefusedError,
    UnreachableError,
)
from ecdiff.handoff import MAX_BYTES
from ecdiff.relay import (
    Accepted,
    Conversion,
    Done,
    Failed,
    Job,
    Message,
    Step,
    check_token,
    in_thread,
    run_job,
)
from ecdiff.trajectory import Family
from ecdiff.validate import parse, to_plain

SCHEMES = ("ws", "wss", "http", "https")


@dataclass(frozen=True)
class Relayed:
    """The end of a job: the handoff's bytes and what it took."""

    payload: bytes
    seconds: float  # in the cloud, its queue included
    sent: int  # bytes, both ways without protocol framing
    received: int


class Transport(Protocol):
    def relay(self, job: Job, payload: bytes | None) -> AsyncIterator[Step | Relayed]:
        """Run a job in the cloud: its steps as they finish, then the handoff.

        Closing the iterator cancels the job. Raises LinkError, or what the job itself raises.
        """
        ...


class InProcess:
    """The cloud in this process, on the edge's model thread. `load` is called when first needed."""

    def __init__(
        self,
        load: Callable[[], Family],
        fingerprint: str,
        executor: Executor,
        conversion: Conversion | None = None,
        send_conditioning: bool = False,
    ) -> None:
        """The last two as in `run_job`."""
        self._load, self._fingerprint = load, fingerprint
        self._conversion, self._send_conditioning = conversion, send_conditioning
        self._family: Family | None = None
        self._executor = executor

    async def relay(self, job: Job, payload: bytes | None) -> AsyncIterator[Step | Relayed]:
        if self._family is None:
            loop = asyncio.get_running_loop()
            self._family = await loop.run_in_executor(self._executor, self._load)
        began = time.perf_counter()
        work = run_job(
            self._family,
            self._fingerprint,
            job,
            payload,
            conversion=self._conversion,
            send_conditioning=self._send_conditioning,
        )
        async with in_thread(self._executor, work) as events:
            async for event in events:
                if isinstance(event, bytes):
                    seconds = time.perf_counter() - began
                    sent = len(json.dumps(to_plain(job))) + len(payload or b"")
                    yield Relayed(event, seconds, sent, len(event))
                else:
                    yield Step(event.step, event.timestep, event.evaluated)


class Network:
    """The cloud behind `ws://`, `wss://`, `http://` or `https://` HOST[:PORT].

    `connect_timeout` bounds reaching the server, retries included; `read_timeout` bounds the
    silence between two messages. Both in seconds.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
    ) -> None:
        parts = _address(url)
        check_token(token)
        secure = "s" if parts.scheme in ("wss", "https") else ""
        root = f"{parts.netloc}{parts.path.rstrip('/')}"
        self._http, self._ws = f"http{secure}://{root}", f"ws{secure}://{root}"
        self._proxied = parts.hostname not in ("127.0.0.1", "::1", "localhost")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._connect_timeout, self._read_timeout = connect_timeout, read_timeout
        self._checked: str | None = None  # the fingerprint this server is known to serve

    async def pairs(self) -> list[dict[str, Any]]:
        """The entries of `GET /v1/pairs`. Raises LinkError."""
        async with httpx.AsyncClient(
            base_url=self._http,
            headers=self._headers,
            timeout=self._connect_timeout,
            trust_env=self._proxied,
        ) as client:
            response = await self._reach(lambda: client.get("/v1/pairs"))
        if response.status_code != 200:
            raise _refusal(self._http, response.content)
        try:
            return [dict(entry) for entry in response.json()["pairs"]]
        except (ValueError, KeyError, TypeError) as error:
            raise RefusedError(f"{self._http} is not an ecdiff server") from error

    async def relay(self, job: Job, payload: bytes | None) -> AsyncIterator[Step | Relayed]:
        await self.check_pair(job.fingerprint)
        socket = await self._reach(self._open)
        try:
            async with socket:
                text = json.dumps(to_plain(job))
                await socket.send(text)
                if payload is not None:
                    await socket.send(payload)
                sent, received, seconds = len(text.encode()) + len(payload or b""), 0, 0.0
                while True:
                    data = await self._receive(socket)
                    received += len(data)
                    if isinstance(data, bytes):
                        yield Relayed(data, seconds, sent, received)
                        return
                    message = _read(data)
                    if isinstance(message, Step):
                        yield message
                    elif isinstance(message, Done):
                        seconds = message.seconds
        except ConnectionClosed as error:
            raise LinkLostError(
                f"the connection to {self._ws} was lost: {error}. Check the server and try again"
            ) from error

    async def check_pair(self, fingerprint: str) -> None:
        """Raises FingerprintError where the server has another pair, LinkError."""
        if self._checked == fingerprint:
            return
        entries = await self.pairs()
        if all(entry.get("fingerprint") != fingerprint for entry in entries):
            served = ", ".join(
                f"{entry.get('name')} ({str(entry.get('fingerprint'))[:12]})" for entry in entries
            )
            raise FingerprintError(
                f"{self._http} serves pair {served}, this side has {fingerprint[:12]}: "
                "use the same --pair, and the same version of it, on both sides"
            )
        self._checked = fingerprint

    async def _open(self) -> ClientConnection:
        return await connect(
            f"{self._ws}/v1/relay",
            additional_headers=self._headers,
            open_timeout=self._connect_timeout,
            proxy=True if self._proxied else None,
            max_size=MAX_BYTES + 2**20,
            compression=None,  # latents do not compress
            close_timeout=1.0,  # a server that hangs does not answer the goodbye either
        )

    async def _receive(self, socket: ClientConnection) -> str | bytes:
        try:
            async with asyncio.timeout(self._read_timeout):
                return await socket.recv()
        except TimeoutError as error:
            raise LinkTimeoutError(
                f"{self._ws} was silent for {self._read_timeout:g} s: the link or the server hangs"
            ) from error

    async def _reach(self, attempt: Callable[[], Any]) -> Any:
        """Try with growing pauses until it connects or `connect_timeout` is over."""
        try:
            async for trial in tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception_type((httpx.ConnectError, ConnectionError)),
                wait=tenacity.wait_exponential(0.1, max=1.0) + tenacity.wait_random(0, 0.1),
                stop=tenacity.stop_after_attempt(4)
                | tenacity.stop_after_delay(self._connect_timeout),
                reraise=True,
            ):
                with trial:
                    return await attempt()
        except InvalidStatus as error:
            raise _refusal(self._ws, error.response.body) from error
        except (httpx.HTTPError, OSError, InvalidHandshake) as error:
            raise UnreachableError(
                f"cannot reach {self._http}: {str(error) or type(error).__name__}. "
                "Is `ecdiff serve` running there?"
            ) from error


def _address(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        good = parts.scheme in SCHEMES and parts.hostname and parts.port != 0
    except ValueError:  # no port or host could be that
        good = False
    if not good:
        raise InputError(f"cloud address {url!r}: use ws://HOST:PORT or wss://HOST")
    return parts


def _read(text: str) -> Accepted | Step | Done:
    try:
        message: Message = parse(Message, text, "the server's message")  # type: ignore[arg-type]
    except InputError as error:
        raise RefusedError(f"this is not how an ecdiff server answers: {error}") from error
    if isinstance(message, Failed):
        raise RefusedError(f"the server refused: {message.message}", message.code)
    return message


def _refusal(url: str, body: bytes | bytearray | None) -> RefusedError:
    try:
        error = json.loads(body or b"")["error"]
        return RefusedError(f"{url} refused: {error['message']}", str(error["code"]))
    except (ValueError, KeyError, TypeError):
        return RefusedError(f"{url} is not an ecdiff server, or does not answer as one")
