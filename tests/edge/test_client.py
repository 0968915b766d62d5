from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Running, a_request, fake_server, running, wait_until
from websockets.sync.server import ServerConnection

from ecdiff import pairs
from ecdiff.edge.client import InProcess, Network, Relayed, Transport
from ecdiff.errors import (
    EcdiffError,
    FingerprintError,
    InputError,
    LinkLostError,
    LinkTimeoutError,
    RefusedError,
    UnreachableError,
)
from ecdiff.families.sd import StableDiffusion
from ecdiff.handoff import unpack
from ecdiff.pairs import Pair
from ecdiff.plan import cloud_only, split
from ecdiff.relay import Job, Step, model_thread

LONG = 800


def job_for(pair: Pair, steps: int = 4, **changes: Any) -> Job:
    return Job(a_request(**changes), cloud_only(steps), pairs.fingerprint(pair))


def collect(transport: Transport, job: Job) -> list[Step | Relayed]:
    async def main() -> list[Step | Relayed]:
        return [event async for event in transport.relay(job, None)]

    return asyncio.run(main())


def test_the_network_and_this_process_give_the_same(
    server: Running, pair: Pair, cloud_model: StableDiffusion
) -> None:
    job = Job(a_request(seeds=(1, 2)), split(9, 6, 3, 2, 0.3), pairs.fingerprint(pair))
    *far, far_end = collect(Network(server.ws), job)
    *near, near_end = collect(
        InProcess(lambda: cloud_model, pairs.fingerprint(pair), model_thread()), job
    )
    assert far == near
    assert [event.evaluated for event in near if isinstance(event, Step)] == [
        True,
        True,
        True,
        False,
        False,
        True,
    ]
    assert isinstance(far_end, Relayed)
    assert isinstance(near_end, Relayed)
    ours, theirs = (unpack(end.payload, job.fingerprint).snapshots for end in (near_end, far_end))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.latents, b.latents)
    assert far_end.sent == near_end.sent > 0
    assert far_end.received > len(far_end.payload)
    assert far_end.seconds > 0


@pytest.mark.parametrize("scheme", ["ws", "http"])
def test_either_scheme_will_do(scheme: str, server: Running, pair: Pair) -> None:
    assert collect(Network(f"{scheme}://127.0.0.1:{server.port}/"), job_for(pair, 1))


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8765",
        "ftp://host",
        "ws://",
        "",
        "cloud",
        "ws://host:99999",
        "ws://host:0",
        "ws://host:abc",
        "ws://[::1",
    ],
)
def test_a_bad_address_is_bad_input(url: str) -> None:
    with pytest.raises(InputError, match="ws://HOST:PORT"):
        Network(url)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def assert_fails(
    error: type[EcdiffError], network: Network, job: Job, seconds: float, message: str = "."
) -> EcdiffError:
    """The error of a job, which must come within `seconds`."""
    began = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        collect(network, job)
    assert type(caught.value) is error
    assert time.monotonic() - began < seconds + 2  # the machine may be busy
    return caught.value


def test_nobody_there(pair: Pair) -> None:
    port = free_port()
    network = Network(f"ws://127.0.0.1:{port}", connect_timeout=1.0)
    assert_fails(UnreachableError, network, job_for(pair), 2.0, f"127.0.0.1:{port}.*ecdiff serve")


def test_no_such_host(pair: Pair) -> None:
    assert_fails(
        UnreachableError, Network("ws://no.such.host.invalid", None, 1.0), job_for(pair), 3.0
    )


def test_a_server_that_accepts_and_says_nothing(pair: Pair) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        network = Network(f"ws://127.0.0.1:{listener.getsockname()[1]}", connect_timeout=0.5)
        assert_fails(UnreachableError, network, job_for(pair), 0.5)


def test_a_server_that_comes_up_late_is_reached(pair: Pair) -> None:
    port = free_port()
    late = threading.Event()

    def answer(link: ServerConnection) -> None:
        link.recv()
        link.send(json.dumps({"event": "error", "code": "x", "message": "reached"}))

    def serve_later() -> None:
        time.sleep(0.3)
        with fake_server(pair, answer, port):
            late.wait(20)

    thread = threading.Thread(target=serve_later)
    thread.start()
    try:
        assert_fails(RefusedError, Network(f"ws://127.0.0.1:{port}"), job_for(pair), 5.0, "reached")
    finally:
        late.set()
        thread.join()


def test_a_server_with_another_pair_is_named_before_any_work(pair: Pair) -> None:
    asked = []
    other = pairs.describe(pair) | {"fingerprint": "b" * 64, "name": "other"}
    with fake_server(pair, asked.append, entries=[other]) as port:
        job = job_for(pair)
        error = assert_fails(FingerprintError, Network(f"ws://127.0.0.1:{port}"), job, 5.0)
    assert "other (bbbbbbbbbbbb)" in str(error)
    assert job.fingerprint[:12] in str(error)
    assert asked == []


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"pairs": 3}', b'{"pairs": [3]}', b"null", b"\xff"]
)
def test_something_else_that_answers(body: bytes, pair: Pair) -> None:
    with fake_server(pair, lambda link: None, body=body) as port:
        assert_fails(
            RefusedError, Network(f"ws://127.0.0.1:{port}"), job_for(pair), 5.0, "not an ecdiff"
        )


@pytest.mark.parametrize("status", [404, 500, 302])
def test_an_error_page(status: int, pair: Pair) -> None:
    with fake_server(pair, lambda link: None, body=b"<html>", status=HTTPStatus(status)) as port:
        assert_fails(
            RefusedError, Network(f"ws://127.0.0.1:{port}"), job_for(pair), 5.0, "not an ecdiff"
        )


def test_the_token(pair: Pair) -> None:
    with running(pair, token="secret") as server:
        for token in (None, "wrong"):
            error = assert_fails(
                RefusedError, Network(server.ws, token), job_for(pair), 5.0, "bearer"
            )
            assert isinstance(error, RefusedError)
            assert error.remote_code == "unauthorized"
        known = Network(server.ws, "wrong")
        known._checked = pairs.fingerprint(pair)  # so that the WebSocket itself is asked
        assert_fails(RefusedError, known, job_for(pair), 5.0, "bearer")
        assert collect(Network(server.ws, "secret"), job_for(pair, 1))


def test_an_error_of_the_server_s_own(server: Running, pair: Pair) -> None:
    error = assert_fails(RefusedError, Network(server.ws), job_for(pair, 1001), 5.0, "1001 steps")
    assert isinstance(error, RefusedError)
    assert error.remote_code == "bad_input"


Behaviour = Callable[[ServerConnection], object]


def says(*messages: str | bytes) -> Behaviour:
    def behave(link: ServerConnection) -> None:
        link.recv()
        for message in messages:
            link.send(message)

    return behave


def not_utf8(link: ServerConnection) -> None:
    link.recv()
    link.send(b"\xff\xfe", text=True)


STEP = '{"event": "step", "step": 0, "timestep": 1.0, "evaluated": true}'


@pytest.mark.parametrize(
    "behave",
    [
        says("hello"),
        says("[]"),
        says("{}"),
        says('{"event": "party"}'),
        says(STEP, STEP.replace("0", '"zero"', 1)),
        says("[" * 100_000),
    ],
)
def test_answers_that_make_no_sense(behave: Behaviour, pair: Pair) -> None:
    with fake_server(pair, behave) as port:
        assert_fails(
            RefusedError, Network(f"ws://127.0.0.1:{port}"), job_for(pair), 5.0, "ecdiff server"
        )


@pytest.mark.parametrize(
    "behave", [says(), says(STEP), says('{"event": "done", "seconds": 1}'), not_utf8]
)
def test_a_server_that_hangs_up_without_a_handoff(behave: Behaviour, pair: Pair) -> None:
    with fake_server(pair, behave) as port:
        assert_fails(
            LinkLostError, Network(f"ws://127.0.0.1:{port}"), job_for(pair), 5.0, "was lost"
        )


SERVE = """
import sys, torch
from ecdiff import pairs
from ecdiff.cloud.engine import Engine
from ecdiff.cloud.limits import Limits
from ecdiff.cloud.server import bind, create_app, make_server

pair = pairs.resolve(sys.argv[1])
listener = bind("127.0.0.1", 0, None)
print(listener.getsockname()[1], flush=True)
engine = Engine(pair, torch.device("cpu"), torch.float32, Limits())
make_server(create_app(engine), Limits().payload).run(sockets=[listener])
"""


@contextmanager
def server_process(folder: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-c", SERVE, folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def signalled(network: Network, pair: Pair, process: subprocess.Popen[str], number: int) -> float:
    """Signal the server after the job's second step; seconds from there to the job's error."""
    sent = []

    async def main() -> None:
        async for event in network.relay(job_for(pair, LONG), None):
            if isinstance(event, Step) and event.step == 1:
                process.send_signal(number)
                sent.append(time.monotonic())

    error = LinkTimeoutError if number == signal.SIGSTOP else LinkLostError
    with pytest.raises(error):
        asyncio.run(main())
    return time.monotonic() - sent[0]


def test_a_server_that_hangs_or_dies_midway(pair: Pair, pair_folder: Path) -> None:
    with server_process(str(pair_folder)) as (process, port):
        network = Network(f"ws://127.0.0.1:{port}", connect_timeout=60.0, read_timeout=60.0)
        collect(network, job_for(pair, 1))  # the model is loaded
        network._read_timeout = 2.0
        assert signalled(network, pair, process, signal.SIGSTOP) < 2.0 + 1.0 + 2.0
        process.send_signal(signal.SIGCONT)
        assert signalled(network, pair, process, signal.SIGKILL) < 2.0


def test_closing_the_iterator_cancels_the_job(server: Running, pair: Pair) -> None:
    async def main() -> None:
        async with aclosing(Network(server.ws).relay(job_for(pair, LONG), None)) as events:  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, Step) and event.step == 2:
                    return

    asyncio.run(main())
    wait_until(lambda: server.engine.jobs == 0)
    assert collect(Network(server.ws), job_for(pair, 1))


def test_the_pair_is_checked_once(server: Running, pair: Pair) -> None:
    network = Network(server.ws)
    collect(network, job_for(pair, 1))
    network._http = "http://127.0.0.1:9"  # nobody there, and nobody asks
    assert collect(network, job_for(pair, 1))


def test_in_process_loads_the_model_once_when_first_needed(
    pair: Pair, cloud_model: StableDiffusion
) -> None:
    loads = []

    def load() -> StableDiffusion:
        loads.append(threading.current_thread().name)
        return cloud_model

    transport = InProcess(load, pairs.fingerprint(pair), model_thread())
    assert loads == []
    for _ in range(2):
        collect(transport, job_for(pair, 1))
    assert len(loads) == 1
    assert loads[0].startswith("ecdiff-model")
