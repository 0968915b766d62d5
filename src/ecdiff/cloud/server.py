"""The HTTP and WebSocket server in front of one engine."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from ecdiff import pairs
from ecdiff.cloud.connection import InterruptedJobError, while_connected
from ecdiff.cloud.engine import BusyError, Engine
from ecdiff.cloud.images import router as images_router
from ecdiff.errors import EcdiffError, InputError, PayloadError, ServeError, TooLargeError
from ecdiff.relay import Accepted, Done, Failed, Job, Message, Step, check_job, check_token
from ecdiff.validate import parse, to_plain

log = logging.getLogger(__name__)
JOB_SECONDS = 60.0  # for a job, and its payload, to arrive
JOB_BYTES = 1 * 2**20  # a job's JSON, or an image request's body


def create_app(engine: Engine, token: str | None = None) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        warm_up = asyncio.create_task(engine.warm_up())
        yield
        warm_up.cancel()
        engine.close()

    app = FastAPI(title="ecdiff", lifespan=lifespan)
    app.state.engine = engine
    app.include_router(images_router)

    @app.middleware("http")
    async def guard(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        open_to_all = request.url.path in ("/healthz", "/readyz")
        if not open_to_all and not _allowed(request.headers.get("authorization"), token):
            return _unauthorized()
        if "transfer-encoding" in request.headers:
            return _error(411, "length_required", "send the body with a Content-Length")
        if int(request.headers.get("content-length", 0)) > JOB_BYTES:
            return _error(413, "too_large", f"the body is over the limit of {JOB_BYTES:,} bytes")
        return await call_next(request)

    @app.exception_handler(EcdiffError)
    async def refused(request: Request, error: EcdiffError) -> JSONResponse:
        return _error(_status(error), error.code, str(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        if first["type"] == "json_invalid":
            where = ""  # it is a position
        return _error(400, "bad_input", f"{where or 'body'}: {first['msg']}")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return _error(500, "internal", f"the server failed: {error}")

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "up"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        if engine.ready:
            return JSONResponse({"status": "ready"})
        return _error(503, "not_ready", str(engine.failure or "the model has not generated yet"))

    @app.get("/v1/pairs")
    async def served() -> dict[str, object]:
        return {"pairs": [pairs.describe(engine.pair)]}

    @app.websocket("/v1/relay")
    async def relay(socket: WebSocket) -> None:
        if not _allowed(socket.headers.get("authorization"), token):
            await socket.send_denial_response(_unauthorized())
            return
        await socket.accept()
        try:
            await _serve_job(socket, engine)
        except WebSocketDisconnect:
            log.info("the edge went away: its job is cancelled")

    return app


async def _serve_job(socket: WebSocket, engine: Engine) -> None:
    """One job from first message to close. A failure is told to the edge before closing."""
    try:
        async with asyncio.timeout(JOB_SECONDS):
            job = parse(Job, await _receive(socket, "text"), "job")
            engine.limits.check(job)
            if not job.resume:
                check_job(job, engine.fingerprint)  # before it takes a place in the queue
            payload = await _receive(socket, "bytes") if job.resume else None
        await while_connected(socket.receive, _stream(socket, engine, job, payload))
    except EcdiffError as error:
        await _send(socket, Failed(error.code, str(error)))
    except InterruptedJobError as interruption:
        if interruption.message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect from interruption
        said = "a message came while the job was at work: send one job a connection"
        await _send(socket, Failed(InputError.code, said))
    except WebSocketDisconnect:
        raise
    except TimeoutError:
        await _send(socket, Failed(InputError.code, f"no job came within {JOB_SECONDS:g} s"))
    except Exception as error:  # one job's failure is not the next one's
        log.exception("a job failed")
        await _send(socket, Failed("internal", f"the server failed: {error}"))
    await socket.close()


async def _stream(socket: WebSocket, engine: Engine, job: Job, payload: bytes | None) -> None:
    began = time.perf_counter()

    async def accepted(ahead: int) -> None:
        await _send(socket, Accepted(queue=ahead))

    async with engine.run(engine.relay(job, payload), accepted) as events:
        async for event in events:
            if isinstance(event, bytes):
                await _send(socket, Done(time.perf_counter() - began))
                await socket.send_bytes(event)
            else:
                await _send(socket, Step(event.step, event.timestep, event.evaluated))


async def _receive(socket: WebSocket, kind: Literal["text", "bytes"]) -> Any:
    """The next message. Raises InputError for the other kind, TooLargeError for a long text."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect
    data = message.get(kind)
    if data is None:
        due = "the job's JSON as text" if kind == "text" else "the payload in a binary message"
        raise InputError(f"a message of the wrong kind: send {due}")
    if kind == "text" and len(data) > JOB_BYTES:
        raise TooLargeError(f"the job has {len(data):,} characters: the limit is {JOB_BYTES:,}")
    return data


async def _send(socket: WebSocket, message: Message) -> None:
    await socket.send_text(json.dumps(to_plain(message)))


def _allowed(authorization: str | None, token: str | None) -> bool:
    if token is None:
        return True
    expected = f"Bearer {token}".encode()
    return hmac.compare_digest((authorization or "").encode(), expected)


def _status(error: EcdiffError) -> int:
    if isinstance(error, BusyError):
        return 429
    return 400 if isinstance(error, (InputError, PayloadError)) else 500


def _unauthorized() -> JSONResponse:
    return _error(401, "unauthorized", "a bearer token is needed: this server's own")


def _error(status: int, code: str, message: str) -> JSONResponse:
    """The body that OpenAI's clients understand."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"message": message, "type": kind, "param": None, "code": code}
    return JSONResponse({"error": body}, status_code=status)


def bind(host: str, port: int, token: str | None) -> socket.socket:
    """A listening socket. Port 0 takes a free one.

    Raises ServeError when the port is taken, InputError beyond loopback without a token.
    """
    check_token(token)
    if token is None and not _is_loopback(host):
        raise InputError(
            f"refusing to serve on {host} without a token: anyone could use the GPU. "
            "Pass --token, or --host 127.0.0.1"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ServeError(
            f"cannot listen on {host}:{port}: {error.strerror}. Choose another --host or --port"
        ) from error
    return listener


def make_server(app: FastAPI, payload_limit: int) -> uvicorn.Server:
    """A uvicorn server whose WebSocket message cap is the payload cap."""
    config = uvicorn.Config(
        app,
        ws_max_size=payload_limit,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
