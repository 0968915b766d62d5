from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
import torch
from conftest import Running, a_request, finish, running, unet_rows, wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from ecdiff import pairs
from ecdiff.cloud.engine import Engine
from ecdiff.cloud.server import JOB_BYTES, bind
from ecdiff.edge.client import Network
from ecdiff.errors import InputError, ServeError
from ecdiff.families.sd import StableDiffusion
from ecdiff.handoff import pack, unpack
from ecdiff.pairs import Pair
from ecdiff.plan import cloud_only, edge_only, split
from ecdiff.relay import Job
from ecdiff.trajectory import snapshot
from ecdiff.validate import to_plain

LONG = 800  # steps: nothing waits for such a job to end


@contextmanager
def relay(server: Running, token: str | None = None) -> Iterator[ClientConnection]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    with connect(
        f"{server.ws}/v1/relay", additional_headers=headers, compression=None, close_timeout=1
    ) as link:
        yield link


def job_for(server: Running, steps: int = 4, **changes: Any) -> Job:
    return Job(a_request(**changes), cloud_only(steps), server.engine.fingerprint)


def ask(server: Running, job: Job | str | bytes, *more: bytes) -> list[Any]:
    """Every answer to a job until the server closes."""
    with relay(server) as link:
        link.send(json.dumps(to_plain(job)) if isinstance(job, Job) else job)
        for message in more:
            link.send(message)
        return [m if isinstance(m, bytes) else json.loads(m) for m in link]


def latents(server: Running, answers: list[Any]) -> torch.Tensor:
    states = unpack(answers[-1], server.engine.fingerprint).snapshots
    return torch.cat([s.latents for s in states])


def expected(model: StableDiffusion, job: Job) -> torch.Tensor:
    return torch.cat([t.latents for t in finish(model, job.request, job.plan)])


def cloud_of(server: Running) -> StableDiffusion:
    model = server.engine._families["cloud"]
    assert isinstance(model, StableDiffusion)
    return model


def test_a_job_is_answered_with_its_steps_and_its_handoff(
    server: Running, cloud_model: StableDiffusion
) -> None:
    job = replace(job_for(server, seeds=(1, 2)), plan=split(12, 9, 3, 2, 0.3))
    accepted, *steps, done, payload = ask(server, job)
    assert accepted == {"queue": 0, "event": "accepted"}
    assert [s["step"] for s in steps] == list(range(9))
    assert "".join("C" if s["evaluated"] else "x" for s in steps) == "CCCxxCxxC"
    assert {s["event"] for s in steps} == {"step"}
    assert done["event"] == "done"
    assert done["seconds"] > 0
    assert torch.equal(latents(server, [payload]), expected(cloud_model, job))


def test_a_job_may_bring_a_payload_to_go_on_from(
    server: Running, cloud_model: StableDiffusion
) -> None:
    request, plan, print_ = a_request(), split(8, 5), server.engine.fingerprint
    ends = split(8, 8)
    (t,) = finish(cloud_model, request, plan)
    state = replace(snapshot(cloud_model, t), plan=ends)
    *_, payload = ask(server, Job(request, ends, print_, True), pack("handoff", print_, [state]))
    (uncut,) = finish(cloud_model, request, ends)
    assert torch.equal(latents(server, [payload]), uncut.latents)


def test_health_readiness_and_pairs(server: Running, pair: Pair) -> None:
    assert httpx.get(f"{server.http}/healthz").json() == {"status": "up"}
    assert httpx.get(f"{server.http}/readyz").status_code == 200
    (entry,) = httpx.get(f"{server.http}/v1/pairs").json()["pairs"]
    assert entry == pairs.describe(pair)
    assert entry["fingerprint"] == pairs.fingerprint(pair)
    assert httpx.get(f"{server.http}/nothing").status_code == 404


def test_not_ready_until_a_model_has_generated(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    go, warm_up = threading.Event(), Engine._generate_once

    def held(engine: Engine) -> Iterator[object]:
        assert go.wait(30)
        yield from warm_up(engine)

    monkeypatch.setattr(Engine, "_generate_once", held)
    with running(pair, wait_ready=False) as server:
        assert httpx.get(f"{server.http}/healthz").status_code == 200
        answer = httpx.get(f"{server.http}/readyz")
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "not_ready"
        go.set()
        wait_until(lambda: httpx.get(f"{server.http}/readyz").status_code == 200)


def test_a_model_that_does_not_load_leaves_the_server_up_and_not_ready(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(engine: Engine) -> Iterator[object]:
        yield
        raise ValueError("no weights")

    monkeypatch.setattr(Engine, "_generate_once", broken)
    with running(pair, wait_ready=False) as server:
        wait_until(lambda: server.engine.failure)
        assert httpx.get(f"{server.http}/readyz").status_code == 503
        assert httpx.get(f"{server.http}/healthz").status_code == 200


def test_a_token_guards_everything_but_health(pair: Pair) -> None:
    right, body = {"Authorization": "Bearer secret"}, {"prompt": "a red house", "steps": 1}
    with running(pair, token="secret") as server:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            for answer in (
                httpx.get(f"{server.http}/v1/pairs", headers=headers),
                httpx.post(f"{server.http}/v1/images/generations", headers=headers, json=body),
            ):
                assert answer.status_code == 401
                assert answer.json()["error"]["code"] == "unauthorized"
        assert httpx.get(f"{server.http}/v1/pairs", headers=right).status_code == 200
        assert httpx.get(f"{server.http}/healthz").status_code == 200
        assert httpx.get(f"{server.http}/readyz").status_code == 200
        for token in (None, "wrong", ""):
            with pytest.raises(InvalidStatus) as refused, relay(server, token):
                pass
            assert refused.value.response.status_code == 401
        with relay(server, "secret") as link:
            link.send(json.dumps(to_plain(job_for(server, 1))))
            assert json.loads(link.recv())["event"] == "accepted"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_no_listening_beyond_loopback_without_a_token(host: str) -> None:
    with pytest.raises(InputError, match=rf"{host}.*--token"):
        bind(host, 0, None)


@pytest.mark.parametrize("token", ["", " ", "two\nlines", "gehe\u00efm"])
def test_a_token_that_lets_nobody_in_is_refused(token: str) -> None:
    with pytest.raises(InputError, match="token"):
        bind("127.0.0.1", 0, token)
    with pytest.raises(InputError, match="token"):
        Network("ws://127.0.0.1:8765", token)


@pytest.mark.parametrize(
    ("host", "token"), [("127.0.0.1", None), ("localhost", None), ("0.0.0.0", "secret")]
)
def test_listening_on_a_free_port(host: str, token: str | None) -> None:
    with bind(host, 0, token) as listener:
        assert listener.getsockname()[1] > 0


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"127.0.0.1:{port}.*--port"):
            bind("127.0.0.1", port, None)


def only_error(answers: list[Any]) -> tuple[str, str]:
    assert [a["event"] for a in answers] == ["error"], answers
    return answers[0]["code"], answers[0]["message"]


def test_a_wrong_fingerprint_is_refused_before_any_work(server: Running) -> None:
    job = replace(job_for(server), fingerprint="b" * 64)
    with unet_rows(cloud_of(server)) as rows:
        code, message = only_error(ask(server, job))
    assert code == "wrong_fingerprint"
    assert "bbbb" in message
    assert server.engine.fingerprint[:12] in message
    assert rows == []


def test_a_plan_that_gives_the_cloud_nothing_is_refused(server: Running) -> None:
    code, message = only_error(ask(server, replace(job_for(server), plan=edge_only(4))))
    assert code == "bad_input"
    assert "step 0 of plan EEEE" in message


PLAIN = to_plain(Job(a_request(), cloud_only(4), "f" * 64))


@pytest.mark.parametrize(
    ("job", "code", "message"),
    [
        ("hello", "bad_input", "JSON"),
        ("[]", "bad_input", "job"),
        ("{}", "bad_input", "request"),
        (json.dumps(PLAIN | {"extra": 1}), "bad_input", "extra"),
        (json.dumps(PLAIN | {"plan": {"steps": 3}}), "bad_plan", "0 steps in all"),
        (json.dumps(PLAIN | {"request": PLAIN["request"] | {"prompt": ""}}), "bad_input", "prompt"),
        (json.dumps(PLAIN | {"request": PLAIN["request"] | {"height": 9}}), "bad_input", "9"),
        (b"\x00\x01", "bad_input", "text"),
        ("[" * 100_000, "bad_input", "job"),
        (" " * (JOB_BYTES + 1), "payload_too_large", f"{JOB_BYTES:,}"),
    ],
)
def test_a_malformed_job_gets_one_error(
    job: str | bytes, code: str, message: str, server: Running
) -> None:
    got, text = only_error(ask(server, job))
    assert got == code
    assert message in text


def test_a_text_message_where_the_payload_is_due(server: Running) -> None:
    job = replace(job_for(server), resume=True)
    with relay(server) as link:
        link.send(json.dumps(to_plain(job)))
        link.send("not binary")
        assert only_error([json.loads(m) for m in link])[0] == "bad_input"


def test_a_garbage_payload_gets_its_own_error(server: Running) -> None:
    answers = ask(server, replace(job_for(server), resume=True), b"garbage")
    assert answers[-1]["event"] == "error"
    assert answers[-1]["code"] == "truncated_payload"


def test_a_message_out_of_turn_ends_the_job(server: Running) -> None:
    with relay(server) as link:
        link.send(json.dumps(to_plain(job_for(server, LONG))))
        link.send("and another thing")
        last = json.loads(list(link)[-1])
    assert (last["event"], last["code"]) == ("error", "bad_input")


def test_limits_name_the_value_and_the_limit(pair: Pair) -> None:
    limits = {"steps": 20, "pixels": 32 * 32, "pictures": 2, "prompt": 30, "payload": 20_000}
    with running(pair, wait_ready=False, **limits) as server:
        over = {
            "21 steps.*20": job_for(server, 21),
            "1280 pixels.*1024": job_for(server, height=40),
            "3 pictures.*2": job_for(server, seeds=(1, 2, 3)),
            "31 prompt characters.*30": job_for(server, prompt="a" * 30, negative_prompt="b"),
        }
        for message, job in over.items():
            code, text = only_error(ask(server, job))
            assert code == "bad_input"
            assert re.search(message, text)
        with relay(server) as link:
            link.send(json.dumps(to_plain(replace(job_for(server), resume=True))))
            link.send(bytes(20_001))
            with pytest.raises(ConnectionClosed):
                drain(link)
            assert link.close_code == 1009  # message too big
        assert ask(server, job_for(server, 2))[-2]["event"] == "done"


def test_a_large_body_is_refused(server: Running) -> None:
    url = f"{server.http}/v1/images/generations"
    answer = httpx.post(url, content=b" " * (JOB_BYTES + 1))
    assert answer.status_code == 413
    assert f"{JOB_BYTES:,}" in answer.json()["error"]["message"]
    chunks = (b" " for _ in range(3))  # no content-length to check
    assert httpx.post(url, content=chunks).status_code == 411


def test_closing_the_socket_cancels_at_the_next_step(server: Running) -> None:
    with unet_rows(cloud_of(server)) as rows:
        with relay(server) as link:
            link.send(json.dumps(to_plain(job_for(server, LONG))))
            while len(rows) < 3:
                link.recv(timeout=20)
        wait_until(lambda: server.engine.jobs == 0)
        seen = len(rows)
        time.sleep(0.3)
        assert len(rows) == seen < LONG
    assert ask(server, job_for(server, 2))[-2]["event"] == "done"


def test_a_vanished_client_cancels_too(server: Running) -> None:
    """No closing handshake: the connection is just gone."""
    with unet_rows(cloud_of(server)) as rows, relay(server) as link:
        link.send(json.dumps(to_plain(job_for(server, LONG))))
        link.recv(timeout=20)
        link.socket.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: server.engine.jobs == 0)
        assert len(rows) < LONG
    assert ask(server, job_for(server, 2))[-2]["event"] == "done"


def test_a_waiting_job_is_told_its_place_again(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long queue is not the silence of a lost link."""
    monkeypatch.setattr("ecdiff.cloud.engine.QUEUE_NOTICE", 0.05)
    with relay(server) as first, relay(server) as second, relay(server) as third:
        first.send(json.dumps(to_plain(job_for(server, LONG))))
        first.recv(timeout=20)
        for link, ahead in ((second, 1), (third, 2)):
            link.send(json.dumps(to_plain(job_for(server, 2))))
            for _ in range(3):
                assert json.loads(link.recv(timeout=20)) == {"queue": ahead, "event": "accepted"}
        second.close()
        while json.loads(third.recv(timeout=20))["queue"] != 1:
            pass


def test_a_connection_without_a_job_is_ended(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ecdiff.cloud.server.JOB_SECONDS", 0.05)
    with relay(server) as link:
        code, message = only_error([json.loads(link.recv(timeout=20))])
        assert code == "bad_input"
        assert "no job" in message


def test_a_waiting_job_can_leave_the_queue(server: Running) -> None:
    with relay(server) as first:
        first.send(json.dumps(to_plain(job_for(server, LONG))))
        first.recv(timeout=20)
        with relay(server) as second:
            second.send(json.dumps(to_plain(job_for(server, 2))))
            assert json.loads(second.recv(timeout=20)) == {"queue": 1, "event": "accepted"}
        wait_until(lambda: server.engine.jobs == 1)
        json.loads(first.recv(timeout=20))
    wait_until(lambda: server.engine.jobs == 0)


def test_the_queue_tells_its_length_and_has_a_limit(pair: Pair) -> None:
    with running(pair, queue=1) as server, relay(server) as first, relay(server) as second:
        first.send(json.dumps(to_plain(job_for(server, LONG))))
        assert json.loads(first.recv(timeout=20))["queue"] == 0
        second.send(json.dumps(to_plain(job_for(server, 2))))
        assert json.loads(second.recv(timeout=20))["queue"] == 1
        code, message = only_error(ask(server, job_for(server, 2)))
        assert code == "busy"
        assert "limit is 1" in message
        body = {"prompt": "a red house", "steps": 1}
        answer = httpx.post(f"{server.http}/v1/images/generations", json=body)
        assert answer.status_code == 429
        first.close()
        assert [json.loads(m)["event"] for m in second if isinstance(m, str)][-1] == "done"


def test_clients_at_once_each_get_their_own_picture(
    server: Running, cloud_model: StableDiffusion
) -> None:
    jobs = [job_for(server, 5, seeds=(seed,), prompt=f"a fish {seed}") for seed in range(4)]
    with ThreadPoolExecutor(len(jobs)) as clients:
        answers = list(clients.map(lambda job: ask(server, job), jobs))
    for job, got in zip(jobs, answers, strict=True):
        assert torch.equal(latents(server, got), expected(cloud_model, job))


@pytest.mark.parametrize("error", [ValueError("odd"), RuntimeError("out of memory"), KeyError("k")])
def test_a_failing_job_does_not_take_the_server_with_it(
    error: Exception, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = StableDiffusion.predict

    def failing(model: StableDiffusion, trajectories: Any) -> torch.Tensor:
        if trajectories[0].step == 2:
            raise error
        return predict(model, trajectories)

    monkeypatch.setattr(StableDiffusion, "predict", failing)
    *steps, last = ask(server, job_for(server))
    assert [s["event"] for s in steps] == ["accepted", "step", "step"]
    assert (last["event"], last["code"]) == ("error", "internal")
    assert str(error) in last["message"]
    body = {"prompt": "a red house", "steps": 4, "method": "cloud"}
    answer = httpx.post(f"{server.http}/v1/images/generations", json=body)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    monkeypatch.undo()
    assert ask(server, job_for(server))[-2]["event"] == "done"


def test_a_model_that_overflows_sends_no_handoff(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = StableDiffusion.step

    def overflowing(model: StableDiffusion, t: Any, noise: torch.Tensor) -> None:
        step(model, t, noise * float("nan"))

    monkeypatch.setattr(StableDiffusion, "step", overflowing)
    answers = ask(server, job_for(server))
    assert answers[-1]["event"] == "error"
    assert answers[-1]["code"] == "non_finite"


def test_stopping_ends_running_jobs_and_threads(pair: Pair) -> None:
    with running(pair) as server, relay(server) as link:
        link.send(json.dumps(to_plain(job_for(server, LONG))))
        link.recv(timeout=20)
        began = time.monotonic()
        server.stop()
        with pytest.raises(ConnectionClosed):
            drain(link)
        wait_until(lambda: not server.alive)
        assert time.monotonic() - began < 15
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", server.port))
        assert not any(thread.is_alive() for thread in server.engine._executor._threads)


def test_a_client_of_images_that_leaves_cancels_its_job(server: Running) -> None:
    body = {"prompt": "a red house", "steps": LONG, "method": "cloud"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.http}/v1/images/generations", json=body, timeout=0.5)
    wait_until(lambda: server.engine.jobs == 0, 8)


def drain(link: ClientConnection) -> None:
    while True:
        link.recv(timeout=20)
