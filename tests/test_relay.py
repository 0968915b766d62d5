from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from conftest import a_request, finish, unet_rows

from ecdiff.errors import EcdiffError, FingerprintError, InputError, PayloadError
from ecdiff.families.sd import StableDiffusion
from ecdiff.handoff import pack, unpack
from ecdiff.plan import Phase, Plan, cloud_only, edge_only, split
from ecdiff.relay import Job, check_job, in_thread, run_job, unpack_for
from ecdiff.trajectory import StepEvent, denoise, snapshot

PRINT = "a" * 64


def test_a_job_yields_its_steps_then_the_handoff(cloud_model: StableDiffusion) -> None:
    job = Job(a_request(seeds=(1, 2)), split(10, 7, 3, 2, 0.3), PRINT)
    *steps, data = run_job(cloud_model, PRINT, job, None)
    assert [e.step for e in steps if isinstance(e, StepEvent)] == list(range(7))
    assert isinstance(data, bytes)
    payload = unpack(data, PRINT)
    assert payload.kind == "handoff"
    done = finish(cloud_model, job.request, job.plan)
    for got, t in zip(payload.snapshots, done, strict=True):
        assert got.step == 7
        assert torch.equal(got.latents, t.latents)
        assert got.history == (None, None)


def test_a_job_goes_on_from_a_checkpoint(cloud_model: StableDiffusion) -> None:
    request, plan = a_request(scheduler="dpm++"), split(10, 8, 3, 2, 0.3)
    t = cloud_model.begin(request, plan, 7, cloud_model.encode(request))
    for _ in denoise(cloud_model, [t], 4):
        pass
    payload = pack("checkpoint", PRINT, [snapshot(cloud_model, t)])
    job = Job(request, plan, PRINT, resume=True)
    *_, data = run_job(cloud_model, PRINT, job, payload)
    (uncut,) = finish(cloud_model, request, plan)
    assert isinstance(data, bytes)
    assert torch.equal(unpack(data, PRINT).snapshots[0].latents, uncut.latents)


def test_a_handoff_cannot_go_on_among_extrapolated_steps(cloud_model: StableDiffusion) -> None:
    plan = split(12, 12, 3, 2, 0.3)
    job = Job(a_request(), plan, PRINT, resume=True)
    t = cloud_model.begin(job.request, plan, 7, cloud_model.encode(job.request))
    for _ in denoise(cloud_model, [t], 12):
        whole = snapshot(cloud_model, t)
        read = unpack_for(job, PRINT, pack("checkpoint", PRINT, [whole]))
        assert read.snapshots[0].step == t.step
        if t.step == 12:
            unpack_for(job, PRINT, pack("handoff", PRINT, [whole]))
            continue
        with pytest.raises(PayloadError, match=f"step {t.step}.*checkpoint"):
            unpack_for(job, PRINT, pack("handoff", PRINT, [whole]))
    reuse = Plan(12, (Phase("cloud", 12, 3, 2, rule="reuse"),))
    (t,) = finish(cloud_model, job.request, cloud_only(12))
    state = replace(snapshot(cloud_model, t), plan=reuse, step=4)
    with pytest.raises(PayloadError, match="step 4"):
        unpack_for(replace(job, plan=reuse), PRINT, pack("handoff", PRINT, [state]))


@pytest.mark.parametrize(
    ("job", "error", "message"),
    [
        (Job(a_request(), split(10, 5), "b" * 64), FingerprintError, "bbbb.*aaaa"),
        (Job(a_request(), edge_only(10), PRINT), InputError, "step 0 of plan EEEE"),
    ],
)
def test_a_job_that_is_not_ours_is_refused_before_any_work(
    job: Job, error: type[EcdiffError], message: str, cloud_model: StableDiffusion
) -> None:
    with pytest.raises(error, match=message):
        check_job(job, PRINT)
    with unet_rows(cloud_model) as rows, pytest.raises(error):
        next(run_job(cloud_model, PRINT, job, None))
    assert rows == []


def test_a_payload_of_another_job_is_refused(cloud_model: StableDiffusion) -> None:
    (t,) = finish(cloud_model, a_request(), split(4, 2))
    payload = pack("handoff", PRINT, [snapshot(cloud_model, t)])
    for job in (
        Job(a_request(guidance=1.0), split(4, 2), PRINT, True),
        Job(a_request(), split(4, 3), PRINT, True),
    ):
        with pytest.raises(PayloadError, match="another request or plan"):
            next(run_job(cloud_model, PRINT, job, payload))
    with pytest.raises(InputError, match="not the cloud's"):
        next(run_job(cloud_model, PRINT, Job(a_request(), split(4, 2), PRINT, True), payload))


def test_work_runs_on_the_executor_s_thread_and_stops_when_the_context_is_left() -> None:
    threads, closed = set(), threading.Event()

    def work() -> Iterator[int]:
        try:
            for number in range(1000):
                threads.add(threading.current_thread().name)
                time.sleep(0.001)
                yield number
        finally:
            threads.add(threading.current_thread().name)
            closed.set()

    async def main() -> list[int]:
        got = []
        async with in_thread(executor, work()) as items:  # type: ignore[arg-type]
            async for item in items:
                got.append(item)
                if item == 3:
                    break
        assert closed.is_set()
        return got

    with ThreadPoolExecutor(1, "worker") as executor:
        assert asyncio.run(main()) == [0, 1, 2, 3]
    assert {name.rsplit("_")[0] for name in threads} == {"worker"}


def test_cancelling_waits_for_the_item_at_hand_and_no_more() -> None:
    done, closed = [], threading.Event()

    def work() -> Iterator[int]:
        try:
            for number in range(1000):
                time.sleep(0.05)
                done.append(number)
                yield number
        finally:
            closed.set()

    async def main() -> None:
        async def consume() -> None:
            async with in_thread(executor, work()) as items:  # type: ignore[arg-type]
                async for _ in items:
                    pass

        task = asyncio.create_task(consume())
        while len(done) < 2:
            await asyncio.sleep(0.01)
        before = len(done)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert closed.is_set()
        assert len(done) <= before + 1

    with ThreadPoolExecutor(1) as executor:
        asyncio.run(main())


def test_an_error_of_the_work_comes_through() -> None:
    def work() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    async def main() -> None:
        async with in_thread(executor, work()) as items:  # type: ignore[arg-type]
            async for _ in items:
                pass

    with ThreadPoolExecutor(1) as executor, pytest.raises(ValueError, match="broken"):
        asyncio.run(main())
