"""What an edge and a cloud say to each other on `/v1/relay`, and how a site runs its stretch.

```
edge   Job (JSON text) [payload (binary), when job.resume]
cloud  Accepted (again while it is queued), Step, Step, ..., Done (JSON text each), payload (binary)
   or  Failed (JSON text) at any time
```
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Literal, TypeVar

from ecdiff.errors import FingerprintError, InputError, PayloadError
from ecdiff.handoff import MAX_BYTES, Payload, pack, unpack
from ecdiff.plan import Plan
from ecdiff.request import Request
from ecdiff.trajectory import (
    Family,
    Snapshot,
    StepEvent,
    Trajectory,
    can_resume,
    run_stretch,
    snapshot,
)
from ecdiff.validate import FORBID_UNKNOWN

T = TypeVar("T")
Conversion = Callable[[Trajectory, Snapshot], Snapshot]


@dataclass(frozen=True)
class Job:
    """Run the cloud's next stretch of `plan` for `request`."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    request: Request
    plan: Plan
    fingerprint: str
    resume: bool = False  # a payload follows in a binary message


@dataclass(frozen=True)
class Accepted:
    queue: int  # jobs ahead of this one
    event: Literal["accepted"] = "accepted"


@dataclass(frozen=True)
class Step:
    step: int
    timestep: float
    evaluated: bool
    event: Literal["step"] = "step"


@dataclass(frozen=True)
class Done:
    """The payload follows. `seconds` went by since the job was accepted, the queue included."""

    seconds: float
    event: Literal["done"] = "done"


@dataclass(frozen=True)
class Failed:
    code: str
    message: str
    event: Literal["error"] = "error"


Message = Accepted | Step | Done | Failed


def run_job(
    family: Family,
    fingerprint: str,
    job: Job,
    payload: bytes | None,
    max_bytes: int = MAX_BYTES,
    conversion: Conversion | None = None,
    send_conditioning: bool = False,
) -> Generator[StepEvent | bytes, None, None]:
    """The cloud's side of one job: encode, denoise one stretch, pack the handoff.

    `conversion` is the one to an edge model of another scale; `send_conditioning` is for an edge
    that has no text encoder. Yields one event a step, then the handoff's bytes.
    Raises InputError or a PayloadError for a job that this model cannot run.
    """
    states = None
    if payload is not None:
        states = unpack_for(job, fingerprint, payload, max_bytes).snapshots
    check_job(job, fingerprint, states)
    conditioning = family.encode(job.request)
    trajectories = yield from run_stretch(family, job.request, job.plan, conditioning, states)
    snapshots = [leave(family, t, conversion) for t in trajectories]
    sent = conditioning if send_conditioning else None
    yield pack("handoff", fingerprint, snapshots, max_bytes, sent)


def leave(family: Family, t: Trajectory, conversion: Conversion | None) -> Snapshot:
    """The trajectory's state as the other site's model takes it over."""
    state = snapshot(family, t)
    return state if conversion is None else conversion(t, state)


def check_job(job: Job, fingerprint: str, states: tuple[Snapshot, ...] | None = None) -> None:
    """Raises FingerprintError or InputError before any work is done."""
    if job.fingerprint != fingerprint:
        raise FingerprintError(
            f"the job is for pair {job.fingerprint[:12]}, this server has {fingerprint[:12]}: "
            "use the same --pair on both sides"
        )
    step = job.plan.start if states is None else states[0].step
    if step >= job.plan.steps or job.plan.stretch_at(step)[0] != "cloud":
        raise InputError(f"step {step} of plan {job.plan} is not the cloud's to run")


def unpack_for(job: Job, fingerprint: str, data: bytes, max_bytes: int = MAX_BYTES) -> Payload:
    """The payload, checked to belong to this very request and plan.

    Raises a PayloadError.
    """
    payload = unpack(data, fingerprint, max_bytes)
    snapshots = payload.snapshots
    if (snapshots[0].request, snapshots[0].plan) != (job.request, job.plan):
        raise PayloadError("the payload belongs to another request or plan than the job's")
    if not all(can_resume(s) for s in snapshots):
        raise PayloadError(
            f"the payload stands at step {snapshots[0].step}, among extrapolated steps, without "
            "their noise history: a handoff cannot go on there, a checkpoint can"
        )
    return payload


def check_token(token: str | None) -> None:
    """Raises InputError for a token that no HTTP header can carry: it would let nobody in."""
    if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
        raise InputError("the token is empty or not plain text: use letters and digits")


def model_thread() -> ThreadPoolExecutor:
    """The one thread of a process that loads and runs its models.

    OpenMP keeps a pool of workers for every thread that computes. With a second pool the workers
    wait asleep instead of spinning, and a small network on a CPU takes twice as long.
    """
    return ThreadPoolExecutor(1, "ecdiff-model")


@asynccontextmanager
async def in_thread(
    executor: Executor, generator: Generator[T, None, None]
) -> AsyncIterator[AsyncIterator[T]]:
    """Iterate a blocking generator on `executor`'s thread, which does not wait for the reader.

    Leaving the context stops the generator after the item at hand and waits until it has.
    """
    loop = asyncio.get_running_loop()
    left = threading.Event()
    queue: asyncio.Queue[list[T]] = asyncio.Queue()  # one item each; an empty list at the end

    def work() -> None:
        try:
            while not left.is_set() and (item := list(islice(generator, 1))):
                loop.call_soon_threadsafe(queue.put_nowait, item)
        finally:
            generator.close()
            loop.call_soon_threadsafe(queue.put_nowait, [])

    working = loop.run_in_executor(executor, work)

    async def items() -> AsyncIterator[T]:
        while item := await queue.get():
            yield item[0]
        await working  # raises what the generator raised

    try:
        yield items()
    finally:
        left.set()
        await asyncio.shield(asyncio.wait((working,)))
        if working.done() and not working.cancelled():
            working.exception()  # the reader has had it, or did not want it
