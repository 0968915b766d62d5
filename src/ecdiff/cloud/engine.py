"""One worker thread that owns the models, and the queue in front of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import torch
from PIL.Image import Image

from ecdiff import pairs
from ecdiff.cloud.limits import Limits
from ecdiff.errors import EcdiffError
from ecdiff.pairs import Pair
from ecdiff.pictures import to_pil
from ecdiff.plan import Site, cloud_only
from ecdiff.relay import Job, in_thread, leave, model_thread, run_job
from ecdiff.request import Request
from ecdiff.sources import NO_LIMIT, Memory
from ecdiff.trajectory import Family, StepEvent, run_stretch

T = TypeVar("T")
QUEUE_NOTICE = 10.0  # seconds between two words to a job that waits: silence is a lost link
log = logging.getLogger(__name__)


class BusyError(EcdiffError):
    code = "busy"


class Engine:
    """Runs jobs one after the other, first come first served, a step at a time.

    The models are loaded and used on the worker thread only, so the event loop stays free to
    see a disconnect, and closing a job stops it after the step at hand.
    """

    def __init__(
        self,
        pair: Pair,
        device: torch.device,
        dtype: torch.dtype,
        limits: Limits,
        memory: Memory = NO_LIMIT,
    ) -> None:
        self.pair = pair
        self.fingerprint = pairs.fingerprint(pair)
        self._conversion = pairs.conversion(pair, "cloud")
        self._memory = memory
        self.limits = limits
        self.ready = False  # a model has generated
        self.failure: Exception | None = None  # why none ever will
        self._device, self._dtype = device, dtype
        self._families: dict[Site, Family] = {}  # touched on the worker thread only
        self._executor = model_thread()
        self._line: list[asyncio.Event] = []  # one a job; the first is at work

    async def warm_up(self) -> None:
        """Load the cloud model and generate once, so that the first caller does not pay for it."""
        try:
            async with self.run(self._generate_once()) as steps:
                async for _ in steps:
                    pass
            self.ready = True
        except Exception as error:  # whoever runs the server decides what to do
            self.failure = error

    def _generate_once(self) -> Generator[StepEvent | bytes, None, None]:
        pair = self.pair
        request = Request("a test", pair.height, pair.width, 2.0, seeds=(0,), frames=pair.frames)
        job = Job(request, cloud_only(1), self.fingerprint)
        yield from self.relay(job, None)

    def _family(self, site: Site) -> Family:
        if site not in self._families:
            self._families[site] = pairs.load(
                self.pair, site, self._device, self._dtype, self._memory
            )
        return self._families[site]

    def relay(self, job: Job, payload: bytes | None) -> Generator[StepEvent | bytes, None, None]:
        """The cloud's stretch of a job; for `run`."""
        yield from run_job(
            self._family("cloud"),
            self.fingerprint,
            job,
            payload,
            self.limits.payload,
            self._conversion,
            send_conditioning=self.pair.embeddings == "cloud",
        )

    def generate(self, job: Job) -> Generator[StepEvent | list[Image], None, None]:
        """The whole plan on this server, then its pictures; for `run`."""
        request, plan, states = job.request, job.plan, None
        for site, _, end in plan.stretches():
            family = self._family(site)
            encoder = self._family("cloud") if self.pair.embeddings == "cloud" else family
            conditioning = encoder.encode(request)
            trajectories = yield from run_stretch(family, request, plan, conditioning, states)
            if end < plan.steps:
                crossing = pairs.conversion(self.pair, site)
                states = [leave(family, t, crossing) for t in trajectories]
        yield to_pil(family.decode(torch.cat([t.latents for t in trajectories])))

    @asynccontextmanager
    async def run(
        self,
        work: Generator[T, None, None],
        queued: Callable[[int], Awaitable[object]] | None = None,
    ) -> AsyncIterator[AsyncIterator[T]]:
        """Wait for a turn and iterate `work`; leaving the context stops it.

        `queued` is told how many jobs are ahead, again every few seconds.
        Raises BusyError when the queue is full.
        """
        if len(self._line) > self.limits.queue:
            raise BusyError(
                f"{len(self._line)} jobs are queued, the limit is {self.limits.queue}: "
                "try again later"
            )
        ticket = asyncio.Event()
        self._line.append(ticket)
        try:
            if queued is not None:
                await queued(self._line.index(ticket))
            while self._line[0] is not ticket:
                with suppress(TimeoutError):
                    async with asyncio.timeout(QUEUE_NOTICE):
                        await ticket.wait()
                if queued is not None and self._line[0] is not ticket:
                    await queued(self._line.index(ticket))
            async with in_thread(self._executor, work) as items:
                yield items
        finally:
            self._line.remove(ticket)
            if self._line:
                self._line[0].set()

    @property
    def jobs(self) -> int:
        """Waiting or at work."""
        return len(self._line)

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)
